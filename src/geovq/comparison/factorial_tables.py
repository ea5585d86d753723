"""The two-way table of codebook and assignment: its layout, as aligned text, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from geovq.comparison.factorial import OWN, CellKey, Factorial, compared_codebooks
from geovq.comparison.summary import LEVEL
from geovq.comparison.tables import NOTHING, aligned, cell_text, interval_text, markdown_lines, marks, numbered

FORM = ".2f"
_UNIT = f"dB [{LEVEL:.0%}]"
_CELL_COLUMNS = ("codebook", "assignment", "over_codebook", "over_assignment", "gain_over")
_VALUE_COLUMNS = (
    "value_db",
    "standard_error_db",
    "low_db",
    "high_db",
    "p_value",
    "n_seeds",
    "seed_error_db",
    "image_error_db",
)


@dataclass(frozen=True)
class Section:
    """Lines under a title (none where empty), the label first, and how to read them in one sentence."""

    title: str
    reading: str
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Part:
    """A table: its head, the first column's included, and sections under it."""

    head: tuple[str, ...]
    sections: tuple[Section, ...]


def title_of(factorial: Factorial) -> str:
    """What the table shows, and under which settings."""
    return f"Codebook × assignment: {factorial.grid.title}"


def parts(factorial: Factorial) -> list[Part]:
    """The cells and the separate shares, and below the gain of the best cell step by step."""
    references = [_codebook_section(factorial, reference) for reference in factorial.references]
    sections = [_cells(factorial), *(each for each in references if each.lines), _assignment_section(factorial)]
    cells = Part(("", *factorial.grid.assignments), tuple(sections))
    return [cells, _decomposition(factorial)] if factorial.decompositions else [cells]


def _cells(factorial: Factorial) -> Section:
    grid = factorial.grid
    several = any(cell.error is not None for cell in factorial.psnr.values())
    lines = tuple(
        (_codebook(factorial, codebook), *(_psnr(factorial, (codebook, each)) for each in grid.assignments))
        for codebook in grid.codebooks
    )
    over = "test images and seeds, ± its standard error over seeds" if several else "test images, one seed"
    return Section("PSNR (dB)", f"PSNR: mean over {over}; a line per codebook, a column per assignment.", lines)


def _codebook_section(factorial: Factorial, reference: str) -> Section:
    grid = factorial.grid
    reading = "Codebook over another: what it alone changes, both being assigned by the rule of the column" + (
        f"; under {OWN} each keeps the rule it was fitted with, so codebook and rule change together."
        if OWN in grid.assignments
        else "."
    )
    lines = tuple(
        (
            _codebook(factorial, codebook),
            *(_gain(factorial, (codebook, each), (reference, each)) for each in grid.assignments),
        )
        for codebook in compared_codebooks(grid, factorial.references, reference)
    )
    return Section(f"codebook over {reference} ({_UNIT})", reading, lines)


def _assignment_section(factorial: Factorial) -> Section:
    start, others = factorial.start, factorial.grid.assignments[1:]
    lines = tuple(
        (codebook, "", *(_gain(factorial, (codebook, each), (codebook, start)) for each in others))
        for codebook in factorial.grid.codebooks
    )
    reading = f"Assignment over {start}: what the rule of the column alone changes, on the same codebook."
    return Section(f"assignment over {start} ({_UNIT})", reading, lines)


def _decomposition(factorial: Factorial) -> Part:
    first = factorial.decompositions[0]
    reading = (
        "Gain of the best cell, chosen by these very means: the two steps of an order add up to the total; where the "
        "orders disagree, what a step brings depends on what came before it."
    )
    lines = tuple(
        (
            f"{'  ' * step.startswith('then')}{step}",
            *(_gain(factorial, *each.steps[step]) for each in factorial.decompositions),
        )
        for step in first.steps
    )
    head = (f"{_name(first.best)} ({_UNIT})", *(f"over {_name(each.start)}" for each in factorial.decompositions))
    return Part(head, (Section("", reading, lines),))


def _name(cell: CellKey) -> str:
    return " with ".join(cell)


def _codebook(factorial: Factorial, codebook: str) -> str:
    return codebook + marks(factorial.codebook_notes.get(codebook, ()))


def _psnr(factorial: Factorial, cell: CellKey) -> str:
    return cell_text(factorial.psnr[cell], FORM) if cell in factorial.psnr else NOTHING


def _gain(factorial: Factorial, cell: CellKey, over: CellKey) -> str:
    """The difference with its interval; 0 of a cell over itself; a dash where one of the two has no run."""
    gain = factorial.gains.get((cell, over))
    if gain is None:
        return "0" if cell == over else NOTHING
    return interval_text(gain.difference.value) + marks(gain.notes)


def remarks(factorial: Factorial) -> list[str]:
    """What is to be known beside the footnotes: how to read it, and the cells without a run."""
    sentences = list(dict.fromkeys(section.reading for part in parts(factorial) for section in part.sections))
    if factorial.grid.missing:
        sentences.append(f"The grid is not full, without a run: {'; '.join(map(_name, factorial.grid.missing))}.")
    return sentences


def text_factorial(factorial: Factorial) -> str:
    """Aligned columns for the terminal, with how to read them."""
    printed = [title_of(factorial), ""]
    for part in parts(factorial):
        lines: list[Sequence[str]] = [part.head]
        for section in part.sections:
            titled = bool(section.title)
            lines += [(section.title,)] * titled
            lines += [(f"{'  ' * titled}{label}", *cells) for label, *cells in section.lines]
        printed += [*aligned(lines, 1), ""]
    return "\n".join([*printed, *remarks(factorial), *numbered(factorial.footnotes)])


def markdown_factorial(factorial: Factorial) -> str:
    """A section with both tables in GitHub's notation and how to read them."""
    blocks = [f"### {title_of(factorial)}", ""]
    for part in parts(factorial):
        lines: list[Sequence[str]] = []
        for section in part.sections:
            lines += [(f"**{section.title}**", *[""] * (len(part.head) - 1))] * bool(section.title)
            lines += [(label.replace("  ", "&emsp;"), *cells) for label, *cells in section.lines]
        blocks += [*markdown_lines(part.head, lines), ""]
    return "\n".join([*blocks, *(f"{text}\n" for text in (*remarks(factorial), *numbered(factorial.footnotes)))])


def csv_factorials(factorials: Sequence[Factorial]) -> str:
    """Full precision, a row per cell, share and step of all grids; ``quantity`` says which."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["grid", "quantity", *_CELL_COLUMNS, *_VALUE_COLUMNS, "notes"])
    for factorial in factorials:
        grid = factorial.grid
        for cell, value in factorial.psnr.items():
            numbers = [
                value.mean,
                "" if value.error is None else value.error,
                "",
                "",
                "",
                len(grid.arms[cell].runs),
                "",
                "",
            ]
            writer.writerow([grid.title, "psnr", *cell, "", "", "", *numbers, _notes(factorial, value.notes)])
        for quantity, cell, over, start in _differences(factorial):
            gain = factorial.gains[cell, over]
            interval = gain.difference.value
            numbers = [interval.mean, "", interval.low, interval.high, interval.p_value, gain.difference.n_seeds]
            numbers += [interval.seed_error, interval.image_error]
            writer.writerow([grid.title, quantity, *cell, *over, start, *numbers, _notes(factorial, gain.notes)])
    return out.getvalue()


def _differences(factorial: Factorial) -> list[tuple[str, CellKey, CellKey, str]]:
    """Quantity, cell, the cell it is compared with, and of a step the start of the gain it is part of."""
    shares = [
        ("codebook" if cell[1] == over[1] else "assignment", cell, over, "")
        for cell, over in factorial.gains
        if cell[1] == over[1] or cell[0] == over[0]
    ]
    steps = [
        (name.replace(" ", "_"), *pair, _name(each.start))
        for each in factorial.decompositions
        for name, pair in each.steps.items()
        if pair in factorial.gains
    ]
    return [*shares, *steps]


def _notes(factorial: Factorial, numbers: Sequence[int]) -> str:
    return " ".join(factorial.footnotes[number - 1] for number in numbers)
