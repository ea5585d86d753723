"""Distinct points and their nearest neighbours, exact where cheap, else at a measured recall."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_points
from geovq.progress import progress

_QUERY_BLOCK = 32_768
_RECALL_QUERIES = 1_000


class Neighbors(NamedTuple):
    """Nearest neighbours of every query, nearest first."""

    indices: np.ndarray
    """``(Q, k)`` int32 rows of the searched points."""
    squared_distances: np.ndarray
    """``(Q, k)`` float32 squared Euclidean distances."""
    recall: float
    """Share of true neighbours found, measured on a sample of queries; 1.0 for exact search."""
    method: str
    """``"flat"`` (exact) or ``"ivf"`` with its settings."""


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


def nearest_neighbors(
    points: Array,
    k: int,
    queries: Array | None = None,
    recall: float = 0.99,
    seed: int = 0,
    exact_below: int = 20_000,
) -> Neighbors:
    """The ``k`` nearest of ``points`` for every query, by Euclidean distance.

    Up to ``exact_below`` points every distance is computed. Above, an inverted file over a k-means partition
    is searched (Jégou, Douze, Schmid 2011), visiting more and more lists until at least ``recall`` of the
    true neighbours of a sample of queries is found.

    Args:
        points: ``(M, d)``.
        k: neighbours per query; without ``queries`` a point is not its own neighbour.
        queries: ``(Q, d)``; by default the points themselves.
        recall: share of true neighbours to reach, in (0, 1]; 1.0 asks for exact search.
        seed: of the partition and the sample.
        exact_below: number of points up to which search is exact.

    Raises:
        InputError: ``k`` below 1 or not below the number of points, NaN, dimensions or recall that do not
            fit.
    """
    base = as_points(points, "points")
    target = base if queries is None else as_points(queries, "queries")
    available = len(base) - (queries is None)
    if not 1 <= k <= available:
        raise InputError(f"k is {k}, but there are {available} other points to choose neighbours from; lower k")
    if target.shape[1] != base.shape[1]:
        raise InputError(f"queries have {target.shape[1]} dimensions, the points {base.shape[1]}; they must agree")
    if not 0 < recall <= 1:
        raise InputError(f"recall is {recall}; it is the share of neighbours to find and lies in (0, 1]")
    wanted = k + (queries is None)
    if len(base) <= exact_below or recall == 1.0:
        index, reached, method = _flat_index(base), 1.0, "flat"
        order = np.arange(len(target))
    else:
        index, reached, method = _inverted_file(base, target, k, queries is None, recall, seed)
        # Queries of one list visit the same lists: taken together, these stay in the processor's cache.
        order = np.argsort(index.quantizer.search(target, 1)[1][:, 0], kind="stable")
    indices = np.empty((len(target), k), dtype=np.int32)
    squared = np.empty((len(target), k), dtype=np.float32)
    with progress("nearest neighbours", total=len(target)) as advance:
        for start in range(0, len(target), _QUERY_BLOCK):
            rows = order[start : start + _QUERY_BLOCK]
            block = target[rows]
            found, distance = _search(index, block, wanted, base if method == "flat" else None)
            short = np.flatnonzero((found < 0).any(axis=1))
            if len(short):  # the visited lists held too few points: search everything for these queries
                found[short], distance[short] = _search(_flat_index(base), block[short], wanted, base)
            if queries is None:
                found, distance = _without_self(found, distance, rows)
            indices[rows] = found
            squared[rows] = distance
            advance(len(rows))
    return Neighbors(indices, squared, reached, method)


def _flat_index(base: np.ndarray) -> Any:
    import faiss

    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base)
    return index


def _inverted_file(
    base: np.ndarray, target: np.ndarray, k: int, has_self: bool, recall: float, seed: int
) -> tuple[Any, float, str]:
    """An inverted file whose number of visited lists reaches ``recall`` on a sample of ``target``.

    With ``has_self`` the targets are the points; finding itself earns a point nothing.
    """
    import faiss

    n_lists = int(4 * np.sqrt(len(base)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(base.shape[1]), base.shape[1], n_lists)
    index.cp.seed = seed + 1
    index.cp.niter = 6
    index.cp.min_points_per_centroid = 1  # fewer are no fault here, and faiss would print a warning
    index.cp.max_points_per_centroid = 64
    rng = np.random.default_rng(seed)
    training = rng.choice(len(base), min(len(base), 64 * n_lists), replace=False)
    index.train(base[np.sort(training)])
    index.add(base)
    sample = target[np.sort(rng.choice(len(target), min(len(target), _RECALL_QUERIES), replace=False))]
    wanted = k + has_self
    _, true_distance = _search(_flat_index(base), sample, wanted, base)
    # A neighbour as near as the last true one is as good as it: ties do not count as misses.
    reach = true_distance[:, -1:] * (1 + 1e-5)
    n_visited, reached = 4, 0.0
    while True:
        index.nprobe = n_visited
        _, distance = _search(index, sample, wanted, None)
        hits = (distance <= reach).sum(axis=1) - has_self
        reached = float(hits.mean() / k)
        if reached >= recall or n_visited >= n_lists:
            return index, reached, f"ivf(lists={n_lists}, visited={n_visited})"
        n_visited = min(n_lists, int(np.ceil(n_visited * 1.25)))


def _search(index: Any, queries: np.ndarray, wanted: int, base: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Indices and squared distances, nearest first.

    Flat search computes ``|x|² + |y|² − 2xy``, which cancels for close points; given ``base``, the distances
    of the found points are computed again from their differences.
    """
    distance, found = index.search(queries, wanted)
    if base is None:
        distance[found < 0] = np.inf  # the visited lists held too few points: −1 fills up
        return found, distance
    for start in range(0, len(queries), 4_096):
        part = slice(start, start + 4_096)
        distance[part] = np.square(base[found[part]] - queries[part, None]).sum(axis=2)
    order = np.argsort(distance, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(distance, order, axis=1)


def _without_self(found: np.ndarray, distance: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop each row's own point, or its last neighbour where the own point was not among them."""
    own = found == rows[:, None]
    own[~own.any(axis=1), -1] = True
    shape = (len(found), found.shape[1] - 1)
    return found[~own].reshape(shape), distance[~own].reshape(shape)
