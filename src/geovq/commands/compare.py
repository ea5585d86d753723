"""``src/compare.py``: recorded runs side by side, as a table, figures and a page, recorded as a run of their own."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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

SHEET = "reconstructions.png"
FACTORIAL = "factorial.csv"
_ONLY_SOME_HAVE = (SHEET, FACTORIAL)
_SWEEP_COMMAND = "python src/train.py -m {}"


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

    from geovq.comparison.arms import group_seeds
    from geovq.comparison.columns import shown_metrics
    from geovq.comparison.factorial import analyse, find_grids
    from geovq.comparison.factorial_tables import csv_factorials, markdown_factorial, text_factorial
    from geovq.comparison.figures import rate_distortion, reconstruction_sheet
    from geovq.comparison.page import Picture, html_page
    from geovq.comparison.reference import training_spectrum
    from geovq.comparison.runs import read_runs
    from geovq.comparison.selection import select_runs
    from geovq.comparison.summary import compare_arms
    from geovq.comparison.tables import csv_table, markdown_table, text_table
    from geovq.tracking.search import sweep_overrides

    selection = select_runs(settings.tracking, root, settings.runs, settings.query)
    print(f"comparing {len(selection.records)} runs: {selection.origin}", file=sys.stderr)
    runs, repeats = read_runs(selection.records, root, settings.metrics, settings.rate)
    arms, left_out = group_seeds(runs)
    spectrum, on_reference = training_spectrum(runs[0].record, root) if settings.reference == "gaussian" else (None, [])
    remarks = [*selection.remarks, *repeats, *left_out, *on_reference]
    metrics = shown_metrics(settings.metrics, runs)
    comparison = compare_arms(arms, metrics, settings.baseline, settings.bootstrap, settings.seed, remarks)
    factorials = [analyse(grid, settings.bootstrap, settings.seed) for grid in find_grids(arms)]

    plot = png_of(rate_distortion(comparison, settings.rate, spectrum))
    sheet = reconstruction_sheet(comparison)
    sheet_png = None if isinstance(sheet, str) else png_of(sheet)
    pictures = [
        Picture("Rate and distortion", plot, f"PSNR against {settings.rate} bits per image, a line per method."),
        Picture(
            "Reconstructions",
            sheet_png,
            "Test images above their reconstructions, with the PSNR of each in dB.",
            sheet if isinstance(sheet, str) else "",
        ),
    ]
    again = [_SWEEP_COMMAND.format(overrides) for overrides in sweep_overrides(selection.records)]
    again.append(shlex.join(["python", *sys.argv]))
    again.append(pinned_command(comparison, settings))
    files = {
        "table.md": "\n".join([markdown_table(comparison), *map(markdown_factorial, factorials)]).encode(),
        "table.csv": csv_table(comparison).encode(),
        **({FACTORIAL: csv_factorials(factorials).encode()} if factorials else {}),
        "rate_distortion.png": plot,
        **({SHEET: sheet_png} if sheet_png else {}),
        "comparison.html": html_page(
            comparison, factorials, pictures, selection.origin, time.strftime("%Y-%m-%d %H:%M"), again
        ).encode(),
    }
    folder = write_files(files, Path(settings.out) if settings.out else None, root)
    print("\n\n".join([text_table(comparison), *map(text_factorial, factorials)]))
    if isinstance(sheet, str):
        print(sheet, file=sys.stderr)
    for name in files:
        print(f"written: {folder / name}", file=sys.stderr)
    record(comparison, settings, root, [folder / name for name in files])


def png_of(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def pinned_command(comparison: Comparison, settings: CompareSettings) -> str:
    """The command that compares these very runs again, whatever is recorded later."""
    ids = ",".join(_as_text(run.record.run_id) for run in comparison.runs)
    changed = [f"runs=[{ids}]", f"metrics=[{','.join(settings.metrics)}]"]
    changed += [f"{name}={getattr(settings, name)}" for name in ("rate", "reference", "bootstrap", "seed")]
    baseline = next((row.arms[0] for row in comparison.rows if row.kind == "baseline"), None)
    if baseline is not None:
        one = sum(row.kind == "baseline" for row in comparison.rows) == 1
        changed.append(f"baseline='{baseline.label if one else baseline.series}'")
    return shlex.join(["python", "src/compare.py", *changed])


def _as_text(run_id: str) -> str:
    """An id as an element of a list on the command line: quoted where it would be read as a number."""
    return f"'{run_id}'" if re.fullmatch(r"\d+(e\d+)?", run_id) else run_id


def write_files(files: dict[str, bytes], out: Path | None, root: Path) -> Path:
    """Write all files into ``out``, or a new folder named after the time below ``root``, and return it.

    A new folder appears whole; in one that is there each file is replaced whole.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    target = out or _unused(root / "comparisons" / time.strftime("%Y-%m-%d_%H-%M-%S"))
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        for name, content in files.items():
            (unfinished / name).write_bytes(content)
        if target.exists():
            for name in files:
                (unfinished / name).replace(target / name)
            for name in set(_ONLY_SOME_HAVE) - set(files):  # of an earlier comparison, beside the new table
                (target / name).unlink(missing_ok=True)
        else:
            unfinished.rename(target)
    except OSError as error:
        key = "out" if out else "paths.root"
        raise ArtifactError(f"{key}: cannot write {target} ({error.strerror}); choose another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _unused(folder: Path) -> Path:
    """The folder, or with a number behind where another comparison of this second has it."""
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def record(comparison: Comparison, settings: CompareSettings, root: Path, files: list[Path]) -> None:
    """A tracked run of kind ``compare`` with settings, differences and files; ``run=latest`` does not find it."""
    from geovq.tracking import start_run

    first = comparison.runs[0].record
    ids = [run.record.run_id for run in comparison.runs]
    tags = {
        "geovq.kind": "compare",
        "data": first.tags["data"],
        "compared_runs": json.dumps(ids),
        "baseline": "; ".join(row.label for row in comparison.rows if row.kind == "baseline"),
    }
    with start_run(settings.tracking, root, f"{first.tags['data']}-compare", tags) as run:
        values: dict[str, Any] = settings.model_dump(mode="json")
        run.log_params(values)
        run.log_dict({"settings": values, "runs": ids}, CONFIG_FILE)
        run.log_metrics({"n_arms": len(comparison.arms), "n_runs": len(ids)})
        run.log_metrics(difference_metrics(comparison))
        for file in files:
            run.log_file(file, "comparison")


def difference_metrics(comparison: Comparison) -> dict[str, float]:
    """Differences to the baseline and their intervals, in dB, under names that MLflow can keep."""
    metrics: dict[str, float] = {}
    for place, row in enumerate(comparison.rows):
        if row.difference is None:
            continue
        name = re.sub(r"[^\w.]+", "_", row.label.replace("=", ""))[:150]
        name = f"{name}_{place}" if f"psnr_difference_db.{name}" in metrics else name
        value = row.difference.value
        metrics[f"psnr_difference_db.{name}"] = value.mean
        metrics[f"psnr_difference_low_db.{name}"] = value.low
        metrics[f"psnr_difference_high_db.{name}"] = value.high
    return metrics
