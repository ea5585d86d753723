"""The numbers of a comparison: a row per method and per continuous autoencoder, and differences to the baseline.

A cell is the mean over seeds with its standard error; a difference is paired on test images and, where two methods
share seeds, on seeds. What was not measured is an empty cell with a note that says why, never a zero and never silence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from geovq.comparison.autoencoders import autoencoders
from geovq.comparison.columns import OPTIONAL, Column, column_of
from geovq.comparison.methods import Method, find_baselines
from geovq.comparison.runs import RATES, ComparedRun
from geovq.evaluation.statistics import PairedDifference, mean_and_standard_error, paired_difference

METHOD, BASELINE, UNQUANTIZED = "method", "baseline", "unquantized"
LEVEL = 0.95
PARTS = "± seeds, images"
_ONE_SEED = "{} for these trainings on other images, not for other trainings."


@dataclass(frozen=True)
class Cell:
    """Mean over seeds, its standard error (None for one seed), and what is to be said of it."""

    mean: float | None
    error: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A method's PSNR minus its baseline's, in dB, over ``n_seeds`` shared seeds; 0 where none is shared.

    ``value`` is None where there is no baseline at this K.
    """

    value: PairedDifference | None
    baseline: str
    n_seeds: int
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table; ``kind`` is method, baseline or unquantized, ``methods`` what the line is about.

    Lines of one ``series`` differ in K alone.
    """

    label: str
    series: str
    kind: str
    methods: tuple[Method, ...]
    runs: tuple[ComparedRun, ...]
    cells: dict[str, Cell]
    difference: Difference | None = None

    @property
    def notes(self) -> list[str]:
        """Of all cells and of the difference, each once."""
        noted = [*self.cells.values(), *([self.difference] if self.difference else [])]
        return list(dict.fromkeys(note for each in noted for note in each.notes))


@dataclass(frozen=True, eq=False)
class Comparison:
    """All that the tables, the figures and the page show."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]

    @property
    def methods(self) -> list[Method]:
        """The methods, in the order of the rows."""
        return [row.methods[0] for row in self.rows if row.kind != UNQUANTIZED]

    @property
    def runs(self) -> list[ComparedRun]:
        """The runs of all methods."""
        return [run for method in self.methods for run in method.runs]


def compare_methods(
    methods: Sequence[Method],
    metrics: Sequence[str],
    baseline: str | None = None,
    resamplings: int = 1000,
    seed: int = 0,
    remarks: Sequence[str] = (),
) -> Comparison:
    """The rows of a comparison.

    Args:
        methods: from ``group_seeds``, at least one.
        metrics: names of the columns, in their order.
        baseline: as in ``find_baselines``.
        resamplings: of the paired bootstrap over images, where there is one seed.
        seed: of the resampling.
        remarks: sentences to stand under the table.

    Raises:
        ConfigError: the baseline is not one of the methods.
    """
    several = any(len(method.runs) > 1 for method in methods)
    baselines = find_baselines(methods, baseline)
    rows = _unquantized_rows(methods, metrics)
    for method, reference in zip(methods, baselines, strict=True):
        difference: Difference | None = None
        if reference is None:
            wanted = next(other.series for other in baselines if other is not None)
            note = f"No method of {wanted} at K={method.n_codes}: no difference."
            difference = Difference(None, wanted, 0, (note,))
        elif method is not reference:
            difference = psnr_difference(method, reference, resamplings, seed)
            if several and difference.n_seeds == 1:
                note = _ONE_SEED.format("One seed on both sides: the interval holds")
                difference = replace(difference, notes=(*difference.notes, note))
        cells = {name: seed_cell(method.runs, name) for name in metrics}
        kind = BASELINE if method is reference else METHOD
        rows.append(Row(method.label, method.series, kind, (method,), method.runs, cells, difference))
    first = methods[0].runs[0].record
    return Comparison(
        f"{first.tags['data']}, {first.metrics['n_test_images']:.0f} test images",
        tuple(column_of(name) for name in metrics),
        tuple(rows),
        (
            *_how_to_read(methods, several, resamplings),
            *_without_unquantized(methods),
            *units_of_autoencoders(methods, metrics),
            *remarks,
        ),
    )


def _how_to_read(methods: Sequence[Method], several: bool, resamplings: int) -> list[str]:
    """What the numbers of this table mean."""
    bootstrap = f"from {resamplings} paired resamplings of images."
    interval = (
        "for other images and other trainings, of the width that t has for that few seeds and that many images; for a "
        f"single seed {bootstrap} {PARTS}: the standard errors from these two sources, which add up in squares."
    )
    sentences = ["± is the standard error of the mean over seeds."] * several
    if len(methods) > 1:
        sentences.append(
            f"Difference: PSNR minus that of the baseline on the same test images, with a {LEVEL:.0%} interval "
            + (interval if several else bootstrap)
        )
    if not several:
        sentences.append(_ONE_SEED.format("One seed per method: intervals hold"))
    sentences.append(
        "Unquantized: the reconstruction from latents that are not quantized; a search for codes, fine-tuning or joint "
        "training can pass it."
    )
    return sentences


def _without_unquantized(methods: Sequence[Method]) -> list[str]:
    """A line for each method whose autoencoder has no unquantized reconstruction, with the recorded reason."""
    covered = [method for each in autoencoders(methods) for method in each.methods]
    sentences = []
    for method in (method for method in methods if method not in covered):
        reasons = filter(None, (run.omitted("psnr_continuous") for run in method.runs))
        reason = next(reasons, "not measured, no reason recorded")
        sentences.append(f"{method.label} has no unquantized reconstruction: {reason}.")
    return sentences


def units_of_autoencoders(methods: Sequence[Method], metrics: Sequence[str]) -> list[str]:
    """A warning where a column is in units that differ from autoencoder to autoencoder."""
    own = " and ".join(name for name in metrics if name.startswith(("distortion_latent", "distortion_geodesic")))
    if not own or len({frozenset(run.autoencoder for run in method.runs) for method in methods}) == 1:
        return []
    return [f"{own}: each autoencoder has units of its own, so only methods on one autoencoder compare."]


def seed_cell(runs: Sequence[ComparedRun], name: str, suffix: str = "") -> Cell:
    """Mean over runs and its standard error; empty, with the recorded reasons, where any run left the metric out.

    ``suffix`` is that of the tracked name, which notes do not show.
    """
    values = {run: run.metric(name + suffix) for run in runs}
    present = [value for value in values.values() if value is not None]
    if len(present) == len(runs):
        mean, error = mean_and_standard_error(torch.tensor(present, dtype=torch.float64))
        return Cell(mean, error if len(runs) > 1 else None)
    lacking = [run for run, value in values.items() if value is None]
    some = f" in {len(lacking)} of {len(runs)} runs" if present else ""
    unknown = "the run is older than this metric" if name in OPTIONAL else "not measured, no reason recorded"
    reasons = dict.fromkeys(run.omitted(name + suffix) or unknown for run in lacking)
    return Cell(None, None, tuple(f"{name}: omitted{some}, {reason}." for reason in reasons))


def _unquantized_rows(methods: Sequence[Method], metrics: Sequence[str]) -> list[Row]:
    """A row per autoencoder: what it keeps without any quantization."""

    def cell(runs: Sequence[ComparedRun], name: str) -> Cell:
        continuous = f"{name}_continuous"
        has = any(run.metric(continuous) is not None or run.omitted(continuous) for run in runs)
        return seed_cell(runs, name, "_continuous") if has else Cell(None)

    return [
        Row(each.label, each.series, UNQUANTIZED, each.methods, each.runs, {n: cell(each.runs, n) for n in metrics})
        for each in autoencoders(methods)
    ]


def _pairs_by_seed(method: Method, baseline: Method) -> list[tuple[ComparedRun, ComparedRun]]:
    """Runs of equal seeds. Seeds that only some of the runs have, such as those of fine-tuning, separate no pair."""
    keys = sorted(set.intersection(*(set(run.seeds) for run in (*method.runs, *baseline.runs))))
    ours, theirs = ({tuple(run.seeds[key] for key in keys): run for run in each.runs} for each in (method, baseline))
    if len(ours) < len(method.runs) or len(theirs) < len(baseline.runs):
        return []  # the shared seeds do not distinguish the runs of one method
    return [(run, theirs[seeds]) for seeds, run in ours.items() if seeds in theirs]


def mean_rate(runs: Sequence[ComparedRun]) -> float:
    """Mean nominal bits per image."""
    return sum(run.metric(RATES["nominal"]) or 0.0 for run in runs) / len(runs)


def psnr_difference(method: Method, baseline: Method, resamplings: int, seed: int) -> Difference:
    """PSNR of a method minus that of its baseline, paired on test images and on the seeds that both have.

    Without a shared seed the means over each method's own seeds are paired on the images alone, and a note says so.
    """
    notes = []
    pairs = _pairs_by_seed(method, baseline)
    sides = list(zip(*pairs, strict=True)) or [method.runs, baseline.runs]
    a, b = (torch.stack([run.psnr_per_image for run in runs]) for runs in sides)
    both = f"{method.with_seeds} and {baseline.with_seeds}"
    if not pairs:
        a, b = a.mean(0), b.mean(0)
        notes.append(f"{both} share no seed: paired on images alone, the interval leaves out how trainings differ.")
    elif not len(pairs) == len(method.runs) == len(baseline.runs):
        notes.append(
            f"{both}: the difference is over the {len(pairs)} they share, so it need not equal that of the means."
        )
    compared = pairs or [(method.runs[0], baseline.runs[0])]
    ours, theirs = (mean_rate(runs) for runs in zip(*compared, strict=True))
    if not math.isclose(ours, theirs):
        notes.append(f"Unequal rates: {method.label} has {ours:g} nominal bits per image, {baseline.label} {theirs:g}.")
    return Difference(paired_difference(a, b, resamplings, seed, LEVEL), baseline.label, len(pairs), tuple(notes))
