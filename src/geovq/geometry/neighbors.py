"""The nearest neighbours of points: exact where that is cheap or asked for, else at a measured recall.

Points are distinct tokens, in the latents' own coordinates or whitened by the mean metric. A constant metric ``G`` is
worth one linear map: ``‖R(x − y)‖² = (x − y)ᵀG(x − y)`` with ``R = G^{1/2}``. With the mean metric of all tokens,
Euclidean distances of whitened latents are pixel error as it is on average, and directions that the decoder hardly sees
no longer decide who is near.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_points
from geovq.geometry.computing import in_threads
from geovq.geometry.flat_search import DeviceSearch, FaissSearch
from geovq.geometry.inverted_lists import InvertedLists
from geovq.geometry.symmetric import mean_metric, square_root
from geovq.progress import progress

_QUERY_BLOCK = 32_768
_RECALL_QUERIES = 1_000
# Candidates of a brute-force search beyond those wanted: |x|² + |y|² − 2xy may take near ties in a wrong order.
_SPARE = 8
# Share of the mean eigenvalue added to the mean metric: tokens that differ where the decoder is blind stay distinct.
_RIDGE = 1e-6


def distinct(points: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Collapse exact duplicates: ``(unique (M, d), inverse (N,) int32, counts (M,) int32)``.

    Unique points stand in the order of their first occurrence; ``unique[inverse]`` gives the points back.
    Rows are equal when all their float32 values are (so 0.0 equals −0.0). Rows are sorted by a 64-bit hash
    and compared with their neighbours in that order, which costs one sort of integers instead of one of rows.

    Raises:
        InputError: not a matrix, empty, or not finite.
    """
    rows = as_points(points, "points") + np.float32(0.0)  # −0.0 + 0.0 = 0.0: one bit pattern per value
    words = rows.view(np.uint32)
    rng = np.random.default_rng(0x9E3779B9)
    multipliers = np.asarray(rng.integers(1, 2**63, size=rows.shape[1], dtype=np.uint64)) | np.uint64(1)
    hashes = np.zeros(len(rows), dtype=np.uint64)
    for column in range(rows.shape[1]):  # wrap-around sums of mixed words: a multilinear hash
        word: np.ndarray = words[:, column].astype(np.uint64)
        hashes += (word ^ (word << np.uint64(29))) * multipliers[column]
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    later, earlier = order[1:][same], order[:-1][same]
    if not np.array_equal(words[later], words[earlier]):
        # Two different rows with one hash (about one chance in 10⁷ at a million rows): sort the rows
        # themselves.
        order = np.lexsort(words.T[::-1])
        same = (words[order[1:]] == words[order[:-1]]).all(axis=1)
    starts = np.concatenate(([True], ~same))
    group = np.cumsum(starts, dtype=np.int64) - 1  # of each sorted row
    first = order[starts]  # both sorts are stable, so this is the first occurrence
    appearance = np.argsort(first, kind="stable")
    rank = np.empty(len(first), dtype=np.int32)
    rank[appearance] = np.arange(len(first), dtype=np.int32)
    inverse = np.empty(len(rows), dtype=np.int32)
    inverse[order] = rank[group]
    counts = np.bincount(inverse, minlength=len(first)).astype(np.int32)
    return rows[first[appearance]], inverse, counts


def whitening(metrics: torch.Tensor | None, search: str = "whitened") -> np.ndarray:
    """``(Ḡ + ρI)^{1/2}``, ``(d, d)`` float32, of packed metrics ``(N, d(d+1)/2)``; ρ is a millionth of their mean
    eigenvalue, so that it can be inverted and distinct tokens stay distinct.

    Raises:
        InputError: no metrics, or all of them zero.
    """
    if metrics is None:
        raise InputError(
            f"search is {search!r}, but there are no metrics to whiten by; give metrics or search='latent'"
        )
    return square_root(mean_metric(metrics), _RIDGE).astype(np.float32)


def centre_of(nodes: np.ndarray) -> np.ndarray:
    """Mean ``(d,)`` of nodes ``(M, d)``, summed in float64."""
    return nodes.mean(axis=0, dtype=np.float64).astype(np.float32)


def search_coordinates(points: np.ndarray, centre: np.ndarray, transform: np.ndarray | None) -> np.ndarray:
    """Points ``(Q, d)`` as they are searched: unchanged, or mapped by ``transform`` around the nodes' mean ``centre``.

    The mean is subtracted first, so that latents far from zero keep their digits. A point's coordinates do not depend
    on its company, to the last bit: a query that equals a node lands on it.
    """
    if transform is None:
        return points
    result = np.zeros_like(points)
    in_threads(_map_rows, len(points), points, centre, transform, result)
    return result


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


class KnownLists(NamedTuple):
    """What a search has found out about points that lie list by list, so that the next need not."""

    centroids: np.ndarray
    """``(L, d)`` float32 of the lists."""
    starts: np.ndarray
    """``(L + 1,)`` int64 where each list begins among the points."""
    visits: np.ndarray
    """``(n, 3)`` float64 neighbours that were asked for, lists visited for them, and the recall with these."""


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
        known: of another index over these points, with the same settings.

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
        known: KnownLists | None = None,
    ) -> None:
        if not 0 < recall <= 1:
            raise InputError(f"recall is {recall}; it is the share of neighbours to find and lies in (0, 1]")
        self.points = as_points(points, "points")
        self.recall = recall
        self._centre = centre_of(self.points)
        self._seed = seed
        self._known = None if known is None else (known.centroids, known.starts)
        visits = [] if known is None else known.visits.tolist()
        self._visits: dict[int, tuple[int, float]] = {int(k): (int(lists), found) for k, lists, found in visits}
        self._flat: FaissSearch | DeviceSearch | None = None
        if device is not None and torch.device(device).type != "cpu":
            self._flat = DeviceSearch(self.centred, device)
        elif len(self.points) <= exact_below:
            self._flat = FaissSearch(self.centred)

    @property
    def centred(self) -> np.ndarray:
        """``(M, d)`` the points around their mean, where ``|x|² + |y|² − 2xy`` loses least."""
        return self.points - self._centre

    @cached_property
    def lists(self) -> InvertedLists:
        """The inverted file, built when it is first needed."""
        return InvertedLists(self.centred, self._seed, self._known)

    def line_up(self) -> np.ndarray | None:
        """Move many points into the order of the lists, where near ones lie together in memory.

        Returns:
            ``(M,)`` the place before of every point; None where there are no lists or not more than a million points,
            which stay where they are.
        """
        order = self.lists.line_up() if self._flat is None else None
        if order is not None:
            self.points = self.points[order]
        return order

    def known(self) -> KnownLists:
        """What another index over these points, where they lie list by list, need not find out again."""
        visits = [(k, *measured) for k, measured in self._visits.items()]
        return KnownLists(self.lists.centroids, self.lists.starts, np.array(visits, dtype=np.float64).reshape(-1, 3))

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


@njit(cache=True, nogil=True)
def _map_rows(points, centre, transform, result, first, last):  # type: ignore[no-untyped-def]
    for row in range(first, last):
        for a in range(points.shape[1]):
            value = points[row, a] - centre[a]
            for b in range(points.shape[1]):
                result[row, b] += value * transform[a, b]


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
