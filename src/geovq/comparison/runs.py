"""The runs of a comparison: which they are, their tracked scores, the values per image of their reports, and whether
these compare.

Nothing is measured here. Whatever would make two numbers incomparable is refused with one line that names it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from geovq.configuration.sections import Tracking
from geovq.errors import ArtifactError, ConfigError
from geovq.evaluation.evaluator import UNQUANTIZED
from geovq.evaluation.generation import ERROR, RECONSTRUCTIONS, TEST, TRAINING
from geovq.pipeline.artifacts import Artifact, ArtifactStore
from geovq.tracking import RunRecord, find_run
from geovq.tracking.search import find_runs, last_sweep

if TYPE_CHECKING:
    from torch import Tensor

RATES = {name: f"rate_{name}_bits_per_image" for name in ("nominal", "unigram", "prior")}
BY_CLASSIFIER = ("perceptual", "rfid", "fid", "prior_fid", "kid", "precision", "recall", "density", "coverage", "is")
"""In a list of metrics: ``perceptual_<data>_cnn`` and so on, whatever the data set."""
_ENDINGS = {
    base: tuple(base + end for end in (UNQUANTIZED, TRAINING, RECONSTRUCTIONS, ERROR, TEST)) for base in BY_CLASSIFIER
}

OPTIONAL = ("psnr_validation", "search_gain_db", "encoding_milliseconds_per_image")
"""Metrics that older runs lack without a reason of their own; where no run has one, there is no column for it."""

CHOOSE_TEST_IMAGES = tuple(
    f"data.{name}" for name in ("name", "test_fraction", "image_size", "channels", "limit", "split_seed")
)
_ALWAYS_READ = ("psnr", "psnr_pooled", RATES["nominal"], "n_test_images")
_AGREEMENT_DB = 1e-3
"""Tracked means and means of the values per image are computed in different precisions."""

# Scores whose numbers are in units of a network or of a sample size: what must be equal for them to compare.
_MEASURED_BY = (
    (("perceptual_", "label_agreement", "sample_class_accuracy"), ("artifact.classifier",)),
    (("fid_inception", "kid_inception", "is_inception"), ("evaluation.n_samples",)),
    (
        ("fid_", "kid_", "precision_", "recall_", "density_", "coverage_", "is_", "prior_fid_", "sample_copies"),
        ("artifact.classifier", "evaluation.n_samples"),
    ),
    (("rfid_",), ("artifact.classifier",)),
    (("lpips",), ("evaluation.lpips_net",)),
)


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A recorded run, the report that its numbers come from, and the fingerprint of the images where it is known."""

    record: RunRecord
    report: Artifact
    fingerprint: str | None

    @property
    def title(self) -> str:
        """Name and short id, for people."""
        return self.record.title

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
        """Key of the artifact that the unquantized reconstruction comes from."""
        inputs = self.report.manifest.get("inputs", {})
        return str(inputs.get("latents") or inputs.get("vae") or self.record.run_id)

    @property
    def is_joint(self) -> bool:
        """Whether the autoencoder was trained together with its quantizer."""
        return "joint" in self.report.manifest.get("inputs", {})

    def metric_name(self, name: str) -> str:
        """The tracked name of a metric."""
        base = next((each for each in BY_CLASSIFIER if name == each or name.startswith(_ENDINGS[each])), None)
        return f"{base}_{self.record.tags['data']}_cnn{name.removeprefix(base)}" if base else name

    def metric(self, name: str) -> float | None:
        """A tracked metric, None where the run's report left it out."""
        return self.record.metrics.get(self.metric_name(name))

    def omitted(self, name: str) -> str | None:
        """Why the report left a metric out."""
        return self.record.tags.get(f"omitted.{self.metric_name(name)}")

    def setting(self, key: str) -> str | None:
        """A parameter or a tag."""
        return self.record.params.get(key, self.record.tags.get(key))

    @cached_property
    def psnr_per_image(self) -> Tensor:
        """PSNR of each test image in dB, (N,) float64."""
        return self.report.tensors("per_image")["psnr"].double()

    @cached_property
    def pictures(self) -> dict[str, Tensor]:
        """``index`` (n,) of test images and their bytes (n, C, H, W) as ``original``, ``quantized`` and, where the
        run has an unquantized reconstruction, ``continuous``; empty in reports that hold none.
        """
        return self.report.tensors("pictures") if self.report.has("pictures.safetensors") else {}


def is_training_seed(key: str) -> bool:
    """Whether a parameter is a seed of networks, graph, codebook or samples: the split and the evaluation have
    their own, which do not make another training.
    """
    return key.rsplit(".", 1)[-1] == "seed" and key != "evaluation.seed"


def select_runs(
    settings: Tracking, root: Path, runs: Sequence[str] | None, query: str | None
) -> tuple[list[RunRecord], str, list[str]]:
    """The runs that are named, those that a filter keeps, or without either the last sweep; where they come from in
    words, and remarks on what was left out.

    Without any sweep: all finished training runs on the test images of the one that ended last. Runs that are named
    are all taken, one that did not finish to be refused later; of the others such runs are left out with a remark.

    Raises:
        ConfigError: both are given, or no finished run is left.
        TrackingError: a run is unknown, or there is nothing recorded.
    """
    if runs is not None and query is not None:
        raise ConfigError(f"runs=[{','.join(runs)}] and query={query!r}: give one of them, and leave the other null")
    if runs is not None:
        named = {record.run_id: record for record in (find_run(settings, root, which) for which in runs)}
        return list(named.values()), f"{len(named)} named runs", []
    key = "runs=null"
    if query is not None:
        key = f"tracking.experiment={settings.experiment} query={query!r}"
        found = find_runs(settings, root, query)
        origin = f"runs with {query}" if query else "all training runs of the experiment"
    elif sweep := last_sweep(settings, root):
        parent, found = sweep
        origin = f"the last sweep, {parent.title}"
    else:
        newest = find_run(settings, root, "latest")
        images = [newest.params.get(key) for key in CHOOSE_TEST_IMAGES]
        every = find_runs(settings, root, "")
        found = [record for record in every if [record.params.get(key) for key in CHOOSE_TEST_IMAGES] == images]
        origin = f"all training runs on {newest.tags['data']} (no sweep is recorded)"
    finished = [record for record in found if record.status == "FINISHED"]
    left_out = [f"{record.title} {record.status}" for record in found if record.status != "FINISHED"]
    if not finished:
        there = f"{len(left_out)} runs, none FINISHED" if left_out else "no training run"
        raise ConfigError(f"{key} finds {there}; ./scripts/mlflow_ui.sh lists the runs, runs=[id,id] names some")
    return finished, origin, [f"Runs that did not finish are left out: {', '.join(left_out)}."] * bool(left_out)


def read_runs(
    records: Sequence[RunRecord], root: Path, metrics: Sequence[str], rate: str
) -> tuple[list[ComparedRun], list[str]]:
    """The runs to compare, checked, and a note on those left out: of runs that share one report (the same command given
    again) the last stands for all.

    ``root`` holds the artifacts, ``metrics`` are to be shown, ``rate`` is a key of ``RATES``.

    Raises:
        ConfigError: runs without a report, without a metric, or of different test images or measures.
        ArtifactError: a report is gone, damaged, or not the one that the run recorded.
    """
    for record in records:
        _check_finished(record)
    by_report = {record.tags["artifact.report"]: record for record in records}
    runs = [_open(record, root) for record in by_report.values()]
    names = dict.fromkeys((*_ALWAYS_READ, RATES[rate], *metrics))
    for run in runs:
        for name in names:
            _check_metric(run, name, rate)
    for run in runs[1:]:
        _check_same_images(runs[0], run)
    for name in names:
        _check_same_measure([run for run in runs if run.metric(name) is not None], name)
    for run in runs:
        _check_report(run)
    kept = [run.record.run_id for run in runs]
    repeated = dict.fromkeys(record.run_id[:8] for record in records if record.run_id not in kept)
    return runs, [f"Runs that read the same report as another count once: {', '.join(repeated)}."] * bool(repeated)


def _check_finished(record: RunRecord) -> None:
    kind = record.tags.get("geovq.kind")
    if kind not in ("train", "evaluate") or "artifact.report" not in record.tags:
        raise ConfigError(
            f"runs: {record.title} has geovq.kind={kind} and no report; take runs of kind train or evaluate, which "
            "have one"
        )
    if record.status != "FINISHED":
        raise ConfigError(
            f"runs: {record.title} has status={record.status}; take finished runs (the same train command goes on "
            "where it was)"
        )


def _open(record: RunRecord, root: Path) -> ComparedRun:
    store = ArtifactStore(root)
    directory = store.directory("report", record.tags["artifact.report"])
    if not directory.is_dir():
        raise ArtifactError(
            f"run {record.title}: its report {directory} is gone; set paths.root to where it is, or build it "
            f"again: python src/evaluate.py run={record.run_id[:12]}"
        )
    report = Artifact(directory)
    report.verify()
    for stage, key in report.manifest.get("inputs", {}).items():  # any stage that reads the images knows them
        try:
            fingerprint = Artifact(store.directory(stage, key)).manifest["settings"]["data"]["fingerprint"]
        except (ArtifactError, KeyError):
            continue
        return ComparedRun(record, report, str(fingerprint))
    return ComparedRun(record, report, None)


def _check_metric(run: ComparedRun, name: str, rate: str) -> None:
    is_needed = name in (*_ALWAYS_READ, RATES[rate])
    if run.metric(name) is not None or name in OPTIONAL or (not is_needed and run.omitted(name)):
        return
    tracked = run.metric_name(name)
    again = f"measure it: python src/evaluate.py run={run.record.run_id[:12]}"
    if name == RATES[rate] and rate != "nominal":
        why = run.omitted(name) or "unknown why"
        raise ConfigError(f"rate={rate}: run {run.title} lacks {tracked} ({why}); take rate=nominal")
    if is_needed:
        raise ConfigError(f"run {run.title} lacks the metric {tracked}, which every comparison needs; {again}")
    near = get_close_matches(tracked, run.record.metrics, n=2)
    there = f" (it has {' and '.join(near)})" if near else ""
    raise ConfigError(
        f"metrics: run {run.title} lacks {tracked}{there}; leave {name} out of metrics=[…] (docs/metrics.md lists the "
        f"names), or {again}"
    )


def _check_same_images(first: ComparedRun, run: ComparedRun) -> None:
    for key in CHOOSE_TEST_IMAGES:
        of_first, of_run = first.setting(key), run.setting(key)
        _check_equal(first, run, key, of_first, of_run, f"such as query=\"params.`{key}` = '{of_first}'\"")
    if first.fingerprint and run.fingerprint and first.fingerprint != run.fingerprint:
        raise ConfigError(
            f"data.path={first.setting('data.path')} had other content in run {first.title} than "
            f"data.path={run.setting('data.path')} in run {run.title}; compare runs on the same images"
        )
    n_first, n_run = (f"{each.metric('n_test_images'):g}" for each in (first, run))
    _check_equal(first, run, "n_test_images", n_first, n_run, "by naming them: runs=[…]")


def _check_equal(first: ComparedRun, run: ComparedRun, key: str, a: str | None, b: str | None, remedy: str) -> None:
    if a != b:
        raise ConfigError(
            f"{key}={a} in run {first.title}, {key}={b} in run {run.title}: a comparison is on the same test images; "
            f"take runs of one value, {remedy}"
        )


def _check_same_measure(runs: Sequence[ComparedRun], name: str) -> None:
    """Refuse a metric that the runs measured by different networks or on different numbers of samples."""
    for run in runs[1:]:
        keys = next((keys for stems, keys in _MEASURED_BY if run.metric_name(name).startswith(stems)), ())
        for key in keys:
            a, b = runs[0].setting(key), run.setting(key)
            if a != b:
                raise ConfigError(
                    f"{key}={a} in run {runs[0].title}, {key}={b} in run {run.title}: {name} does not compare; leave "
                    "it out of metrics=[…], or measure both runs alike"
                )


def _check_report(run: ComparedRun) -> None:
    """The values per image must be those behind the tracked mean."""
    tracked, values = run.record.metrics["psnr"], run.psnr_per_image
    mean, n_images = float(values.mean()), int(run.record.metrics["n_test_images"])
    if len(values) != n_images or not math.isclose(tracked, mean, rel_tol=0, abs_tol=_AGREEMENT_DB):
        raise ArtifactError(
            f"run {run.title} recorded psnr={tracked:.4f} of {n_images} images, its report {run.report.directory} "
            f"holds {len(values)} images of {mean:.4f} in the mean; its train command, given again, records it anew"
        )
