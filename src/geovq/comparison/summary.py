"""The numbers of a comparison: a row per method and per continuous autoencoder, and differences to the baseline.

A cell is the mean over seeds with its standard error; a difference is paired on test images and, where two methods
share seeds, on seeds. What was not measured is an empty cell with a note that says why, never a zero and never silence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from geovq.comparison.methods import Autoencoder, Method, autoencoders, find_baselines
from geovq.comparison.runs import OPTIONAL, RATES, ComparedRun
from geovq.evaluation.evaluator import Score
from geovq.evaluation.evaluators import score_of
from geovq.evaluation.generation import BESIDE_FLOORS, RECONSTRUCTIONS, TRAINING
from geovq.evaluation.statistics import PairedDifference, mean_and_standard_error, paired_difference

METHOD, BASELINE, UNQUANTIZED = "method", "baseline", "unquantized"
LEVEL = 0.95
PARTS = "± seeds, images"
_FOR_THESE = "for these trainings on other images, not for other trainings."


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
    """One line of the table, ``of`` a method or an autoencoder; ``kind`` is method, baseline or unquantized."""

    kind: str
    of: Method | Autoencoder
    cells: dict[str, Cell]
    difference: Difference | None = None

    @property
    def notes(self) -> list[str]:
        """Of all cells and of the difference, each once."""
        noted: list[Cell | Difference | None] = [*self.cells.values(), self.difference]
        return list(dict.fromkeys(note for each in noted if each for note in each.notes))


@dataclass(frozen=True, eq=False)
class Comparison:
    """All that the tables, the figures and the page show."""

    title: str
    columns: tuple[Score, ...]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]

    @property
    def methods(self) -> list[Method]:
        """The methods, in the order of the rows."""
        return [row.of for row in self.rows if isinstance(row.of, Method)]

    @property
    def runs(self) -> list[ComparedRun]:
        """The runs of all methods."""
        return [run for method in self.methods for run in method.runs]

    @property
    def baselines(self) -> list[Method]:
        """The methods that others are compared with."""
        return [row.of for row in self.rows if isinstance(row.of, Method) and row.kind == BASELINE]


def column_of(metric: str, runs: Sequence[ComparedRun] = ()) -> Score:
    """A metric as its evaluator declares it; the reports of runs hold declarations that are not ours."""
    reports = (run.report for run in runs if run.report.has("added_scores.json"))
    return score_of(metric, (Score(**each) for report in reports for each in report.json("added_scores")))


def shown_metrics(metrics: Sequence[str], runs: Sequence[ComparedRun]) -> list[str]:
    """Without the optional ones that no run has; scores of samples with their floors beside them."""
    floored = [score.name.removesuffix("_<data>_cnn") for score in BESIDE_FLOORS]
    beside = {name: [name + suffix for suffix in (TRAINING, RECONSTRUCTIONS)] for name in floored}
    names = dict.fromkeys(each for name in metrics for each in (name, *beside.get(name, ())))
    return [name for name in names if name not in OPTIONAL or any(run.metric(name) is not None for run in runs)]


def compare_methods(
    methods: Sequence[Method],
    metrics: Sequence[str],
    baseline: str | None = None,
    resamplings: int = 1000,
    seed: int = 0,
    remarks: Sequence[str] = (),
) -> Comparison:
    """The rows of a comparison, with columns for ``metrics``, and ``remarks`` to stand under them.

    ``baseline`` is that of ``find_baselines``; ``resamplings`` of images, drawn from ``seed``, give the intervals of
    methods with one seed. Raises ConfigError where the baseline is not one of the methods.
    """
    several = any(len(method.runs) > 1 for method in methods)
    found = autoencoders(methods)
    baselines = find_baselines(methods, baseline)
    rows = [Row(UNQUANTIZED, each, {name: _unquantized_cell(each.runs, name) for name in metrics}) for each in found]
    for method, reference in zip(methods, baselines, strict=True):
        difference: Difference | None = None
        if reference is None:
            wanted = next(other.series for other in baselines if other is not None)
            note = f"No method of {wanted} at K={method.n_codes}: no difference."
            difference = Difference(None, wanted, 0, (note,))
        elif method is not reference:
            difference = psnr_difference(method, reference, resamplings, seed)
            if several and difference.n_seeds == 1:
                note = f"One seed on both sides: the interval holds {_FOR_THESE}"
                difference = replace(difference, notes=(*difference.notes, note))
        cells = {name: seed_cell(method.runs, name) for name in metrics}
        rows.append(Row(BASELINE if method is reference else METHOD, method, cells, difference))
    sentences = _how_to_read(len(methods) > 1, several, resamplings)
    on_autoencoders = [method for each in found for method in each.methods]
    for method in (method for method in methods if method not in on_autoencoders):
        reasons = filter(None, (run.omitted("psnr_continuous") for run in method.runs))
        reason = next(reasons, "not measured, no reason recorded")
        sentences.append(f"{method.label} has no unquantized reconstruction: {reason}.")
    sentences += [*units_of_autoencoders(methods, metrics), *remarks]
    first = methods[0].runs[0].record
    title = f"{first.tags['data']}, {first.metrics['n_test_images']:.0f} test images"
    columns = tuple(column_of(name, [run for method in methods for run in method.runs]) for name in metrics)
    return Comparison(title, columns, tuple(rows), tuple(sentences))


def _how_to_read(are_compared: bool, several: bool, resamplings: int) -> list[str]:
    """What the numbers of this table mean; ``several``: some method has several seeds."""
    bootstrap = f"from {resamplings} paired resamplings of images."
    interval = (
        "for other images and other trainings, of the width that t has for that few seeds and that many images; for a "
        f"single seed {bootstrap} {PARTS}: the standard errors from these two sources, which add up in squares."
    )
    difference = f"Difference: PSNR minus that of the baseline on the same test images, with a {LEVEL:.0%} interval "
    return [
        *["± is the standard error of the mean over seeds."] * several,
        *[difference + (interval if several else bootstrap)] * are_compared,
        *[f"One seed per method: intervals hold {_FOR_THESE}"] * (not several),
        "Unquantized: the reconstruction from latents that are not quantized; a search for codes, fine-tuning or joint "
        "training can pass it.",
    ]


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


def _unquantized_cell(runs: Sequence[ComparedRun], name: str) -> Cell:
    """The same without quantization; silent where no run speaks of the score at all."""
    continuous = f"{name}_continuous"
    known = any(run.metric(continuous) is not None or run.omitted(continuous) for run in runs)
    return seed_cell(runs, name, "_continuous") if known else Cell(None)


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
    pairs = _pairs_by_seed(method, baseline)
    sides = list(zip(*pairs, strict=True)) or [method.runs, baseline.runs]
    a, b = (torch.stack([run.psnr_per_image for run in runs]) for runs in sides)
    notes = []
    both = " and ".join(
        f"{each.label} (seeds {', '.join(str(run.seed) for run in each.runs)})" for each in (method, baseline)
    )
    if not pairs:
        a, b = a.mean(0), b.mean(0)
        notes.append(f"{both} share no seed: paired on images alone, the interval leaves out how trainings differ.")
    elif not len(pairs) == len(method.runs) == len(baseline.runs):
        only = f"the difference is over the {len(pairs)} they share, so it need not equal that of the means."
        notes.append(f"{both}: {only}")
    ours, theirs = (mean_rate(runs) for runs in (sides if pairs else (method.runs[:1], baseline.runs[:1])))
    if not math.isclose(ours, theirs):
        rates = f"{method.label} has {ours:g} nominal bits per image, {baseline.label} {theirs:g}"
        notes.append(f"Unequal rates: {rates}.")
    return Difference(paired_difference(a, b, resamplings, seed, LEVEL), baseline.label, len(pairs), tuple(notes))
