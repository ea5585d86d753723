"""Approximate neighbours by an inverted file: points in lists around k-means centroids, of which a query visits a few.

After Jégou, Douze, Schmid 2011 (the inverted file of their section IV). Two things differ from the textbook, for speed:

- A list is stored dimension by dimension, so that vector instructions work on many of its points at once.
- The lists to visit are ranked among those whose centroids lie nearest to that of the query's own list, instead of
  among all.

How many lists must be visited for a wanted recall is read from a sample of points: the place, in the order of visits,
of the list that holds each true neighbour.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from geovq.geometry.computing import faiss_in_threads, in_threads

# Points per list grow as the root of their number, and so does the number of lists.
_LISTS_PER_ROOT = 4
# k-means: points per centroid it sees, and passes. Recall is measured afterwards, so these trade time for time only.
_TRAINING_POINTS = 32
_TRAINING_PASSES = 4
# Lists visited at most at first, four times as many where the recall asks for it; and how many centroids are ranked for
# each of these.
_FIRST_VISITS = 16
_RANKED_PER_VISIT = 4
# Lists that exact search visits in order, before it goes through all the others.
_ORDERED_LISTS = 32


class InvertedLists:
    """The lists and the number of them to visit.

    Args:
        points: ``(M, d)`` float32, around zero.
        seed: of the k-means partition and of the sample that recall is measured on.
    """

    def __init__(self, points: np.ndarray, seed: int) -> None:
        n_points, dimension = points.shape
        self.n_lists = min(n_points, int(_LISTS_PER_ROOT * np.sqrt(n_points)))
        self._seed = seed
        rng = np.random.default_rng(seed)
        training = rng.choice(n_points, min(n_points, _TRAINING_POINTS * self.n_lists), replace=False)
        kmeans = faiss_in_threads().Kmeans(
            dimension,
            self.n_lists,
            niter=_TRAINING_PASSES,
            seed=(seed + 1) % 2**31,
            min_points_per_centroid=1,  # fewer are no fault here, and faiss would print a warning
            max_points_per_centroid=_TRAINING_POINTS,
        )
        kmeans.train(points[np.sort(training)])
        self._quantizer = kmeans.index
        self.centroids = np.asarray(kmeans.centroids, dtype=np.float32)
        """``(L, d)`` of the ``L`` lists."""
        self.home_of_points = self.home(points)
        """``(M,)`` list of every point."""
        self.members = np.argsort(self.home_of_points, kind="stable")
        """``(M,)`` points list by list."""
        self.starts = np.searchsorted(self.home_of_points[self.members], np.arange(self.n_lists + 1))
        """``(L + 1,)`` where each list begins among the members."""
        self.columns = np.empty(points.size, dtype=np.float32)
        """Lists one after the other: of each all first numbers, then all second ones, …, from ``starts[list]·d`` on."""
        in_threads(_by_dimension, self.n_lists, points, self.members, self.starts, self.columns)
        self._near = np.empty((self.n_lists, 0), dtype=np.int32)

    def home(self, queries: np.ndarray) -> np.ndarray:
        """``(Q,)`` list with the nearest centroid."""
        return np.asarray(self._quantizer.search(queries, 1)[1][:, 0])

    def visits_for_recall(self, points: np.ndarray, k: int, recall: float, n_sample: int) -> tuple[int, float]:
        """How many lists a query must visit, and the share of true neighbours that are found then.

        Measured on a sample of the points: every other point may be a neighbour, the point itself earns nothing.
        """
        rng = np.random.default_rng(self._seed)
        rows = np.sort(rng.choice(len(points), min(len(points), n_sample), replace=False))
        truth = self.candidates(points[rows], self.home_of_points[rows], k + 1, self.n_lists)
        # Drop the point itself, or the last where rounding or a tie hid it.
        own = truth == rows[:, None]
        own[~own.any(axis=1), -1] = True
        where = self.home_of_points[truth[~own].reshape(len(rows), k)]
        limit, before = _FIRST_VISITS, 0
        while True:
            order = self._visits(points[rows], self.home_of_points[rows], limit)
            # Place of each true neighbour's list in the order of visits; n_lists where it is not among them.
            place = np.full((len(rows), self.n_lists), self.n_lists, dtype=np.int32)
            np.put_along_axis(place, order, np.arange(order.shape[1], dtype=np.int32)[None], axis=1)
            places = np.take_along_axis(place, where, axis=1)
            found_by = np.cumsum(np.bincount(places.reshape(-1), minlength=self.n_lists + 1)) / places.size
            enough = before + np.flatnonzero(found_by[before : order.shape[1]] >= recall)
            if len(enough):
                return int(enough[0]) + 1, float(found_by[enough[0]])
            limit, before = limit * 4, limit  # at last all lists are ranked, which finds everything

    def candidates(self, queries: np.ndarray, home: np.ndarray, wanted: int, n_visited: int) -> np.ndarray:
        """``(Q, wanted)`` int32 nearest points in the visited lists, nearest first; −1 where these hold too few.

        With ``n_visited`` of all lists the search is exact: those that cannot hold a nearer point are left out.
        """
        exhaustive = n_visited >= self.n_lists
        visits = self._visits(queries, home, min(n_visited, _ORDERED_LISTS if exhaustive else self.n_lists))
        found = np.full((len(queries), wanted), -1, dtype=np.int32)
        lists = (self.centroids, self.starts, self.columns, self.members)
        in_threads(_scan_lists, len(queries), queries, visits, exhaustive, *lists, found)
        return found

    def _visits(self, queries: np.ndarray, home: np.ndarray, n_visited: int) -> np.ndarray:
        n_visited = min(n_visited, self.n_lists)
        limit = _FIRST_VISITS  # the same steps as in ``visits_for_recall``, so that what it measured holds
        while limit < n_visited:
            limit *= 4
        n_near = min(self.n_lists, _RANKED_PER_VISIT * limit)
        if self._near.shape[1] < n_near:
            self._near = self._quantizer.search(self.centroids, n_near)[1].astype(np.int32)
        near = np.ascontiguousarray(self._near[:, :n_near])
        visits = np.empty((len(queries), n_visited), dtype=np.int32)
        in_threads(_rank_lists, len(queries), queries, home, near, self.centroids, visits)
        return visits


@njit(cache=True, nogil=True)
def _by_dimension(points, members, starts, columns, first, last):  # type: ignore[no-untyped-def]
    """The columns of lists ``first`` to ``last``."""
    dimension = points.shape[1]
    for number in range(first, last):
        begin, size = starts[number], starts[number + 1] - starts[number]
        for place in range(size):
            for dim in range(dimension):
                columns[begin * dimension + dim * size + place] = points[members[begin + place], dim]


@njit(cache=True, nogil=True)
def _insert(values, items, count, value, item):  # type: ignore[no-untyped-def]
    """Put ``value`` into the ascending ``values[:count]``, dropping the last where these are full; the new count."""
    slot = count if count < len(values) else count - 1
    while slot > 0 and values[slot - 1] > value:
        values[slot], items[slot] = values[slot - 1], items[slot - 1]
        slot -= 1
    values[slot], items[slot] = value, item
    return min(count + 1, len(values))


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _rank_lists(queries, home, near, centroids, visits, first, last):  # type: ignore[no-untyped-def]
    """The lists that queries visit, nearest centroid first, among those near their own list's."""
    n_visited = visits.shape[1]
    values = np.empty(n_visited, np.float32)
    for row in range(first, last):
        count = 0
        for place in range(near.shape[1]):
            number = near[home[row], place]
            squared = squared_distance(queries[row], centroids[number])
            if count < n_visited or squared < values[n_visited - 1]:
                count = _insert(values, visits[row], count, squared, number)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _scan_lists(queries, visits, exhaustive, centroids, starts, columns, members, found, first, last):  # type: ignore[no-untyped-def]
    """The nearest points in the visited lists, nearest first; with ``exhaustive`` in all lists that may hold one."""
    wanted = found.shape[1]
    n_lists = len(centroids)
    values = np.empty(wanted, np.float32)
    squared = np.empty(np.max(starts[1:] - starts[:-1]), np.float32)
    visited_by = np.full(n_lists if exhaustive else 0, -1)
    for row in range(first, last):
        query, count = queries[row], 0
        for visit in range(visits.shape[1]):
            number = visits[row, visit]
            count = _scan_list(query, number, starts, columns, members, squared, values, found[row], count)
            if exhaustive:
                visited_by[number] = row
        if exhaustive:
            nearest = visits[row, 0]
            to_nearest = squared_distance(query, centroids[nearest])
            for number in range(n_lists):
                if visited_by[number] == row:
                    continue
                # Points of this list lie beyond the plane that halves the way between the two centroids.
                between = squared_distance(centroids[number], centroids[nearest])
                beyond = squared_distance(query, centroids[number]) - to_nearest
                bound = 4 * between * values[wanted - 1] * np.float32(1 + 1e-4)
                if count < wanted or beyond <= 0 or beyond * beyond <= bound:
                    count = _scan_list(query, number, starts, columns, members, squared, values, found[row], count)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _scan_list(query, number, starts, columns, members, squared, values, items, count):  # type: ignore[no-untyped-def]
    """Merge the points of one list into the ``count`` nearest so far; the new count."""
    wanted, dimension = len(items), len(query)
    begin = starts[number]
    size = starts[number + 1] - begin
    squared_distances(columns[begin * dimension : (begin + size) * dimension], query, squared[:size])
    for place in range(size):
        if count < wanted or squared[place] < values[wanted - 1]:
            count = _insert(values, items, count, squared[place], members[begin + place])
    return count


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def squared_distance(a, b):  # type: ignore[no-untyped-def]
    """Between two points."""
    squared = np.float32(0)
    for dim in range(len(a)):
        difference = a[dim] - b[dim]
        squared += difference * difference
    return squared


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def squared_distances(columns, query, squared):  # type: ignore[no-untyped-def]
    """To all points of a list; four dimensions at a time, which spares reading and writing the sums."""
    size, dimension = len(squared), len(query)
    squared[:] = 0
    dim = 0
    while dim + 4 <= dimension:
        a, b, c, e = query[dim], query[dim + 1], query[dim + 2], query[dim + 3]
        at_a, at_b = columns[dim * size : (dim + 1) * size], columns[(dim + 1) * size : (dim + 2) * size]
        at_c, at_e = columns[(dim + 2) * size : (dim + 3) * size], columns[(dim + 3) * size : (dim + 4) * size]
        for place in range(size):
            w, x, y, z = at_a[place] - a, at_b[place] - b, at_c[place] - c, at_e[place] - e
            squared[place] += (w * w + x * x) + (y * y + z * z)
        dim += 4
    while dim < dimension:
        at, a = columns[dim * size : (dim + 1) * size], query[dim]
        for place in range(size):
            w = at[place] - a
            squared[place] += w * w
        dim += 1
