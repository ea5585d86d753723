"""The nearest neighbours of points: exact where that is cheap or asked for, else at a measured recall."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numba import njit

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_points
from geovq.geometry.device_search import DeviceSearch
from geovq.geometry.distinct import distinct
from geovq.geometry.inverted_lists import InvertedLists
from geovq.geometry.threads import in_threads
from geovq.progress import progress

__all__ = ["NeighborIndex", "Neighbors", "distinct", "nearest_neighbors"]

_QUERY_BLOCK = 32_768
_RECALL_QUERIES = 1_000
# Candidates of a brute-force search beyond those wanted: |x|² + |y|² − 2xy may take near ties in a wrong order.
_SPARE = 8


class Neighbors(NamedTuple):
    """Nearest neighbours of every query, nearest first, the one with the lower index first among equals."""

    indices: np.ndarray
    """``(Q, k)`` int32 rows of the searched points."""
    squared_distances: np.ndarray
    """``(Q, k)`` float32 squared Euclidean distances, summed from differences."""
    recall: float
    """Share of true neighbours found, measured on a sample of the points; 1.0 for exact search."""
    method: str
    """``"flat"`` (all distances, by faiss or on a device) or ``"lists"`` with its settings."""


class _Search(Protocol):
    """Proposes candidates; their distances are computed again from differences."""

    def candidates(self, queries: np.ndarray, wanted: int) -> np.ndarray:
        """``(Q, wanted)`` rows, −1 for none."""


class NeighborIndex:
    """Points prepared for searches of their neighbours.

    Up to ``exact_below`` points, and on an accelerator, every distance is computed. Above, an inverted file over a
    k-means partition is searched (``geovq.geometry.inverted_lists``), visiting as many lists as it takes to find the
    share ``recall`` of the true neighbours of a sample of the points. The number of lists is chosen once for every
    ``k``: the neighbours of a query depend on the query alone, not on what else is asked. ``recall=1.0`` visits all
    lists that may hold a neighbour, which is exact.

    Args:
        points: ``(M, d)``.
        recall: share of true neighbours to find, in (0, 1].
        seed: of the partition and the sample.
        exact_below: number of points up to which every distance is computed.
        device: where to compute every distance, whatever the number of points; by default, and for ``"cpu"``, search
            is on the CPU as said above.

    Raises:
        InputError: not a matrix, empty, NaN or infinity, or another ``recall``.
    """

    def __init__(
        self,
        points: Array,
        recall: float = 0.99,
        seed: int = 0,
        exact_below: int = 20_000,
        device: torch.device | str | None = None,
    ) -> None:
        if not 0 < recall <= 1:
            raise InputError(f"recall is {recall}; it is the share of neighbours to find and lies in (0, 1]")
        self.points = as_points(points, "points")
        self.recall = recall
        self._centre = self.points.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._seed = seed
        self._visits: dict[int, tuple[int, float]] = {}
        self._flat: _Search | None = None
        if device is not None and torch.device(device).type != "cpu":
            self._flat = DeviceSearch(self.centred, device)
        elif len(self.points) <= exact_below:
            self._flat = _FaissFlat(self.centred)

    @property
    def centred(self) -> np.ndarray:
        """``(M, d)`` the points around their mean, where ``|x|² + |y|² − 2xy`` loses least."""
        return self.points - self._centre

    @cached_property
    def lists(self) -> InvertedLists:
        """The inverted file, built when it is first needed."""
        return InvertedLists(self.centred, self._seed)

    def neighbors(self, k: int) -> Neighbors:
        """The ``k`` nearest others of every point.

        Raises:
            InputError: ``k`` below 1 or not below the number of points.
        """
        return self._search(self.points, k, of_points=True)

    def search(self, queries: Array, k: int) -> Neighbors:
        """The ``k`` nearest points of every query ``(Q, d)``; a point that equals it is one.

        Raises:
            InputError: ``k`` below 1 or above the number of points, dimensions that do not fit, NaN.
        """
        target = as_points(queries, "queries")
        if target.shape[1] != self.points.shape[1]:
            raise InputError(
                f"queries have {target.shape[1]} dimensions, the points {self.points.shape[1]}; they must agree"
            )
        return self._search(target, k, of_points=False)

    def _search(self, target: np.ndarray, k: int, of_points: bool) -> Neighbors:
        available = len(self.points) - of_points
        if not 1 <= k <= available:
            raise InputError(f"k is {k}, but there are {available} points to choose neighbours from; lower k")
        indices = np.empty((len(target), k), dtype=np.int32)
        squared = np.empty((len(target), k), dtype=np.float32)
        n_visited, recall = self._n_visited(k)
        home = order = None
        if self._flat is None:
            home = self.lists.home_of_points if of_points else self.lists.home(target - self._centre)
            # Queries of one list visit the same lists: taken together, these stay in the processor's cache.
            order = self.lists.members if of_points else np.argsort(home, kind="stable")
        with progress("nearest neighbours", total=len(target)) as advance:
            for start in range(0, len(target), _QUERY_BLOCK):
                part = slice(start, min(start + _QUERY_BLOCK, len(target)))
                rows = np.arange(part.start, part.stop) if order is None else order[part]
                block = target[rows]
                own = rows if of_points else np.full(len(rows), -1)
                near, gaps = np.empty((len(rows), k), np.int32), np.empty((len(rows), k), np.float32)
                if self._flat is not None:
                    wanted = min(len(self.points), k + of_points + _SPARE)
                    found = self._flat.candidates(block - self._centre, wanted)
                else:
                    assert home is not None
                    found = self.lists.candidates(block - self._centre, home[rows], k + of_points, n_visited)
                    short = np.flatnonzero((found < 0).any(axis=1))
                    if len(short):  # the visited lists held too few points
                        found[short] = self.lists.candidates(
                            block[short] - self._centre, home[rows[short]], k + of_points, self.lists.n_lists
                        )
                in_threads(_nearest_candidates, len(rows), self.points, block, own, found, near, gaps)
                indices[rows], squared[rows] = near, gaps
                advance(len(rows))
        if not np.isfinite(squared[:, -1]).all():
            raise InputError("squared distances overflow float32; scale the points down")
        method = "flat" if self._flat is not None else f"lists({self.lists.n_lists}, visited={n_visited})"
        return Neighbors(indices, squared, recall, method)

    def _n_visited(self, k: int) -> tuple[int, float]:
        """Lists to visit for ``k`` neighbours, and the recall measured with them."""
        if self._flat is not None:
            return 0, 1.0
        if self.recall == 1.0:
            return self.lists.n_lists, 1.0
        if k not in self._visits:
            known = min(k, len(self.points) - 1)
            self._visits[k] = self.lists.visits_for_recall(self.centred, known, self.recall, _RECALL_QUERIES)
        return self._visits[k]


def nearest_neighbors(
    points: Array,
    k: int,
    queries: Array | None = None,
    recall: float = 0.99,
    seed: int = 0,
    exact_below: int = 20_000,
    device: torch.device | str | None = None,
) -> Neighbors:
    """The ``k`` nearest of ``points`` for every query, by Euclidean distance; see ``NeighborIndex``.

    Args:
        points: ``(M, d)``.
        k: neighbours per query; without ``queries`` a point is not its own neighbour.
        queries: ``(Q, d)``; by default the points themselves.
        recall: share of true neighbours to reach, in (0, 1]; 1.0 asks for exact search.
        seed: of approximate search.
        exact_below: number of points up to which every distance is computed.
        device: see ``NeighborIndex``.

    Raises:
        InputError: ``k`` below 1 or not below the number of points, NaN, dimensions or recall that do not
            fit.
    """
    index = NeighborIndex(points, recall, seed, exact_below, device)
    return index.neighbors(k) if queries is None else index.search(queries, k)


class _FaissFlat:
    """Every distance on the CPU."""

    def __init__(self, points: np.ndarray) -> None:
        import faiss

        self._index = faiss.IndexFlatL2(points.shape[1])
        self._index.add(points)

    def candidates(self, queries: np.ndarray, wanted: int) -> np.ndarray:
        return np.asarray(self._index.search(queries, wanted)[1], dtype=np.int32)


@njit(cache=True, nogil=True)
def _nearest_candidates(points, queries, own, found, indices, squared, first, last):  # type: ignore[no-untyped-def]
    """The nearest of the candidates by distances summed from differences, without the query's own row."""
    k = indices.shape[1]
    for row in range(first, last):
        count = 0
        for place in range(found.shape[1]):
            candidate = found[row, place]
            if candidate < 0 or candidate == own[row]:
                continue
            gap = np.float32(0)
            for dim in range(points.shape[1]):
                difference = points[candidate, dim] - queries[row, dim]
                gap += difference * difference
            slot = count
            while slot > 0 and (
                squared[row, slot - 1] > gap or (squared[row, slot - 1] == gap and indices[row, slot - 1] > candidate)
            ):
                if slot < k:
                    squared[row, slot], indices[row, slot] = squared[row, slot - 1], indices[row, slot - 1]
                slot -= 1
            if slot < k:
                squared[row, slot], indices[row, slot] = gap, candidate
                count = min(count + 1, k)
        squared[row, count:] = np.inf
        indices[row, count:] = -1
