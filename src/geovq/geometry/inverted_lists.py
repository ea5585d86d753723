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

# Of more points lists have a constant length, their centroids make lists too, in which that of a point is found nearly
# always, and they are numbered so that near ones follow each other: work per point and distances in memory stay.
LINED_UP_ABOVE = 1_000_000
_POINTS_PER_LIST = 250
_COARSE_VISITS = 8
_COARSE_BLOCK = 65_536
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
        known: centroids ``(L, d)`` and starts ``(L + 1,)`` of lists that the points lie in one after the other.
    """

    def __init__(self, points: np.ndarray, seed: int, known: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        n_points, dimension = points.shape
        self._seed = seed
        self.centroids = _centroids(points, seed) if known is None else known[0]
        """``(L, d)`` of the ``L`` lists."""
        self.n_lists = len(self.centroids)
        many = n_points > LINED_UP_ABOVE
        self._coarse = InvertedLists(self.centroids, seed) if many else None
        self._quantizer = faiss_in_threads().IndexFlatL2(dimension)
        self._quantizer.add(self.centroids)
        numbers = np.arange(self.n_lists)
        self.home_of_points = self.home(points) if known is None else np.repeat(numbers, np.diff(known[1]))
        """``(M,)`` list of every point."""
        self.members = np.argsort(self.home_of_points, kind="stable")
        """``(M,)`` points list by list."""
        self.starts = np.searchsorted(self.home_of_points[self.members], np.arange(self.n_lists + 1))
        """``(L + 1,)`` where each list begins among the members."""
        self.columns = np.empty(points.size, dtype=np.float32)
        """Lists one after the other: of each all first numbers, then all second ones, …, from ``starts[list]·d`` on."""
        in_threads(_by_dimension, self.n_lists, points, self.members, self.starts, self.columns)
        self.radii = np.empty(self.n_lists if many else 0, dtype=np.float32)
        """``(L,)`` of the balls around the centroids that lists lie in; ``(0,)`` where each point has its nearest."""
        if many:
            in_threads(_radii, self.n_lists, self.centroids, self.starts, self.columns, self.radii)
        self._near = np.empty((self.n_lists, 0), dtype=np.int32)

    def line_up(self) -> np.ndarray | None:
        """Count on points list by list, if they are many: the caller moves them.

        Returns:
            ``(M,)`` the place before of every point; None where all stay where they are.
        """
        if len(self.members) <= LINED_UP_ABOVE:
            return None
        order = self.members
        self.home_of_points, self.members = self.home_of_points[order], np.arange(len(order))
        return order

    def home(self, queries: np.ndarray) -> np.ndarray:
        """``(Q,)`` list with the nearest centroid, of many lists one of the nearest."""
        if self._coarse is None:
            return np.asarray(self._quantizer.search(queries, 1)[1][:, 0])
        found = np.empty(len(queries), dtype=np.int64)
        for start in range(0, len(queries), _COARSE_BLOCK):
            block = np.ascontiguousarray(queries[start : start + _COARSE_BLOCK])
            home = self._coarse.home(block)
            near = self._coarse.candidates(block, home, 1, _COARSE_VISITS)[:, 0]
            lost = np.flatnonzero(near < 0)
            near[lost] = self._coarse.candidates(block[lost], home[lost], 1, self._coarse.n_lists)[:, 0]
            found[start : start + len(block)] = near
        return found

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
        lists = (self.centroids, self.radii, self.starts, self.columns, self.members)
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


def _centroids(points: np.ndarray, seed: int) -> np.ndarray:
    """``(L, d)`` float32 by k-means on a sample. Of many points those of all are found cell by cell of a coarser
    partition, and put in an order in which near ones lie together."""
    many = len(points) > LINED_UP_ABOVE
    n_lists = len(points) // _POINTS_PER_LIST if many else min(len(points), int(_LISTS_PER_ROOT * np.sqrt(len(points))))
    n_training = min(len(points), _TRAINING_POINTS * n_lists)
    training = points[np.sort(np.random.default_rng(seed).choice(len(points), n_training, replace=False))]
    if not many:
        return _kmeans(training, n_lists, seed)
    index = faiss_in_threads().IndexFlatL2(points.shape[1])
    index.add(_kmeans(training, int(np.sqrt(n_lists)), seed))
    cell = index.search(training, 1)[1][:, 0]
    sizes = np.bincount(cell, minlength=index.ntotal)
    shares = np.diff(np.round(np.cumsum(sizes) * (n_lists / n_training)).astype(np.int64), prepend=0)
    parts = np.split(training[np.argsort(cell, kind="stable")], np.cumsum(sizes)[:-1])
    centroids = np.concatenate([_kmeans(part, n, seed) for part, n in zip(parts, shares, strict=True) if n > 0])
    return centroids[local_order(centroids)]


def _kmeans(points: np.ndarray, n_lists: int, seed: int) -> np.ndarray:
    kmeans = faiss_in_threads().Kmeans(
        points.shape[1],
        n_lists,
        niter=_TRAINING_PASSES,
        seed=(seed + 1) % 2**31,
        min_points_per_centroid=1,  # fewer are no fault here, and faiss would print a warning
        max_points_per_centroid=_TRAINING_POINTS,
    )
    kmeans.train(points)
    return np.asarray(kmeans.centroids, dtype=np.float32)


def local_order(points: np.ndarray) -> np.ndarray:
    """``(M,)`` order in which near points lie together: of all the lower half along their longest axis comes first, and
    so on within each half (a tree of principal axes; Sproull 1991)."""
    order, parts = np.arange(len(points)), [(0, len(points))]
    while parts:
        begin, end = parts.pop()
        part = order[begin:end]
        gaps = points[part] - points[part].mean(axis=0)
        part[:] = part[np.argsort(gaps @ np.linalg.eigh(gaps.T @ gaps)[1][:, -1], kind="stable")]
        middle = (begin + end) // 2
        parts += [half for half in ((begin, middle), (middle, end)) if half[1] - half[0] > 2]
    return order


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
def _radii(centroids, starts, columns, radii, first, last):  # type: ignore[no-untyped-def]
    squared = np.empty(np.max(starts[1:] - starts[:-1]), np.float32)
    dimension = centroids.shape[1]
    for number in range(first, last):
        begin, size = starts[number], starts[number + 1] - starts[number]
        squared_distances(columns[begin * dimension : (begin + size) * dimension], centroids[number], squared[:size])
        radii[number] = np.sqrt(np.max(squared[:size])) if size > 0 else 0.0


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
def _scan_lists(queries, visits, exhaustive, centroids, radii, starts, columns, members, found, first, last):  # type: ignore[no-untyped-def]
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
                to_number = squared_distance(query, centroids[number])
                if count < wanted or may_hold(to_number, number, to_nearest, nearest, values[-1], centroids, radii):
                    count = _scan_list(query, number, starts, columns, members, squared, values, found[row], count)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def may_hold(to_centroid, number, to_other, other, squared, centroids, radii):  # type: ignore[no-untyped-def]
    """Whether a list may hold a point nearer than ``squared``: its ball tells. Where there are no ``radii`` its points
    lie beyond the plane that halves the way between its centroid and that of the list ``other``."""
    if len(radii) > 0:
        reach = radii[number] + np.sqrt(squared)
        return to_centroid <= reach * reach * np.float32(1 + 1e-4)
    beyond = to_centroid - to_other
    bound = 4 * squared_distance(centroids[number], centroids[other]) * squared * np.float32(1 + 1e-4)
    return beyond <= 0 or beyond * beyond <= bound


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
