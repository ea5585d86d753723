"""The cheapest sum of one row per table, for every token: all sums where they are few, else a beam.

The codewords of a structured codebook are few enough to try all of them up to some thousands, and one matrix product
does that faster than any search. Above, a beam keeps the cheapest partial sums slot by slot (Babenko, Lempitsky 2014),
and from each of those that it ends with coordinate descent exchanges one row at a time while that helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from numba import njit

from geovq.geometry.computing import in_threads
from geovq.geometry.symmetric import packed_size, square_root
from geovq.quantizers.additive_tables import add_rows, all_codewords
from geovq.quantizers.metric_features import MetricFeatures, codeword_features
from geovq.quantizers.nearest import cell_sums, nearest_codes

EXHAUSTIVE_CODES = 4096
"""Codewords up to which all are tried."""

# Numbers that the single costs of one block of tokens may hold: 64 MB.
_BLOCK = 1 << 24
# Sweeps of coordinate descent at most: hardly any token needs a third.
_SWEEPS = 8


class OwnMetrics:
    """``(z − c)ᵀ(G + ρI)(z − c)``, each token in its own metric.

    Args:
        features: of the tokens.
    """

    def __init__(self, features: MetricFeatures) -> None:
        self.points = features.points
        self.origin = features.origin
        self._features = features

    def assign(self, tables: Sequence[np.ndarray], beam: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes ``(N, M)`` int32 and costs ``(N,)`` float32 of the cheapest sums of tables ``(K_m, d)``."""
        codes = self._codes(tables, beam)
        return codes, self._features.costs_of(self.points - add_rows(tables, codes))

    def _codes(self, tables: Sequence[np.ndarray], beam: int) -> np.ndarray:
        if prod(map(len, tables)) <= EXHAUSTIVE_CODES:
            return _codes_of(self._features.nearest(all_codewords(tables)), tables)
        rows = np.concatenate((tables[0] - self.origin, *tables[1:]))
        weights = codeword_features(rows)
        codes = np.empty((len(self.points), len(tables)), np.int32)
        step = max(1, _BLOCK // sum(weights.shape))
        for part, block, _ in self._features.blocks(step):
            features = block.cpu()
            packed = features.numpy()[:, : packed_size(rows.shape[1])]
            codes[part] = beam_search(packed, (features @ weights.T).numpy(), tables, rows, beam)
        return codes

    def sums(self, cells: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """``(J, d(d+1)/2 + d)`` float64 ``[ΣG packed, off-diagonal entries twice | ΣGz]`` of cells in ``[0, J)``."""
        return self._features.packed_sums(cells, len(counts))


class OneMetric:
    """``(z − c)ᵀA(z − c)`` with one metric for all tokens: computed as squared distances of ``A^½z``.

    Args:
        points: ``(N, d)`` tokens.
        metric: ``(d, d)`` positive definite ``A``; the identity for Euclidean distances.
        origin: ``(d,)`` of all coordinates.
        device: where all codewords are tried; a beam runs on the CPU.
    """

    def __init__(self, points: np.ndarray, metric: np.ndarray, origin: np.ndarray, device: str | None = None) -> None:
        self.points = points
        self.origin = origin.astype(np.float32)
        self._metric = np.asarray(metric, dtype=np.float64)
        self._root = square_root(self._metric)
        self._device = device
        self._y = np.ascontiguousarray((points - self.origin) @ self._root.astype(np.float32))

    def assign(self, tables: Sequence[np.ndarray], beam: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes ``(N, M)`` int32 and costs ``(N,)`` float32 of the cheapest sums of tables ``(K_m, d)``."""
        codes = self._codes(tables, beam)
        errors = (self.points - add_rows(tables, codes)) @ self._root.astype(np.float32)
        return codes, np.square(errors).sum(axis=1)

    def _codes(self, tables: Sequence[np.ndarray], beam: int) -> np.ndarray:
        root = self._root.astype(np.float32)
        if prod(map(len, tables)) <= EXHAUSTIVE_CODES:
            flat = nearest_codes(self._y, (all_codewords(tables) - self.origin) @ root, self._device)
            return _codes_of(flat, tables)
        rows = np.concatenate((tables[0] - self.origin, *tables[1:])) @ root
        d = rows.shape[1]
        identity = np.zeros((1, packed_size(d)), np.float32)
        identity[0, [i * d - i * (i - 1) // 2 for i in range(d)]] = 1
        codes = np.empty((len(self.points), len(tables)), np.int32)
        norms = np.square(rows).sum(axis=1)
        step = max(1, _BLOCK // (len(rows) + d))
        for start in range(0, len(self.points), step):
            part = slice(start, start + step)
            codes[part] = beam_search(identity, norms - 2 * self._y[part] @ rows.T, tables, rows, beam)
        return codes

    def sums(self, cells: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """``(J, d(d+1)/2 + d)`` float64 ``[nA packed, off-diagonal entries twice | AΣz]`` of cells in ``[0, J)``."""
        rows, columns = np.triu_indices(len(self._metric))
        packed = self._metric[rows, columns] * np.where(rows == columns, 1.0, 2.0)
        vectors = cell_sums(torch.from_numpy(self._y), cells, len(counts)) @ self._root
        return np.concatenate((counts[:, None] * packed, vectors), axis=1)


AdditiveCosts = OwnMetrics | OneMetric


def beam_search(
    packed: np.ndarray, single: np.ndarray, tables: Sequence[np.ndarray], rows: np.ndarray, beam: int
) -> np.ndarray:
    """Codes ``(N, M)`` int32 of cheap sums of rows.

    With ``s`` the sum of the rows chosen so far, a row ``t`` adds ``tᵀGt − 2tᵀGz + 2tᵀGs``. A beam that holds all sums
    of all slots but the last finds the cheapest of all. Time per token ``O(M·beam·(d² + K_m·d))``.

    Args:
        packed: ``(N, d(d+1)/2)`` float32 metrics, off-diagonal entries twice, or ``(1, d(d+1)/2)``, one for all tokens.
        single: ``(N, ΣK_m)`` float32 ``tᵀGt − 2tᵀGz`` of every row.
        tables: their lengths tell which rows belong to which slot.
        rows: ``(ΣK_m, d)`` float32 rows of all slots, in the coordinates of the metrics, around their origin.
        beam: partial sums kept per token.
    """
    starts = np.cumsum([0, *(len(table) for table in tables)])
    codes = np.empty((len(single), len(tables)), np.int32)
    arrays = (np.ascontiguousarray(each) for each in (packed, single, rows))
    in_threads(_search_rows, len(single), *arrays, starts, beam, codes)
    return codes


@njit(cache=True, nogil=True)
def _search_rows(packed, single, rows, starts, beam, codes, first, last):  # type: ignore[no-untyped-def]
    d, n_slots = rows.shape[1], len(starts) - 1
    metric = np.empty((d, d), np.float32)
    applied = np.empty(d, np.float32)
    sums, cost = np.empty((2, beam, d), np.float32), np.empty((2, beam), np.float32)
    paths = np.empty((2, beam, n_slots), np.int32)
    parents, chosen = np.empty(beam, np.int64), np.empty(beam, np.int64)
    for token in range(first, last):
        if token == first or len(packed) > 1:
            _unpack(packed[token if len(packed) > 1 else 0], metric)
        here, kept = 0, 1
        sums[0, 0] = 0
        cost[0, 0] = 0
        for slot in range(n_slots):
            there, count = 1 - here, 0
            for parent in range(kept):
                _apply(metric, sums[here, parent], applied)
                for row in range(starts[slot], starts[slot + 1]):
                    price = cost[here, parent] + single[token, row] + 2 * _dot(rows[row], applied)
                    if count == beam and price >= cost[there, count - 1]:
                        continue
                    count = min(count + 1, beam)
                    place = count - 1
                    while place > 0 and cost[there, place - 1] > price:
                        cost[there, place] = cost[there, place - 1]
                        parents[place], chosen[place] = parents[place - 1], chosen[place - 1]
                        place -= 1
                    cost[there, place], parents[place], chosen[place] = price, parent, row
            for place in range(count):
                paths[there, place] = paths[here, parents[place]]
                paths[there, place, slot] = chosen[place]
                sums[there, place] = sums[here, parents[place]] + rows[chosen[place]]
            here, kept = there, count
        best = 0
        for place in range(kept):
            total, path = sums[here, place], paths[here, place]
            cost[here, place] += _descend(metric, single[token], rows, starts, path, total, applied)
            if cost[here, place] < cost[here, best]:
                best = place
        for slot in range(n_slots):
            codes[token, slot] = paths[here, best, slot] - starts[slot]


@njit(cache=True, nogil=True)
def _descend(metric, single, rows, starts, path, total, applied):  # type: ignore[no-untyped-def]
    """Exchange single rows while that lowers the cost, in place; what it gains, as a number below 0."""
    gained = np.float32(0)
    for _ in range(_SWEEPS):
        changed = False
        for slot in range(len(path)):
            old = path[slot]
            total -= rows[old]
            _apply(metric, total, applied)
            lowest = now = single[old] + 2 * _dot(rows[old], applied)
            best = old
            for row in range(starts[slot], starts[slot + 1]):
                price = single[row] + 2 * _dot(rows[row], applied)
                if price < lowest:
                    lowest, best = price, row
            total += rows[best]
            path[slot] = best
            gained += lowest - now
            changed |= best != old
        if not changed:
            break
    return gained


@njit(cache=True, nogil=True)
def _unpack(packed, metric):  # type: ignore[no-untyped-def]
    place = 0
    for i in range(len(metric)):
        metric[i, i] = packed[place]
        place += 1
        for j in range(i + 1, len(metric)):
            metric[i, j] = metric[j, i] = np.float32(0.5) * packed[place]
            place += 1


@njit(cache=True, nogil=True, fastmath=True)
def _apply(metric, vector, result):  # type: ignore[no-untyped-def]
    for i in range(len(vector)):
        value = np.float32(0)
        for j in range(len(vector)):
            value += metric[i, j] * vector[j]
        result[i] = value


@njit(cache=True, nogil=True, fastmath=True)
def _dot(left, right):  # type: ignore[no-untyped-def]
    value = np.float32(0)
    for i in range(len(left)):
        value += left[i] * right[i]
    return value


def _codes_of(flat: np.ndarray, tables: Sequence[np.ndarray]) -> np.ndarray:
    """Codes ``(N, M)`` int32 of the places of codewords in ``all_codewords``."""
    return np.stack(np.unravel_index(flat, tuple(map(len, tables))), axis=1).astype(np.int32)
