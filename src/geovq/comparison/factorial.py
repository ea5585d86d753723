"""Codebook × assignment: which compared arms form a two-way grid, and what each of the two factors gains in it.

A gain that codebook and assignment bring together does not split into two numbers of their own: what one of them
brings depends on the other. So each factor's share is taken at every level of the other one, and the gain of the best
cell in both orders. All differences are between two cells, paired on images and seeds as those of the table are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from geovq.comparison.arms import NONE, Arm, names_apart, telling_keys
from geovq.comparison.summary import Cell, Difference, Footnotes, mean_rate, psnr_difference, seed_cell

CODEBOOK, ASSIGNMENT = "quantizer.", "assign."
OWN = "own"
LADDER = (OWN, "euclidean", "whitened", "metric", "sequential", "search")
"""Rules of assignment from the quickest to the slowest; shares are taken over the first that a grid has."""

REFERENCES = ("euclidean", "whitened")
"""Codebooks whose gains are asked for: raw and whitened k-means. Without them: the first codebook of the grid."""

CellKey = tuple[str, str]
"""Codebook and assignment, by their names in the grid."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Arms that differ in codebook and assignment alone, at one rate; a cell without a run is not in ``arms``."""

    title: str
    codebooks: tuple[str, ...]
    assignments: tuple[str, ...]
    arms: Mapping[CellKey, Arm]

    @property
    def missing(self) -> list[CellKey]:
        """The cells without a run."""
        return [(c, a) for c in self.codebooks for a in self.assignments if (c, a) not in self.arms]


@dataclass(frozen=True)
class Gain:
    """PSNR of one cell minus that of another, with the numbers of its footnotes."""

    difference: Difference
    notes: tuple[int, ...]


@dataclass(frozen=True)
class Decomposition:
    """The gain of cell ``best`` over cell ``start``, in two steps and both orders."""

    best: CellKey
    start: CellKey

    @property
    def steps(self) -> dict[str, tuple[CellKey, CellKey]]:
        """Name of a step to the cell it leads to and the cell it leads from."""
        codebook_first, assignment_first = (self.best[0], self.start[1]), (self.start[0], self.best[1])
        return {
            "total": (self.best, self.start),
            "codebook first": (codebook_first, self.start),
            "then assignment": (self.best, codebook_first),
            "assignment first": (assignment_first, self.start),
            "then codebook": (self.best, assignment_first),
        }


@dataclass(frozen=True, eq=False)
class Factorial:
    """The numbers of a grid.

    Attributes:
        grid: which arm stands in which cell.
        psnr: mean over seeds of each cell, in dB.
        references: the codebooks over which the others' shares are taken.
        gains: by the cell and the cell it is compared with; only where both have runs.
        decompositions: of the best cell's gain, one per reference.
        codebook_notes: numbers of the footnotes of a codebook.
        footnotes: in the order of their numbers.
    """

    grid: Grid
    psnr: Mapping[CellKey, Cell]
    references: tuple[str, ...]
    gains: Mapping[tuple[CellKey, CellKey], Gain]
    decompositions: tuple[Decomposition, ...]
    codebook_notes: Mapping[str, tuple[int, ...]]
    footnotes: tuple[str, ...]

    @property
    def start(self) -> str:
        """The assignment over which the others' shares are taken."""
        return self.grid.assignments[0]


@dataclass
class _Frame:
    """All that arms of one grid have in common."""

    settings: dict[str, str]
    rate: float
    arms: list[Arm] = field(default_factory=list)


def find_grids(arms: Sequence[Arm]) -> list[Grid]:
    """The grids of at least two codebooks and two assignments each, in the order of their first arms; the
    references are their first codebooks, and assignments stand as on the ladder.

    Arms are of one grid when all their settings but those of the quantizer and of the assignment agree, and their
    nominal bits per image. A codebook that has one assignment alone, and an assignment that one codebook alone has,
    stand in no grid.
    """
    frames: dict[object, _Frame] = {}
    for arm in arms:
        shared = {key: value for key, value in arm.settings.items() if not key.startswith((CODEBOOK, ASSIGNMENT))}
        rate = round(mean_rate(arm.runs), 6)
        frames.setdefault((tuple(sorted(shared.items())), rate), _Frame(shared, rate)).arms.append(arm)
    different = {tuple(sorted(frame.settings.items())): frame.settings for frame in frames.values()}
    telling = telling_keys(list(different.values()))
    grids = (_grid(frame, telling) for frame in frames.values())
    return [grid for grid in grids if grid is not None]


def _grid(frame: _Frame, telling: Sequence[str]) -> Grid | None:
    arms = _in_both_ways(frame.arms)
    if not arms:
        return None
    arms = sorted(arms, key=lambda arm: _place(arm.quantizer, REFERENCES))
    codebooks = names_apart([_part(arm, CODEBOOK) for arm in arms], f"{CODEBOOK}name")
    assignments = names_apart([_part(arm, ASSIGNMENT) for arm in arms], f"{ASSIGNMENT}name")
    rungs = {name: arm.settings.get(f"{ASSIGNMENT}name", "") for name, arm in zip(assignments, arms, strict=True)}
    n_codes = list(dict.fromkeys(arm.n_codes for arm in arms))
    parts = [
        *([f"K={n_codes[0]}"] if len(n_codes) == 1 else []),
        f"{frame.rate:g} bits per image",
        *(f"{key}={frame.settings.get(key, NONE)}" for key in telling),
    ]
    return Grid(
        ", ".join(parts),
        tuple(dict.fromkeys(codebooks)),
        tuple(sorted(rungs, key=lambda name: _place(rungs[name], LADDER))),
        dict(zip(zip(codebooks, assignments, strict=True), arms, strict=True)),
    )


def _in_both_ways(arms: Sequence[Arm]) -> list[Arm]:
    """Without the arms whose codebook or whose assignment no other has, until all that are left have both."""
    kept = list(arms)
    while True:
        before = len(kept)
        for prefix in (CODEBOOK, ASSIGNMENT):
            levels = [_part(arm, prefix) for arm in kept]
            kept = [arm for arm, level in zip(kept, levels, strict=True) if levels.count(level) > 1]
        if len(kept) == before:
            return kept


def _part(arm: Arm, prefix: str) -> dict[str, str]:
    return {key: value for key, value in arm.settings.items() if key.startswith(prefix)}


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def analyse(grid: Grid, resamplings: int, seed: int) -> Factorial:
    """Means of the cells, shares of codebook and assignment, and the gain of the best cell in both orders.

    The best cell is the one of the highest mean among the codebooks on the references' autoencoders: a quantizer that
    brings an autoencoder of its own gains by that as well.

    Args:
        grid: from ``find_grids``.
        resamplings: of the paired bootstrap over images, where there is one seed.
        seed: of the resampling.
    """
    notes = Footnotes()
    references = _references(grid)
    shared = _autoencoders(grid, references[0])
    alike = [codebook for codebook in grid.codebooks if _autoencoders(grid, codebook) & shared]
    codebook_notes = {
        codebook: (
            notes.number(
                f"{codebook} has an autoencoder of its own: what it gains over another codebook is not the codebook's "
                "alone."
            ),
        )
        for codebook in grid.codebooks
        if codebook not in alike
    }
    psnr = {key: seed_cell(arm.runs, "psnr", notes) for key, arm in grid.arms.items()}
    decompositions: tuple[Decomposition, ...] = ()
    if len(alike) > 1:
        best = max((key for key in psnr if key[0] in alike), key=lambda key: psnr[key].mean or 0.0)
        starts = [(reference, grid.assignments[0]) for reference in references if reference in alike]
        decompositions = tuple(Decomposition(best, start) for start in starts if start in psnr and start != best)
    gains: dict[tuple[CellKey, CellKey], Gain] = {}
    for cell, over in _pairs(grid, references, decompositions):
        if (cell, over) not in gains and cell in grid.arms and over in grid.arms:
            gains[cell, over] = Gain(*psnr_difference(grid.arms[cell], grid.arms[over], resamplings, seed, notes))
    return Factorial(grid, psnr, references, gains, decompositions, codebook_notes, tuple(notes.texts))


def _references(grid: Grid) -> tuple[str, ...]:
    by_quantizer = {arm.quantizer: codebook for (codebook, _), arm in reversed(list(grid.arms.items()))}
    return tuple(by_quantizer[name] for name in REFERENCES if name in by_quantizer) or grid.codebooks[:1]


def _autoencoders(grid: Grid, codebook: str) -> set[str]:
    """Keys of the autoencoders that a codebook of the grid stands on."""
    return {run.autoencoder for (name, _), arm in grid.arms.items() if name == codebook for run in arm.runs}


def compared_codebooks(grid: Grid, references: Sequence[str], reference: str) -> list[str]:
    """The codebooks whose shares over a reference are shown: not the reference, nor those it was itself compared
    with as another reference's.
    """
    done = references[: references.index(reference) + 1]
    return [codebook for codebook in grid.codebooks if codebook not in done]


def _pairs(
    grid: Grid, references: Sequence[str], decompositions: Sequence[Decomposition]
) -> list[tuple[CellKey, CellKey]]:
    """Every difference to take: cell, and the cell it is compared with."""
    pairs: list[tuple[CellKey, CellKey]] = []
    for reference in references:
        for codebook in compared_codebooks(grid, references, reference):
            pairs += [((codebook, assignment), (reference, assignment)) for assignment in grid.assignments]
    start, *others = grid.assignments
    pairs += [((codebook, assignment), (codebook, start)) for codebook in grid.codebooks for assignment in others]
    for decomposition in decompositions:
        pairs += [(cell, over) for cell, over in decomposition.steps.values() if cell != over]
    return pairs
