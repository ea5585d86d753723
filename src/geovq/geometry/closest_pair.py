"""The shortest edge that leaves a set of points, exactly."""

from __future__ import annotations

import numpy as np
from numba import njit

from geovq.errors import InputError
from geovq.geometry.inverted_lists import InvertedLists, squared_distance, squared_distances


def closest_pair(points: np.ndarray, lists: InvertedLists, inside: np.ndarray) -> tuple[int, int]:
    """Rows ``(a, b)`` of the closest two points with ``a`` inside and ``b`` outside.

    A point of the list around centroid ``c`` lies nearer to it than to the centroid ``h`` of any other list, so a query
    ``x`` is at least ``(‖x − c‖² − ‖x − h‖²) / 2‖c − h‖`` away from it: the distance of the plane halfway between the
    two. Lists that cannot hold a point nearer than the closest pair so far are not opened.

    Args:
        points: ``(M, d)`` float32, those that ``lists`` hold.
        lists: of the points.
        inside: ``(M,)`` bool, neither all true nor all false.

    Raises:
        InputError: all squared distances overflow.
    """
    rows = np.flatnonzero(inside)
    n_outside = np.add.reduceat(np.append(~inside[lists.members], False), lists.starts[:-1], dtype=np.int64)
    others = np.flatnonzero((n_outside > 0) & (np.diff(lists.starts) > 0))
    a, b = _closest_pair(
        points, rows, inside, others, lists.home_of_points, lists.centroids, lists.starts, lists.columns, lists.members
    )
    if a < 0:
        raise InputError("squared distances overflow float32; scale the points down")
    return a, b


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _closest_pair(points, rows, inside, others, home, centroids, starts, columns, members):  # type: ignore[no-untyped-def]
    """See ``closest_pair``; of ``others``, the lists with points outside, the nearest to each row is opened first."""
    dimension = points.shape[1]
    squared = np.empty(np.max(starts[1:] - starts[:-1]), np.float32)
    to_centroid = np.empty(len(others), np.float32)
    best, pair = np.float32(np.inf), (np.int64(-1), np.int64(-1))
    for row in rows:
        query, own = points[row], centroids[home[row]]
        for place in range(len(others)):
            to_centroid[place] = squared_distance(query, centroids[others[place]])
        to_own = squared_distance(query, own)
        nearest = np.argmin(to_centroid)
        for turn in range(len(others)):
            place = nearest if turn == 0 else (turn if turn > nearest else turn - 1)
            number = others[place]
            beyond = to_centroid[place] - to_own
            bound = 4 * squared_distance(centroids[number], own) * best * np.float32(1 + 1e-4)
            if beyond > 0 and beyond * beyond > bound:
                continue
            begin = starts[number]
            size = starts[number + 1] - begin
            squared_distances(columns[begin * dimension : (begin + size) * dimension], query, squared[:size])
            for member in range(size):
                if squared[member] < best and not inside[members[begin + member]]:
                    best = squared[member]
                    pair = (np.int64(row), np.int64(members[begin + member]))
    return pair
