"""Alternate between codes and tables of an additive codebook, for any cost that is a sum of squares in metrics.

Given the codes, the best rows of all slots together solve one linear system. What it needs of the tokens are sums of
their metrics over those with equal codes in all slots: no more cells than a flat codebook of the same rate has, and one
pass over the tokens. Given the tables, tokens take the cheapest sum of rows. Neither half raises the cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch

from geovq.geometry.symmetric import packed_size
from geovq.quantizers.additive_search import AdditiveCosts
from geovq.quantizers.additive_tables import AdditiveTables, add_rows
from geovq.quantizers.lloyd import Distortion
from geovq.quantizers.metric_features import unpack_twice
from geovq.quantizers.nearest import cell_sums

# Unknowns up to which the rows of all slots are solved for together (a matrix of 128 MB); above, slot by slot.
_JOINT_UNKNOWNS = 4096
# Weight of staying put, as a share of the diagonal: decides the directions in which no codeword moves.
_INERTIA = 1e-9


@dataclass(frozen=True, eq=False)
class JointCells:
    """Sums over the tokens that agree in all their codes: what their cost depends on.

    Attributes:
        codes: ``(J, M)`` int64 combinations in use.
        counts: ``(J,)`` tokens of each.
        packed: ``(J, d(d+1)/2)`` float64 ``ΣG``, off-diagonal entries twice.
        vectors: ``(J, d)`` float64 ``ΣGz``, ``z`` around the origin.
        origin: ``(d,)``.
        sizes: codes of every slot.
    """

    codes: np.ndarray
    counts: np.ndarray
    packed: np.ndarray
    vectors: np.ndarray
    origin: np.ndarray
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, costs: AdditiveCosts, codes: np.ndarray, sizes: tuple[int, ...]) -> JointCells:
        """The cells that codes ``(N, M)`` make of the tokens."""
        flat = np.ravel_multi_index(tuple(codes.T.astype(np.int64)), sizes)
        used, cells, counts = np.unique(flat, return_inverse=True, return_counts=True)
        sums = costs.sums(cells, counts.astype(np.float64))
        size = packed_size(len(costs.origin))
        combinations = np.stack(np.unravel_index(used, sizes), axis=1)
        return cls(combinations, counts, sums[:, :size], sums[:, size:], costs.origin, sizes)

    def cost(self, tables: tuple[np.ndarray, ...]) -> float:
        """``Σ cᵀ(ΣG)c − 2 Σ cᵀΣGz`` in float64: the cost of the tokens when they keep their codes, less ``ΣzᵀGz``."""
        c = add_rows(tables, self.codes).astype(np.float64) - self.origin
        i, j = np.triu_indices(c.shape[1])
        return float((c[:, i] * c[:, j] * self.packed).sum() - 2 * (c * self.vectors).sum())


class AdditiveDistortion(Distortion):
    """Costs of ``AdditiveTables``, whose codes ``(N, M)`` have a column per slot.

    Args:
        costs: of the tokens.
        metric: ``(d, d)`` in which a row without tokens is fitted to the token that it moves to.
        beam: width of the search where not all codewords are tried.
    """

    def __init__(self, costs: AdditiveCosts, metric: np.ndarray, beam: int) -> None:
        self.points = costs.points
        self._costs, self._metric, self._beam = costs, metric, beam

    def assign(self, codebook: AdditiveTables) -> tuple[np.ndarray, np.ndarray]:
        """The cheapest sums of rows."""
        return self._costs.assign(codebook.rows(), self._beam)

    def best(self, codebook: AdditiveTables, codes: np.ndarray) -> AdditiveTables:
        """The tables by least squares, or those that were given where rounding makes them cost more."""
        cells = JointCells.of(self._costs, codes, codebook.sizes)
        moved = refit(codebook, cells)
        return codebook if cells.cost(moved.rows()) > cells.cost(codebook.rows()) else moved

    def unused(self, codebook: AdditiveTables, codes: np.ndarray) -> list[tuple[int, int]]:
        """Slots and codes that no token has."""
        return [
            (slot, code)
            for slot, size in enumerate(codebook.sizes)
            for code in np.setdiff1d(np.arange(size), codes[:, slot]).tolist()
        ]

    def moved(self, codebook: AdditiveTables, codes: np.ndarray, costs: np.ndarray) -> AdditiveTables:
        """The best tables; rows without tokens fit what badly served tokens lack in the directions of the slot."""
        tables, unused = self.best(codebook, codes), self.unused(codebook, codes)
        if not unused:
            return tables
        steps, rows = [np.zeros_like(coordinates) for coordinates in tables.coordinates], tables.rows()
        for (slot, code), token in zip(unused, np.argsort(-costs, kind="stable"), strict=False):
            pulled = tables.bases[slot].T @ self._metric
            lacking = self.points[token] - add_rows(rows, codes[token][None])[0].astype(np.float64)
            wanted = tables.coordinates[slot][codes[token, slot]]
            wanted = wanted + np.linalg.solve(pulled @ tables.bases[slot], pulled) @ lacking
            steps[slot][code] = wanted - tables.coordinates[slot][code]
        return tables.moved(steps, np.zeros_like(tables.offset))


def refit(tables: AdditiveTables, cells: JointCells) -> AdditiveTables:
    """The tables that cost least for these codes, by weighted least squares.

    The unknowns ``x`` are the coordinates of all rows and, where it is free, the offset. With ``c_j = Σ_m B_m
    x_{m,j_m}`` the cost is quadratic, and the step solves ``(A + εD)Δ = b − Ax``, ``A_{mk,m'k'} = B_mᵀ(Σ_j G_j)B_m'``
    over the cells with both codes, ``D`` the diagonal of ``A``. ``ε = 10⁻⁹`` keeps rows where they are in directions
    that change no codeword. Beyond 4096 unknowns the slots are solved one after the other.
    """
    bases = [*tables.bases, np.eye(len(tables.offset))] if tables.free_offset else [*tables.bases]
    sizes = [*tables.sizes, 1] if tables.free_offset else [*tables.sizes]
    codes = np.pad(cells.codes, ((0, 0), (0, len(sizes) - len(tables.sizes))))  # all tokens share the offset
    steps = [np.zeros((size, basis.shape[1])) for size, basis in zip(sizes, bases, strict=True)]
    if sum(step.size for step in steps) <= _JOINT_UNKNOWNS:
        pull = _pull(tables, cells)
        right = [_scatter(pull, codes[:, m], sizes[m]) @ bases[m] for m in range(len(sizes))]
        solution = solve_step(_normal_matrix(cells, codes, sizes, bases), np.concatenate([r.ravel() for r in right]))
        ends = np.cumsum([step.size for step in steps])[:-1]
        steps = [part.reshape(step.shape) for part, step in zip(np.split(solution, ends), steps, strict=True)]
        return _stepped(tables, steps).centred(cells.codes, cells.counts)
    for m, (size, basis) in enumerate(zip(sizes, bases, strict=True)):
        matrices = unpack_twice(_scatter(cells.packed, codes[:, m], size), len(tables.offset))
        right_side = _scatter(_pull(tables, cells), codes[:, m], size) @ basis
        parts = [np.zeros_like(step) for step in steps]
        parts[m] = np.stack([solve_step(basis.T @ a @ basis, b) for a, b in zip(matrices, right_side, strict=True)])
        tables = _stepped(tables, parts)
    return tables.centred(cells.codes, cells.counts)


def _stepped(tables: AdditiveTables, steps: list[np.ndarray]) -> AdditiveTables:
    offset_step = steps[-1][0] if tables.free_offset else np.zeros_like(tables.offset)
    return tables.moved(steps[: len(tables.sizes)], offset_step)


def _pull(tables: AdditiveTables, cells: JointCells) -> np.ndarray:
    """``(J, d)`` ``Σ G(z − c)`` of every cell: half the slope of the cost along ``−c``."""
    c = tables.offset - cells.origin + np.zeros_like(cells.vectors)
    for slot, (each, basis) in enumerate(zip(tables.coordinates, tables.bases, strict=True)):
        c += (each @ basis.T)[cells.codes[:, slot]]
    result = cells.vectors.copy()
    i, j = np.triu_indices(c.shape[1])
    for place, (row, column) in enumerate(zip(i, j, strict=True)):
        entries = cells.packed[:, place] * (1.0 if row == column else 0.5)
        result[:, row] -= entries * c[:, column]
        if row != column:
            result[:, column] -= entries * c[:, row]
    return result


def _normal_matrix(cells: JointCells, codes: np.ndarray, sizes: list[int], bases: list[np.ndarray]) -> np.ndarray:
    """``(U, U)`` the matrix ``A`` of ``refit``, U unknowns."""
    widths = [size * basis.shape[1] for size, basis in zip(sizes, bases, strict=True)]
    starts = np.cumsum([0, *widths])
    matrix = np.zeros((starts[-1], starts[-1]))
    for m in range(len(sizes)):
        for n in range(m, len(sizes)):
            pairs = _scatter(cells.packed, codes[:, m] * sizes[n] + codes[:, n], sizes[m] * sizes[n])
            blocks = bases[m].T @ unpack_twice(pairs, len(bases[m])) @ bases[n]
            block = blocks.reshape(sizes[m], sizes[n], *blocks.shape[1:]).transpose(0, 2, 1, 3)
            place = slice(starts[m], starts[m + 1]), slice(starts[n], starts[n + 1])
            matrix[place] = block.reshape(widths[m], widths[n])
            matrix[place[1], place[0]] = matrix[place].T
    return matrix


def solve_step(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The step, its rows scaled alike: those of few tokens count as much as others, those of none stay."""
    diagonal = np.diag(matrix)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    scaled = matrix * scale * scale[:, None]
    scaled[np.diag_indices_from(scaled)] = 1 + _INERTIA
    try:
        return np.asarray(scipy.linalg.solve(scaled, right * scale, assume_a="pos")) * scale
    except np.linalg.LinAlgError:
        # Metrics rounded to half precision need not be positive, nor their sums over the few tokens of a row; such
        # directions are left where they are.
        values, vectors = np.linalg.eigh(scaled)
        inverse = np.where(values > _INERTIA, 1 / np.maximum(values, _INERTIA), 0.0)
        return np.asarray(vectors @ (inverse * (vectors.T @ (right * scale)))) * scale


def _scatter(values: np.ndarray, cells: np.ndarray, n_cells: int) -> np.ndarray:
    """Sums ``(n_cells, p)`` of the rows of each cell."""
    return cell_sums(torch.from_numpy(np.ascontiguousarray(values)), cells, n_cells)
