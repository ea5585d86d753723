"""Codebook × assignment: which compared methods form a two-way grid, and what each of the two factors gains in it.

A gain that codebook and assignment bring together does not split into two numbers of their own: what one of them
brings depends on the other. So each factor's share is taken at every level of the other one, and the gain of the best
cell in both orders. All differences are between two cells, paired on images and seeds as those of the table are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from geovq.comparison.methods import (
    ASSIGNMENT,
    QUANTIZER,
    Method,
    distinguishing_keys,
    distinguishing_names,
    settings_of,
)
from geovq.comparison.summary import LEVEL, Cell, Difference, mean_rate, psnr_difference, seed_cell
from geovq.comparison.tables import NOTHING, Line, Section, Table, csv_text, values_of

OWN = "own"
ASSIGNMENT_RULES = (OWN, "euclidean", "whitened", "metric", "sequential", "search")
"""From the quickest to the slowest; shares are taken over the first that a grid has."""

REFERENCES = ("euclidean", "whitened")
"""Codebooks whose gains are asked for: raw and whitened k-means. Without them: the first codebook of the grid."""

CellKey = tuple[str, str]
"""Codebook and assignment, by their names in the grid."""

Pair = tuple[CellKey, CellKey]
"""A cell, and the cell that it is compared with."""

_CELLS = ("quantity", "codebook", "assignment", "over_codebook", "over_assignment", "gain_over")
_INTERVAL = ("low_db", "high_db", "p_value", "n_seeds", "seed_error_db", "image_error_db")
_UNIT = f"dB [{LEVEL:.0%}]"


@dataclass(frozen=True, eq=False)
class Grid:
    """Methods that differ in codebook and assignment alone, at one rate; a cell without a run is not in ``methods``."""

    title: str
    codebooks: tuple[str, ...]
    assignments: tuple[str, ...]
    methods: dict[CellKey, Method]

    @property
    def missing(self) -> list[CellKey]:
        """The cells without a run."""
        return [(c, a) for c in self.codebooks for a in self.assignments if (c, a) not in self.methods]


@dataclass(frozen=True, eq=False)
class Factorial:
    """The numbers of a grid.

    Attributes:
        grid: which method stands in which cell.
        psnr: mean over seeds of each cell, in dB.
        shares: by reference codebook, and by ``""`` for the assignments over the first one, a list of pairs for each
            codebook: those whose gains are shown.
        steps: the gain of the best cell, for each cell ``start`` that it is taken over: by name of a step, in both
            orders of the two, the cell that it leads to and the cell that it leads from.
        gains: PSNR of one cell minus that of another; only where both have runs.
        codebook_notes: what is to be known of a codebook.
    """

    grid: Grid
    psnr: Mapping[CellKey, Cell]
    shares: Mapping[str, Mapping[str, list[Pair]]]
    steps: Mapping[CellKey, Mapping[str, Pair]]
    gains: Mapping[Pair, Difference]
    codebook_notes: Mapping[str, str]


def find_grids(methods: Sequence[Method]) -> list[Grid]:
    """The grids of at least two codebooks and two assignments each, in the order of their first methods; the
    references are their first codebooks, and assignments stand in the order of ``ASSIGNMENT_RULES``.

    Methods are of one grid when all their settings but those of the quantizer and of the assignment agree, and their
    nominal bits per image. A codebook that has one assignment alone, and an assignment that one codebook alone has,
    stand in no grid.
    """
    settings = settings_of(methods)
    of_codebook, of_assignment = ([k for k in settings if k.startswith(prefix)] for prefix in ("quantizer.", "assign."))
    shared = settings.drop(columns=[*of_codebook, *of_assignment])
    keys = distinguishing_keys(shared)
    rates = [round(mean_rate(method.runs), 6) for method in methods]
    grids = []
    for _, rows in settings.groupby([shared.apply(tuple, axis=1), rates], sort=False):
        while True:
            repeated = rows.duplicated(of_codebook, keep=False) & rows.duplicated(of_assignment, keep=False)
            if repeated.all():
                break
            rows = rows[repeated]
        if rows.empty:
            continue
        rows = rows.sort_values(
            QUANTIZER, key=lambda names: names.map(lambda name: _place(name, REFERENCES)), kind="stable"
        )
        codebooks = distinguishing_names(rows[of_codebook], QUANTIZER)
        assignments = distinguishing_names(rows[of_assignment], ASSIGNMENT)
        rules = dict(zip(assignments, rows[ASSIGNMENT], strict=True))
        n_codes = {methods[place].n_codes for place in rows.index}
        parts = [f"K={each}" for each in n_codes if len(n_codes) == 1] + [f"{rates[rows.index[0]]:g} bits per image"]
        parts += [f"{key}={shared.loc[rows.index[0], key]}" for key in keys]
        cells = zip(codebooks, assignments, strict=True)
        grids.append(
            Grid(
                ", ".join(parts),
                tuple(dict.fromkeys(codebooks)),
                tuple(sorted(rules, key=lambda name: _place(rules[name], ASSIGNMENT_RULES))),
                {cell: methods[place] for cell, place in zip(cells, rows.index, strict=True)},
            )
        )
    return grids


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def analyse(grid: Grid, resamplings: int, seed: int) -> Factorial:
    """Means of the cells, shares of codebook and assignment, and the gain of the best cell in both orders, with
    ``resamplings`` of images, drawn from ``seed``, where there is one seed.

    The best cell is the one of the highest mean among the codebooks on the references' autoencoders: a quantizer that
    brings an autoencoder of its own gains by that as well.
    """
    by_quantizer = {method.quantizer: codebook for (codebook, _), method in reversed(grid.methods.items())}
    references = [by_quantizer[name] for name in REFERENCES if name in by_quantizer] or [grid.codebooks[0]]
    trained: dict[str, set[str]] = {codebook: set() for codebook in grid.codebooks}
    for (codebook, _), method in grid.methods.items():
        trained[codebook] |= {run.autoencoder for run in method.runs}
    alike = [codebook for codebook in grid.codebooks if trained[codebook] & trained[references[0]]]
    psnr = {cell: seed_cell(method.runs, "psnr") for cell, method in grid.methods.items()}
    start, *others = grid.assignments
    steps: dict[CellKey, dict[str, Pair]] = {}
    if len(alike) > 1:
        best = max((cell for cell in psnr if cell[0] in alike), key=lambda cell: psnr[cell].mean or 0.0)
        starts = [(reference, start) for reference in references if reference in alike]
        steps = {cell: _steps(best, cell) for cell in starts if cell in psnr and cell != best}
    shares: dict[str, dict[str, list[Pair]]] = {}
    for place, over in enumerate(references, 1):  # what was compared with an earlier reference is not repeated
        rest = [codebook for codebook in grid.codebooks if codebook not in references[:place]]
        shares[over] = {codebook: [((codebook, a), (over, a)) for a in grid.assignments] for codebook in rest}
    shares[""] = {codebook: [((codebook, a), (codebook, start)) for a in others] for codebook in grid.codebooks}
    pairs = [pair for lines in shares.values() for line in lines.values() for pair in line]
    pairs += [pair for each in steps.values() for pair in each.values()]
    gains = {
        (cell, over): psnr_difference(grid.methods[cell], grid.methods[over], resamplings, seed)
        for cell, over in dict.fromkeys(pairs)
        if cell != over and cell in grid.methods and over in grid.methods
    }
    note = "{} has an autoencoder of its own: what it gains over another codebook is not the codebook's alone."
    notes = {codebook: note.format(codebook) for codebook in grid.codebooks if codebook not in alike}
    return Factorial(grid, psnr, shares, steps, gains, notes)


def _steps(best: CellKey, start: CellKey) -> dict[str, Pair]:
    codebook_first, assignment_first = (best[0], start[1]), (start[0], best[1])
    return {
        "total": (best, start),
        "codebook first": (codebook_first, start),
        "then assignment": (best, codebook_first),
        "assignment first": (assignment_first, start),
        "then codebook": (best, assignment_first),
    }


def factorial_section(factorial: Factorial) -> Section:
    """The cells and the separate shares in one table, the gain of the best cell step by step in another."""
    grid, start = factorial.grid, factorial.grid.assignments[0]
    section = Section(f"Codebook × assignment: {grid.title}")

    def named(codebook: str) -> str:
        notes = [note for name, note in factorial.codebook_notes.items() if name == codebook]
        return codebook + section.marks(notes)

    def gain(pair: Pair) -> str:
        """0 of a cell over itself; a dash where one of the two has no run."""
        difference = factorial.gains.get(pair)
        return section.difference(difference) if difference else "0" if pair[0] == pair[1] else NOTHING

    several = any(cell.error is not None for cell in factorial.psnr.values())
    over_what = "test images and seeds, ± its standard error over seeds" if several else "test images, one seed"
    section.remarks = [f"PSNR: mean over {over_what}; a line per codebook, a column per assignment."]
    cells = {c: [factorial.psnr.get((c, a), Cell(None)) for a in grid.assignments] for c in grid.codebooks}
    groups = {
        "PSNR (dB)": [Line([named(c), *(section.cell(cell, ".2f") for cell in line)]) for c, line in cells.items()]
    }
    for reference, lines in factorial.shares.items():
        if reference and lines:
            groups[f"codebook over {reference} ({_UNIT})"] = [
                Line([named(codebook), *map(gain, pairs)]) for codebook, pairs in lines.items()
            ]
    groups[f"assignment over {start} ({_UNIT})"] = [
        Line([codebook, "", *map(gain, pairs)]) for codebook, pairs in factorial.shares[""].items()
    ]
    section.tables = [Table(["", *grid.assignments], groups)]
    if len(groups) > 2:
        under_own = f"; under {OWN} each keeps the rule it was fitted with, so codebook and rule change together"
        section.remarks.append(
            "Codebook over another: what it alone changes, both being assigned by the rule of the column"
            f"{under_own if OWN in grid.assignments else ''}."
        )
    section.remarks.append(f"Assignment over {start}: what the rule of the column alone changes, on the same codebook.")
    if factorial.steps:
        first, *_ = factorial.steps.values()
        best, _ = first["total"]
        gains = {step: [gain(each[step]) for each in factorial.steps.values()] for step in first}
        in_order = [Line(["  " * step.startswith("then") + step, *texts]) for step, texts in gains.items()]
        head = [f"{_name(best)} ({_UNIT})", *(f"over {_name(start)}" for start in factorial.steps)]
        section.tables.append(Table(head, {"": in_order}))
        section.remarks.append(
            "Gain of the best cell, chosen by these very means: the two steps of an order add up to the total; where "
            "the orders disagree, what a step brings depends on what came before it."
        )
    if grid.missing:
        section.remarks.append(f"The grid is not full, without a run: {'; '.join(map(_name, grid.missing))}.")
    return section


def _name(cell: CellKey) -> str:
    return " with ".join(cell)


def factorial_csv(factorials: Sequence[Factorial]) -> str:
    """Full precision, a row per cell, share and step of all grids; ``quantity`` says which."""
    records: list[dict[str, object]] = []
    for factorial in factorials:
        gains = factorial.gains
        rows = [
            ("codebook" if cell[1] == over[1] else "assignment", (cell, over), "")
            for cell, over in gains
            if cell[1] == over[1] or cell[0] == over[0]
        ]
        for start, steps in factorial.steps.items():
            rows += [(step.replace(" ", "_"), pair, _name(start)) for step, pair in steps.items() if pair in gains]
        title = factorial.grid.title
        for cell, psnr in factorial.psnr.items():
            n_seeds, notes = len(factorial.grid.methods[cell].runs), " ".join(psnr.notes)
            record = _record(title, "psnr", *cell, "", "", "", n_seeds=n_seeds, notes=notes)
            records.append(record | {"value_db": psnr.mean, "standard_error_db": psnr.error})
        for quantity, (cell, over), gain_over in rows:
            gain = gains[cell, over]
            record = _record(title, quantity, *cell, *over, gain_over, notes=" ".join(gain.notes))
            records.append(record | values_of(gain, "value_db"))
    return csv_text(records, ["grid", *_CELLS, "value_db", "standard_error_db", *_INTERVAL, "notes"])


def _record(title: str, *names: str, **values: object) -> dict[str, object]:
    return {"grid": title, **dict(zip(_CELLS, names, strict=True)), **values}
