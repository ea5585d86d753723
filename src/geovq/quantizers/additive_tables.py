"""Tables whose rows add up to codewords, and axes for them: what product, residual and scalar codebooks share.

A token is the sum of one row per slot (additive quantization: Babenko, Lempitsky 2014). The kinds differ only in the
directions that the rows of a slot may take: all of them (residual), those of a block of dimensions (product), one axis
(scalar).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from geovq.geometry.neighbors import centre_of
from geovq.geometry.symmetric import square_root

# Tokens that are summed at a time in float64.
_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class AdditiveTables:
    """Rows ``bases[m] @ coordinates[m][k]`` of every slot, and an offset that belongs to all codewords.

    Attributes:
        coordinates: per slot ``(K_m, r_m)`` float64.
        bases: per slot ``(d, r_m)`` float64, independent columns.
        offset: ``(d,)`` float64.
        free_offset: whether a fit may move the offset. Where a slot spans all directions its rows hold it, and the
            offset stays as it is.
    """

    coordinates: tuple[np.ndarray, ...]
    bases: tuple[np.ndarray, ...]
    offset: np.ndarray
    free_offset: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of every slot."""
        return tuple(len(each) for each in self.coordinates)

    def rows(self) -> tuple[np.ndarray, ...]:
        """Tables ``(K_m, d)`` float32 whose rows add up to codewords; the first holds the offset."""
        tables = [each @ basis.T for each, basis in zip(self.coordinates, self.bases, strict=True)]
        tables[0] = tables[0] + self.offset
        return tuple(table.astype(np.float32) for table in tables)

    def moved(self, steps: Sequence[np.ndarray], offset_step: np.ndarray) -> AdditiveTables:
        """The tables with steps ``(K_m, r_m)`` added to the coordinates, and one ``(d,)`` to the offset."""
        coordinates = tuple(each + step for each, step in zip(self.coordinates, steps, strict=True))
        return replace(self, coordinates=coordinates, offset=self.offset + offset_step)

    def centred(self, codes: np.ndarray, weights: np.ndarray) -> AdditiveTables:
        """The same codewords with rows that are zero on average in all slots but the one that holds the mean.

        Adding a vector to all rows of a slot and taking it from another changes no codeword. A search that fixes slot
        after slot needs the later rows to be small.

        Args:
            codes: ``(J, M)`` combinations in use.
            weights: ``(J,)`` how often.
        """
        coordinates = list(self.coordinates)
        carried = np.zeros(len(self.offset))
        for slot in range(0 if self.free_offset else 1, len(coordinates)):
            used = np.bincount(codes[:, slot], weights, len(coordinates[slot]))
            mean = used @ coordinates[slot] / used.sum()
            coordinates[slot] = coordinates[slot] - mean
            carried += self.bases[slot] @ mean
        if self.free_offset:
            return replace(self, coordinates=tuple(coordinates), offset=self.offset + carried)
        coordinates[0] = coordinates[0] + np.linalg.lstsq(self.bases[0], carried, rcond=None)[0]
        return replace(self, coordinates=tuple(coordinates))


def all_codewords(tables: Sequence[np.ndarray]) -> np.ndarray:
    """``(K_1 ⋯ K_M, d)`` sums of one row per table, the code of the last slot running fastest."""
    sums = tables[0]
    for table in tables[1:]:
        sums = (sums[:, None] + table).reshape(-1, table.shape[1])
    return np.ascontiguousarray(sums)


def add_rows(tables: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Codewords ``(N, d)`` of codes ``(N, M)``: one row per table, added in the order of the slots."""
    total = tables[0][codes[:, 0]]
    for slot, table in enumerate(tables[1:], start=1):
        total = total + table[codes[:, slot]]
    return np.asarray(total)


class PrincipalAxes(NamedTuple):
    """Coordinates ``y = (z − origin) @ into`` with ``z = origin + directions @ y``, whose lengths are those of the
    metric.

    ``yᵀy = (z − origin)ᵀA(z − origin)``, and the ``y`` of the tokens are uncorrelated.
    """

    origin: np.ndarray
    """``(d,)`` float32 mean of the tokens."""
    into: np.ndarray
    """``(d, d)`` float64."""
    directions: np.ndarray
    """``(d, d)`` float64, a column per axis; the inverse of ``intoᵀ``."""
    variances: np.ndarray
    """``(d,)`` float64, descending."""

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """``(N, d)`` float32 coordinates of points."""
        return np.asarray((points - self.origin) @ self.into.astype(np.float32))


def principal_axes(points: np.ndarray, metric: np.ndarray) -> PrincipalAxes:
    """Principal axes of ``A^½z`` for ``(N, d)`` float32 points and a positive definite metric ``A`` ``(d, d)``.

    With ``A`` the mean pull-back metric these are coordinates that whiten the decoded error, not the tokens: an error
    of one unit costs the same along every axis, and the variances tell where there is something to code.
    """
    origin = centre_of(points)
    covariance = np.zeros_like(metric, dtype=np.float64)
    for start in range(0, len(points), _ROWS):
        part = (points[start : start + _ROWS] - origin).astype(np.float64)
        covariance += part.T @ part
    root = square_root(metric)
    values, vectors = np.linalg.eigh(root @ (covariance / len(points)) @ root)
    into = root @ vectors[:, ::-1]
    return PrincipalAxes(origin, into, np.linalg.inv(into).T, np.maximum(values[::-1], 0))
