"""The runs of a comparison: their tracked numbers, the values per image of their reports, and whether these compare.

Nothing is measured here. Whatever would make two numbers incomparable is refused with one line that names it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geovq.comparison.columns import OPTIONAL
from geovq.errors import ArtifactError, ConfigError
from geovq.pipeline.artifacts import Artifact, ArtifactStore

if TYPE_CHECKING:
    from torch import Tensor

    from geovq.tracking import RunRecord

RATES = {name: f"rate_{name}_bits_per_image" for name in ("nominal", "unigram", "prior")}
BY_CLASSIFIER = ("perceptual", "fid", "kid", "precision", "recall")
"""In a list of metrics: ``perceptual_<data>_cnn`` and so on, whatever the data set."""

ALWAYS_READ = ("psnr", "psnr_pooled", RATES["nominal"], "n_test_images")
CHOOSE_TEST_IMAGES = tuple(
    f"data.{name}" for name in ("name", "test_fraction", "image_size", "channels", "limit", "split_seed")
)
_PICTURES = "pictures"
_AGREEMENT_DB = 1e-3
"""Tracked means and means of the values per image are computed in different precisions."""

# Metrics whose numbers are in units of a network or of a sample size: what must be equal for them to compare.
_MEASURED_BY = (
    (("perceptual_", "label_agreement", "sample_class_accuracy"), ("artifact.classifier",)),
    (("fid_", "kid_", "precision_", "recall_"), ("artifact.classifier", "evaluation.n_samples")),
    (("lpips",), ("evaluation.lpips_net",)),
)


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A recorded run and the report that its numbers come from."""

    record: RunRecord
    report: Artifact
    fingerprint: str | None

    @property
    def title(self) -> str:
        """Name and short id, for people."""
        return title_of(self.record)

    @property
    def seed(self) -> int:
        """The run's own seed."""
        return int(self.record.params["seed"])

    @property
    def seeds(self) -> dict[str, str]:
        """Every seed that the training depended on; runs of equal seeds are paired."""
        return {key: value for key, value in self.record.params.items() if is_training_seed(key)}

    @property
    def autoencoder(self) -> str:
        """Key of the artifact that reconstructions without quantization come from."""
        inputs = self.report.manifest.get("inputs", {})
        return str(inputs.get("latents") or inputs.get("vae") or self.record.run_id)

    @property
    def is_joint(self) -> bool:
        """Whether the autoencoder was trained together with its quantizer."""
        return "joint" in self.report.manifest.get("inputs", {})

    def metric_name(self, name: str) -> str:
        """The tracked name of a metric."""
        base, separator, suffix = name.partition("_continuous")
        return f"{base}_{self.record.tags['data']}_cnn{separator}{suffix}" if base in BY_CLASSIFIER else name

    def metric(self, name: str) -> float | None:
        """A tracked metric, None where the run's report left it out."""
        return self.record.metrics.get(self.metric_name(name))

    def omitted(self, name: str) -> str | None:
        """Why the report left a metric out."""
        return self.record.tags.get(f"omitted.{self.metric_name(name)}")

    @cached_property
    def per_image(self) -> dict[str, Tensor]:
        """Values per test image, (N,) each."""
        return self.report.tensors("per_image")

    @cached_property
    def pictures(self) -> dict[str, Tensor] | None:
        """``index`` (n,) of test images and their bytes (n, C, H, W) as ``original``, ``quantized`` and, where the
        run has a reconstruction without quantization, ``continuous``; None in reports that hold none.
        """
        return self.report.tensors(_PICTURES) if self.report.has(f"{_PICTURES}.safetensors") else None

    def setting(self, key: str) -> str | None:
        """A parameter or a tag."""
        return self.record.params.get(key, self.record.tags.get(key))


def title_of(record: RunRecord) -> str:
    """Name and short id, for people."""
    return f"{record.name} ({record.run_id[:8]})"


def is_training_seed(key: str) -> bool:
    """Whether a parameter is a seed of networks, graph, codebook or samples: the split and the evaluation have
    their own, which do not make another training.
    """
    return key.rsplit(".", 1)[-1] == "seed" and key != "evaluation.seed"


def read_runs(
    records: Sequence[RunRecord], root: Path, metrics: Sequence[str], rate: str
) -> tuple[list[ComparedRun], list[str]]:
    """The runs to compare, each report once, checked; and a note on those that repeat a report.

    Args:
        records: as found; where several share one report (the same command given again), the last stands for all.
        root: the experiments root, which holds the artifacts.
        metrics: names that are to be shown.
        rate: ``nominal``, ``unigram`` or ``prior``.

    Raises:
        ConfigError: runs without a report, without a metric, or of different test images or measures.
        ArtifactError: a report is gone, damaged, or not the one that the run recorded.
    """
    for record in records:
        _check_finished(record)
    by_report = {record.tags["artifact.report"]: record for record in records}
    runs = [_open(record, root) for record in by_report.values()]
    names = dict.fromkeys((*ALWAYS_READ, RATES[rate], *metrics))
    for run in runs:
        for name in names:
            _check_metric(run, name, rate)
    check_same_images(runs)
    for name in names:
        check_same_measure(runs, name)
    for run in runs:
        _check_report(run)
    kept = {run.record.run_id for run in runs}
    repeated = list(dict.fromkeys(record.run_id for record in records if record.run_id not in kept))
    notes = [f"Runs that read the same report as another count once: {', '.join(i[:8] for i in repeated)}."]
    return runs, notes if repeated else []


def _check_finished(record: RunRecord) -> None:
    kind = record.tags.get("geovq.kind")
    if kind not in ("train", "evaluate") or "artifact.report" not in record.tags:
        raise ConfigError(
            f"runs: {title_of(record)} has geovq.kind={kind} and no report; take runs of kind train or evaluate, which "
            "have one"
        )
    if record.status != "FINISHED":
        raise ConfigError(
            f"runs: {title_of(record)} has status={record.status}; take finished runs (the same train command goes on "
            "where it was)"
        )


def _open(record: RunRecord, root: Path) -> ComparedRun:
    store = ArtifactStore(root)
    directory = store.directory("report", record.tags["artifact.report"])
    if not directory.is_dir():
        raise ArtifactError(
            f"run {title_of(record)}: its report {directory} is gone; set paths.root to where it is, or build it "
            f"again: python src/evaluate.py run={record.run_id[:12]}"
        )
    report = Artifact(directory)
    report.verify()
    inputs = report.manifest.get("inputs", {})
    return ComparedRun(record, report, _fingerprint(store.directory(stage, key) for stage, key in inputs.items()))


def _fingerprint(inputs: Iterable[Path]) -> str | None:
    """Fingerprint of the images, from the manifest of any stage that reads them; None where all are gone."""
    for directory in inputs:
        try:
            settings: dict[str, Any] = Artifact(directory).manifest["settings"]
        except (ArtifactError, KeyError):
            continue
        if "data" in settings:
            return str(settings["data"]["fingerprint"])
    return None


def _check_metric(run: ComparedRun, name: str, rate: str) -> None:
    if run.metric(name) is not None or name in OPTIONAL:
        return
    if name not in (*ALWAYS_READ, RATES[rate]) and run.omitted(name):
        return
    tracked = run.metric_name(name)
    again = f"measure it: python src/evaluate.py run={run.record.run_id[:12]}"
    if name == RATES[rate] and rate != "nominal":
        reason = run.omitted(name)
        raise ConfigError(
            f"rate={rate}: run {run.title} lacks {tracked} ({reason or 'unknown why'}); take rate=nominal"
        )
    if name in ALWAYS_READ:
        raise ConfigError(f"run {run.title} lacks the metric {tracked}, which every comparison needs; {again}")
    near = get_close_matches(tracked, run.record.metrics, n=2)
    there = f" (it has {' and '.join(near)})" if near else ""
    raise ConfigError(
        f"metrics: run {run.title} lacks {tracked}{there}; leave {name} out of metrics=[…] (docs/metrics.md lists the "
        f"names), or {again}"
    )


def check_same_images(runs: Sequence[ComparedRun]) -> None:
    """Refuse runs whose reports are on other test images than the first one's.

    Raises:
        ConfigError: naming the first difference.
    """
    first = runs[0]
    for run in runs[1:]:
        for key in CHOOSE_TEST_IMAGES:
            _check_equal(first, run, key, first.setting(key), run.setting(key))
        known = first.fingerprint is not None and run.fingerprint is not None
        if known and first.fingerprint != run.fingerprint:
            raise ConfigError(
                f"data.path={first.setting('data.path')} had other content in run {first.title} than "
                f"data.path={run.setting('data.path')} in run {run.title}; compare runs on the same images"
            )
        counts = [f"{each.metric('n_test_images'):g}" for each in (first, run)]
        _check_equal(first, run, "n_test_images", *counts)


def _check_equal(first: ComparedRun, other: ComparedRun, key: str, a: str | None, b: str | None) -> None:
    if a != b:
        remedy = f"such as query=\"params.`{key}` = '{a}'\"" if key.startswith("data.") else "by naming them: runs=[…]"
        raise ConfigError(
            f"{key}={a} in run {first.title}, {key}={b} in run {other.title}: a comparison is on the same test images; "
            f"take runs of one value, {remedy}"
        )


def check_same_measure(runs: Sequence[ComparedRun], name: str) -> None:
    """Refuse a metric that the runs measured by different networks or on different numbers of samples.

    Raises:
        ConfigError: naming the setting, its values and the metric to leave out.
    """
    having = [run for run in runs if run.metric(name) is not None]
    for run in having[1:]:
        keys = next((keys for stems, keys in _MEASURED_BY if run.metric_name(name).startswith(stems)), ())
        for key in keys:
            a, b = having[0].setting(key), run.setting(key)
            if a != b:
                raise ConfigError(
                    f"{key}={a} in run {having[0].title}, {key}={b} in run {run.title}: {name} does not compare; leave "
                    "it out of metrics=[…], or measure both runs alike"
                )


def _check_report(run: ComparedRun) -> None:
    """The values per image must be those behind the tracked mean."""
    tracked, values = run.record.metrics["psnr"], run.per_image["psnr"].double()
    mean, n_images = float(values.mean()), int(run.record.metrics["n_test_images"])
    if len(values) != n_images or not math.isclose(tracked, mean, rel_tol=0, abs_tol=_AGREEMENT_DB):
        raise ArtifactError(
            f"run {run.title} recorded psnr={tracked:.4f} of {n_images} images, its report {run.report.directory} "
            f"holds {len(values)} images of {mean:.4f} in the mean; its train command, given again, records it anew"
        )
