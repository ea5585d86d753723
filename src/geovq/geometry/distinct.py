"""Exact duplicates: tokens that agree in every number become one."""

from __future__ import annotations

import numpy as np

from geovq.geometry.checks import Array, as_points


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
