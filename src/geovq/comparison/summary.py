"""The numbers of a comparison: a row per arm and per continuous autoencoder, and differences to the baseline.

A cell is the mean over seeds with its standard error; a difference is paired on test images and, where two arms share
seeds, on seeds. What was not measured is an empty cell with a footnote, never a zero and never silence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from geovq.comparison.arms import Arm, find_baselines
from geovq.comparison.ceilings import autoencoders
from geovq.comparison.columns import OPTIONAL, Column, column_of
from geovq.comparison.runs import RATES, ComparedRun
from geovq.evaluation.statistics import PairedDifference, mean_and_standard_error, paired_difference

ARM, BASELINE, CEILING = "arm", "baseline", "ceiling"
LEVEL = 0.95
PARTS = "± seeds, images"
ONE_SEED = "{} for these trainings on other images, not for other trainings."


@dataclass(frozen=True)
class Cell:
    """Mean over seeds, its standard error (None for one seed), and the numbers of footnotes."""

    mean: float | None
    error: float | None
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Difference:
    """An arm's PSNR minus its baseline's, in dB, over ``n_seeds`` shared seeds; 0 where none is shared."""

    value: PairedDifference
    baseline: str
    n_seeds: int


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table; ``kind`` is arm, baseline or ceiling, ``arms`` what the line is about.

    Lines of one ``series`` differ in K alone.
    """

    label: str
    series: str
    kind: str
    arms: tuple[Arm, ...]
    runs: tuple[ComparedRun, ...]
    cells: dict[str, Cell]
    difference: Difference | None
    difference_notes: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Comparison:
    """All that the tables, the figures and the page show."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]
    remarks: tuple[str, ...]
    resamplings: int

    @property
    def arms(self) -> list[Arm]:
        """The arms, in the order of the rows."""
        return [row.arms[0] for row in self.rows if row.kind != CEILING]

    @property
    def runs(self) -> list[ComparedRun]:
        """The runs of all arms."""
        return [run for arm in self.arms for run in arm.runs]


@dataclass
class Footnotes:
    """Texts by number, each once."""

    texts: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        """Number of a footnote, from 1."""
        return self.texts.setdefault(text, len(self.texts) + 1)


def compare_arms(
    arms: Sequence[Arm],
    metrics: Sequence[str],
    baseline: str | None = None,
    resamplings: int = 1000,
    seed: int = 0,
    remarks: Sequence[str] = (),
) -> Comparison:
    """The rows of a comparison.

    Args:
        arms: from ``group_seeds``, at least one.
        metrics: names of the columns, in their order.
        baseline: as in ``find_baselines``.
        resamplings: of the paired bootstrap over images, where there is one seed.
        seed: of the resampling.
        remarks: sentences to stand under the table.

    Raises:
        ConfigError: the baseline is not one of the arms.
    """
    notes = Footnotes()
    baselines = find_baselines(arms, baseline)
    rows = ceiling_rows(arms, metrics, notes)
    for arm, reference in zip(arms, baselines, strict=True):
        cells = {name: seed_cell(arm.runs, name, notes) for name in metrics}
        kind = BASELINE if arm is reference else ARM
        difference: Difference | None = None
        numbers: tuple[int, ...] = ()
        if reference is None:
            wanted = next(other.series for other in baselines if other is not None)
            numbers = (notes.number(f"No arm of {wanted} at K={arm.n_codes}: no difference."),)
        elif arm is not reference:
            difference, numbers = psnr_difference(arm, reference, resamplings, seed, notes)
            if difference.n_seeds == 1 and any(len(other.runs) > 1 for other in arms):
                numbers = (*numbers, notes.number(ONE_SEED.format("One seed on both sides: the interval holds")))
        rows.append(Row(arm.label, arm.series, kind, (arm,), arm.runs, cells, difference, numbers))
    first = arms[0].runs[0].record
    title = f"{first.tags['data']}, {first.metrics['n_test_images']:.0f} test images"
    return Comparison(
        title,
        tuple(column_of(name, [run for arm in arms for run in arm.runs]) for name in metrics),
        tuple(rows),
        tuple(notes.texts),
        (*how_to_read(arms, resamplings), *without_ceiling(arms), *units_of_autoencoders(arms, metrics), *remarks),
        resamplings,
    )


def how_to_read(arms: Sequence[Arm], resamplings: int) -> list[str]:
    """What the numbers of this table mean."""
    sentences = []
    if any(len(arm.runs) > 1 for arm in arms):
        sentences.append("± is the standard error of the mean over seeds.")
    if len(arms) > 1:
        several = any(len(arm.runs) > 1 for arm in arms)
        sentences.append(
            f"Difference: PSNR minus that of the baseline on the same test images, with a {LEVEL:.0%} interval "
            + (
                f"for other images and other trainings, of the width that t has for that few seeds and that many "
                f"images; for a single seed from {resamplings} paired resamplings of images. {PARTS}: the standard "
                "errors from these two sources, which add up in squares."
                if several
                else f"from {resamplings} paired resamplings of images."
            )
        )
    if all(len(arm.runs) == 1 for arm in arms):
        sentences.append(ONE_SEED.format("One seed per arm: intervals hold"))
    sentences.append(
        "Ceiling: what the decoder keeps of latents that are not quantized; a search for codes, fine-tuning or joint "
        "training can pass it."
    )
    return sentences


def without_ceiling(arms: Sequence[Arm]) -> list[str]:
    """A line for each arm whose autoencoder has no reconstructions without quantization, with the recorded reason."""
    covered = {arm for each in autoencoders(arms) for arm in each.arms}
    reasons = {arm: next(filter(None, (run.omitted("psnr_continuous") for run in arm.runs)), None) for arm in arms}
    return [
        f"{arm.label} has no ceiling: {reasons[arm] or 'not measured, no reason recorded'}."
        for arm in arms
        if arm not in covered
    ]


def units_of_autoencoders(arms: Sequence[Arm], metrics: Sequence[str]) -> list[str]:
    """A warning where a column is in units that differ from autoencoder to autoencoder."""
    own = [name for name in metrics if name.startswith(("distortion_latent", "distortion_geodesic"))]
    if not own or len({frozenset(run.autoencoder for run in arm.runs) for arm in arms}) == 1:
        return []
    return [f"{' and '.join(own)}: each autoencoder has units of its own, so only arms on one autoencoder compare."]


def seed_cell(runs: Sequence[ComparedRun], name: str, notes: Footnotes, tracked: str | None = None) -> Cell:
    """Mean over runs and its standard error; empty, with the recorded reasons, where any run left the metric out."""
    read = tracked or name
    values = [run.metric(read) for run in runs]
    present = [value for value in values if value is not None]
    if len(present) == len(values):
        mean, error = mean_and_standard_error(torch.tensor(present, dtype=torch.float64))
        return Cell(mean, error if len(present) > 1 else None)
    lacking = [run for run, value in zip(runs, values, strict=True) if value is None]
    some = f" in {len(lacking)} of {len(runs)} runs" if present else ""
    unknown = "the run is older than this metric" if name in OPTIONAL else "not measured, no reason recorded"
    reasons = dict.fromkeys(run.omitted(read) or unknown for run in lacking)
    return Cell(None, None, tuple(notes.number(f"{name}: omitted{some}, {reason}.") for reason in reasons))


def ceiling_rows(arms: Sequence[Arm], metrics: Sequence[str], notes: Footnotes) -> list[Row]:
    """A row per autoencoder: what it keeps without any quantization."""
    rows = []
    for each in autoencoders(arms):
        cells = {}
        for name in metrics:
            continuous = f"{name}_continuous"
            has = any(run.metric(continuous) is not None or run.omitted(continuous) for run in each.runs)
            cells[name] = seed_cell(each.runs, name, notes, continuous) if has else Cell(None, None)
        rows.append(Row(each.label, each.series, CEILING, each.arms, each.runs, cells, None))
    return rows


def pairs_by_seed(arm: Arm, baseline: Arm) -> list[tuple[ComparedRun, ComparedRun]]:
    """Runs of equal seeds. Seeds that only some of the runs have, such as those of fine-tuning, tell no pair apart."""
    runs = (*arm.runs, *baseline.runs)
    keys = sorted(set.intersection(*(set(run.seeds) for run in runs)))
    ours, theirs = ({tuple(run.seeds[key] for key in keys): run for run in each.runs} for each in (arm, baseline))
    if len(ours) < len(arm.runs) or len(theirs) < len(baseline.runs):
        return []  # the shared seeds do not tell the runs of one arm apart
    return [(run, theirs[seeds]) for seeds, run in ours.items() if seeds in theirs]


def mean_rate(runs: Sequence[ComparedRun]) -> float:
    """Mean nominal bits per image."""
    return sum(run.metric(RATES["nominal"]) or 0.0 for run in runs) / len(runs)


def psnr_difference(
    arm: Arm, baseline: Arm, resamplings: int, seed: int, notes: Footnotes
) -> tuple[Difference, tuple[int, ...]]:
    """PSNR of an arm minus that of its baseline, paired on test images and on the seeds that both have.

    Without a shared seed the means over each arm's own seeds are paired on the images alone, and a footnote says so.
    """
    numbers = []
    pairs = pairs_by_seed(arm, baseline)
    if pairs:
        a, b = (torch.stack([run.per_image["psnr"].double() for run in runs]) for runs in zip(*pairs, strict=True))
        if not len(pairs) == len(arm.runs) == len(baseline.runs):
            numbers.append(
                notes.number(
                    f"{arm.label} (seeds {arm.seeds}) and {baseline.label} (seeds {baseline.seeds}): the difference is "
                    f"over the {len(pairs)} they share, so it need not equal that of the means."
                )
            )
    else:
        a, b = (torch.stack([run.per_image["psnr"].double() for run in each.runs]).mean(0) for each in (arm, baseline))
        numbers.append(
            notes.number(
                f"{arm.label} (seeds {arm.seeds}) and {baseline.label} (seeds {baseline.seeds}) share no seed: paired "
                "on images alone, the interval leaves out how trainings differ."
            )
        )
    compared = pairs or [(arm.runs[0], baseline.runs[0])]
    rates = [mean_rate([run for run, _ in compared]), mean_rate([run for _, run in compared])]
    if not math.isclose(*rates):
        numbers.append(
            notes.number(
                f"Unequal rates: {arm.label} has {rates[0]:g} nominal bits per image, {baseline.label} {rates[1]:g}."
            )
        )
    value = paired_difference(a, b, resamplings, seed, LEVEL)
    return Difference(value, baseline.label, len(pairs)), tuple(numbers)
