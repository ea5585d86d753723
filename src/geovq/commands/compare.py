"""``src/compare.py``: recorded runs side by side, as a table, figures and a page, recorded as a run of their own."""

from __future__ import annotations

import io
import itertools
import json
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import field_validator

from geovq.configuration.fields import OutputFolder, Resamplings, Seed
from geovq.configuration.parse import parse
from geovq.configuration.section import Section
from geovq.configuration.sections import Paths, Tracking
from geovq.errors import ArtifactError, ConfigError
from geovq.tracking import CONFIG_FILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geovq.comparison.summary import Comparison


class CompareSettings(Section):
    """``configs/compare.yaml``."""

    runs: list[str] | None
    query: str | None
    baseline: str | None
    metrics: list[str]
    rate: Literal["nominal", "unigram", "prior"]
    reference: Literal["gaussian", "none"]
    bootstrap: Resamplings
    seed: Seed
    out: OutputFolder | None
    tracking: Tracking
    paths: Paths

    @field_validator("runs")
    @classmethod
    def _some_run(cls, value: list[str] | None) -> list[str] | None:
        if value == []:
            raise ValueError("runs=[]: name at least one run, or leave it null for the last sweep")
        return value

    @field_validator("metrics")
    @classmethod
    def _some_metric(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("metrics=[]: name at least one, such as psnr (docs/metrics.md lists them)")
        return list(dict.fromkeys(value))


def compare(composed: DictConfig) -> None:
    """Find the runs, check that they compare, lay out, write, record, print."""
    settings = parse(CompareSettings, OmegaConf.to_container(composed, resolve=True))
    if not settings.tracking.enabled:
        raise ConfigError("tracking.enabled=false: runs are looked up where they are recorded; take tracking=mlflow")
    root = settings.paths.absolute

    from geovq.comparison.factorial import analyse, factorial_csv, factorial_section, find_grids
    from geovq.comparison.figures import rate_distortion, reconstruction_sheet, training_spectrum
    from geovq.comparison.methods import group_seeds
    from geovq.comparison.runs import read_runs, select_runs
    from geovq.comparison.summary import compare_methods, shown_metrics
    from geovq.comparison.tables import Picture, comparison_csv, comparison_section, html_page
    from geovq.tracking.search import sweep_overrides

    records, origin, unfinished = select_runs(settings.tracking, root, settings.runs, settings.query)
    print(f"comparing {len(records)} run{'s' * (len(records) > 1)}: {origin}", file=sys.stderr)
    runs, repeats = read_runs(records, root, settings.metrics, settings.rate)
    methods, left_out = group_seeds(runs)
    spectrum, on_reference = training_spectrum(runs[0].record, root) if settings.reference == "gaussian" else (None, [])
    remarks = [*unfinished, *repeats, *left_out, *on_reference]
    metrics = shown_metrics(settings.metrics, runs)
    comparison = compare_methods(methods, metrics, settings.baseline, settings.bootstrap, settings.seed, remarks)
    factorials = [analyse(grid, settings.bootstrap, settings.seed) for grid in find_grids(methods)]
    sections = [comparison_section(comparison), *map(factorial_section, factorials)]

    plot = _png(rate_distortion(comparison, settings.rate, spectrum))
    sheet = reconstruction_sheet(comparison)  # or why there is none
    missing = [sheet] if isinstance(sheet, str) else []
    sheet_png = None if isinstance(sheet, str) else _png(sheet)
    about = [f"PSNR against {settings.rate} bits per image, a line per method."]
    about += missing or ["Test images above their reconstructions, with the PSNR of each in dB."]
    pictures = [Picture("Rate and distortion", plot, about[0]), Picture("Reconstructions", sheet_png, about[1])]
    commands = [f"python src/train.py -m {overrides}" for overrides in sweep_overrides(records)]
    commands += [shlex.join(["python", *sys.argv]), _pinned_command(comparison, settings)]
    origin += f". {time.strftime('%Y-%m-%d %H:%M')}"
    files = {
        "table.md": "\n".join([sections[0].markdown("##"), *(each.markdown() for each in sections[1:])]).encode(),
        "table.csv": comparison_csv(comparison).encode(),
        "factorial.csv": factorial_csv(factorials).encode() if factorials else None,
        "rate_distortion.png": plot,
        "reconstructions.png": sheet_png,
        "comparison.html": html_page(comparison, sections, pictures, origin, commands).encode(),
    }
    written = write_files(files, Path(settings.out) if settings.out else None, root)
    print("\n\n".join(section.text() for section in sections))
    print("\n".join([*missing, *(f"written: {file}" for file in written)]), file=sys.stderr)
    _record(comparison, settings, root, written)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _pinned_command(comparison: Comparison, settings: CompareSettings) -> str:
    """The command that compares these very runs again, whatever is recorded later."""
    ids = (run.record.run_id for run in comparison.runs)
    quoted = (f"'{each}'" if re.fullmatch(r"\d+(e\d+)?", each) else each for each in ids)  # no number for Hydra
    changed = [f"runs=[{','.join(quoted)}]", f"metrics=[{','.join(settings.metrics)}]"]
    changed += [f"{name}={getattr(settings, name)}" for name in ("rate", "reference", "bootstrap", "seed")]
    if comparison.baselines:
        first, *more = comparison.baselines
        changed.append(f"baseline='{first.series if more else first.label}'")
    return shlex.join(["python", "src/compare.py", *changed])


def write_files(files: dict[str, bytes | None], out: Path | None, root: Path) -> list[Path]:
    """Write all files into ``out``, or a new folder named after the time below ``root``, and return their paths.

    A new folder appears whole; in one that is there each file is replaced whole, and one that is None, of an earlier
    comparison, is removed. Raises ArtifactError where the folder cannot be written.
    """
    of_now = root / "comparisons" / time.strftime("%Y-%m-%d_%H-%M-%S")
    unused = (of_now.with_name(f"{of_now.name}-{number}") for number in itertools.count(2))  # others of this second
    target = out or next(folder for folder in itertools.chain([of_now], unused) if not folder.exists())
    wanted = {name: content for name, content in files.items() if content is not None}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target.parent) as scratch:
            new = Path(scratch) / target.name
            new.mkdir()
            for name, content in wanted.items():
                (new / name).write_bytes(content)
            if not target.exists():
                new.rename(target)
            else:
                for name in wanted:
                    (new / name).replace(target / name)
                for name in files.keys() - wanted:
                    (target / name).unlink(missing_ok=True)
    except OSError as error:
        key = "out" if out else "paths.root"
        raise ArtifactError(f"{key}: cannot write {target} ({error.strerror}); choose another folder") from error
    return [target / name for name in wanted]


def _record(comparison: Comparison, settings: CompareSettings, root: Path, files: list[Path]) -> None:
    """A tracked run of kind ``compare`` with settings, differences and files; ``run=latest`` does not find it."""
    from geovq.tracking import start_run

    data = comparison.runs[0].record.tags["data"]
    ids = [run.record.run_id for run in comparison.runs]
    baselines = "; ".join(method.label for method in comparison.baselines)
    tags = {"geovq.kind": "compare", "data": data, "compared_runs": json.dumps(ids), "baseline": baselines}
    with start_run(settings.tracking, root, f"{data}-compare", tags) as run:
        values = settings.model_dump(mode="json")
        run.log_params(values)
        run.log_dict({"settings": values, "runs": ids}, CONFIG_FILE)
        run.log_metrics({"n_methods": len(comparison.methods), "n_runs": len(ids)})
        run.log_metrics(_difference_metrics(comparison))
        for file in files:
            run.log_file(file, "comparison")


def _difference_metrics(comparison: Comparison) -> dict[str, float]:
    """Differences to the baseline and their intervals, in dB, under names that MLflow can keep."""
    metrics: dict[str, float] = {}
    for place, row in enumerate(comparison.rows):
        if row.difference is None or row.difference.value is None:
            continue
        name = re.sub(r"[^\w.]+", "_", row.of.label.replace("=", ""))[:150]
        name = f"{name}_{place}" if f"psnr_difference_db.{name}" in metrics else name
        for part, value in zip(("", "_low", "_high"), row.difference.value[:3], strict=True):
            metrics[f"psnr_difference{part}_db.{name}"] = value
    return metrics
