"""The parts of a network that are no matrix products, on integers: the same bits on every machine.

A value v stands as the integer nearest to v · 2^``BITS``. Sums of integers do not depend on their order, and nothing
here rounds a floating-point number in a way that a processor, a library or a compiler may choose: of floating point
only a division, a square root and a single product are used, each correctly rounded under IEEE 754. Exponential and
GELU are read from tables, made once in decimal arithmetic, whose ``exp`` is correctly rounded as well.
"""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
from numba import njit

BITS = 16
"""Binary places of activations."""
ONE = 1 << BITS
LIMIT = 1 << 23
"""Magnitude that what enters a matrix product is cut to, in units of 2^-BITS: 128."""
TOTAL_BITS = 24
"""Of the sum of all frequencies: the precision of constriction's models."""
TOTAL = 1 << TOTAL_BITS
_HALF = ONE // 2
_EXP_STEPS = 10  # 2^10 steps from 1 to 1/2
_EXP_BITS = 30  # binary places of the exponential
_LOG2_E = 24204406  # log2(e) with 24 binary places
_GELU_STEP = 7  # 2^7 units from one entry of the table to the next
_GELU_RANGE = 8 << BITS  # beyond, GELU is 0 or the identity
_GELU_EXTRA = 8  # binary places of the table beyond BITS
_WEIGHT_BITS = 22  # of what attention multiplies values by: 2^22 · 2^23 values · 2^12 places < 2^63
_NO_VARIANCE = 42950  # 1e-5 with 32 binary places: epsilon of GPT-2's normalisation


@cache
def exp_table() -> np.ndarray:
    """(2^10 + 1,) int64: 2^(-i / 2^10) with 30 binary places."""
    steps = 1 << _EXP_STEPS
    with localcontext(Context(prec=30)):
        root = (Decimal(2).ln() / -steps).exp()
        values, power = [], Decimal(1)
        for _ in range(steps + 1):
            values.append(int((power * (1 << _EXP_BITS)).to_integral_value()))
            power *= root
    return np.array(values, dtype=np.int64)


@cache
def gelu_table() -> np.ndarray:
    """(2^12 + 1,) int64: GELU in its tanh form at 0, 2^-9, … 8, with 24 binary places.

    x (1 + tanh u) / 2 = x / (1 + exp(-2u)) with u = sqrt(2 / π) (x + 0.044715 x³) (Hendrycks, Gimpel 2016).
    """
    with localcontext(Context(prec=30)):
        slope = -2 * (2 / Decimal("3.14159265358979323846264338328")).sqrt()
        cubic, unit = Decimal("0.044715"), Decimal(1 << _GELU_STEP) / ONE
        values = []
        for index in range((_GELU_RANGE >> _GELU_STEP) + 1):
            x = index * unit
            value = x / (1 + (slope * (x + cubic * x * x * x)).exp())
            values.append(int((value * (ONE << _GELU_EXTRA)).to_integral_value()))
    return np.array(values, dtype=np.int64)


@njit(cache=True, nogil=True, inline="always")
def _cut(value: int, limit: int) -> int:
    return min(max(value, -limit), limit)


@njit(cache=True, nogil=True, inline="always")
def _exp(z: int, table: np.ndarray) -> int:
    """e^-z with 30 binary places, of z >= 0 with BITS places."""
    exponent = (min(z, 1 << 32) * _LOG2_E) >> 24
    whole = exponent >> BITS
    if whole > _EXP_BITS:
        return 0
    place = (exponent & (ONE - 1)) >> (BITS - _EXP_STEPS)
    rest = exponent & ((1 << (BITS - _EXP_STEPS)) - 1)
    upper = table[place]
    return (upper - (((upper - table[place + 1]) * rest) >> (BITS - _EXP_STEPS))) >> whole


@njit(cache=True, nogil=True)
def normalised(x: np.ndarray, gain: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """Layer normalisation of int64 (B, d), with int64 gain and bias (d,), as whole float64 numbers into ``out``."""
    rows, width = x.shape
    for row in range(rows):
        total, largest = 0, 0
        for i in range(width):
            total += x[row, i]
        mean = (total + width // 2) // width
        for i in range(width):
            largest = max(largest, abs(x[row, i] - mean))
        shift = 0
        while largest >> shift >= LIMIT:  # so that squares of 2^12 dimensions fit
            shift += 1
        squares = 0
        for i in range(width):
            centred = (x[row, i] - mean) >> shift
            squares += centred * centred
        variance = squares // width + (_NO_VARIANCE >> (2 * shift))
        inverse = int((1 << 40) / np.sqrt(float(max(variance, 1))))
        for i in range(width):
            centred = (x[row, i] - mean) >> shift
            unit = (centred * inverse + (1 << 23)) >> 24
            out[row, i] = float(_cut(((unit * gain[i] + _HALF) >> BITS) + bias[i], LIMIT))


@njit(cache=True, nogil=True)
def added(product: np.ndarray, bias: np.ndarray, shift: int, x: np.ndarray) -> None:
    """Add to int64 ``x`` (B, d) what a matrix product (B, d) with ``shift`` more binary places comes to."""
    half = (1 << shift) >> 1
    for row in range(len(product)):
        for i in range(product.shape[1]):
            x[row, i] = _cut(x[row, i] + ((int(product[row, i]) + bias[i] + half) >> shift), 1 << 40)


@njit(cache=True, nogil=True)
def activated(product: np.ndarray, bias: np.ndarray, shift: int, table: np.ndarray) -> None:
    """GELU of a matrix product (B, n) with ``shift`` more binary places, in its place."""
    half = (1 << shift) >> 1
    for row in range(len(product)):
        for i in range(product.shape[1]):
            x = (int(product[row, i]) + bias[i] + half) >> shift
            size = min(abs(x), _GELU_RANGE - 1)
            place, rest = size >> _GELU_STEP, size & ((1 << _GELU_STEP) - 1)
            below = table[place]
            value = below + (((table[place + 1] - below) * rest) >> _GELU_STEP)
            value = (value + (1 << (_GELU_EXTRA - 1))) >> _GELU_EXTRA
            if abs(x) >= _GELU_RANGE:
                value = abs(x)
            product[row, i] = float(_cut(value if x >= 0 else value - abs(x), LIMIT))


@njit(cache=True, nogil=True)
def attended(
    product: np.ndarray,
    bias: np.ndarray,
    shift: int,
    scale: int,
    keys: np.ndarray,
    values: np.ndarray,
    slots: np.ndarray,
    place: int,
    table: np.ndarray,
    out: np.ndarray,
) -> None:
    """Attention of the place ``place`` to itself and those before it.

    Args:
        product: queries, keys and values (B, 3d) of this place, with ``shift`` more binary places than BITS.
        bias: (3d,) in the same units.
        shift: see above.
        scale: of the scores, with 20 binary places.
        keys: (N, heads, S, d / heads) int32; this place is written.
        values: the same.
        slots: (B,) rows of keys and values, all distinct.
        place: in the sequence.
        table: ``exp_table``.
        out: (B, d), whole float64 numbers.
    """
    half = (1 << shift) >> 1
    heads, depth = keys.shape[1], keys.shape[3]
    width = heads * depth
    query = np.empty(depth, dtype=np.int32)
    scores = np.empty(place + 1, dtype=np.int64)
    mixed = np.empty(depth, dtype=np.int64)
    for row in range(len(product)):
        slot = slots[row]
        for head in range(heads):
            for i in range(depth):
                at = head * depth + i
                query[i] = _cut((int(product[row, at]) + bias[at] + half) >> shift, LIMIT)
                at += width
                keys[slot, head, place, i] = _cut((int(product[row, at]) + bias[at] + half) >> shift, LIMIT)
                at += width
                values[slot, head, place, i] = _cut((int(product[row, at]) + bias[at] + half) >> shift, LIMIT)
            largest = -(1 << 62)
            for before in range(place + 1):
                score: Any = 0
                for i in range(depth):
                    score += np.int64(query[i]) * np.int64(keys[slot, head, before, i])
                scores[before] = ((score >> BITS) * scale) >> 20
                largest = max(largest, scores[before])
            total = 0
            mixed[:] = 0
            for before in range(place + 1):
                weight = _exp(largest - scores[before], table) >> (_EXP_BITS - _WEIGHT_BITS)
                total += weight
                for i in range(depth):
                    mixed[i] += weight * values[slot, head, before, i]
            for i in range(depth):
                out[row, head * depth + i] = float((mixed[i] + total // 2) // total)


@njit(cache=True, nogil=True)
def frequencies(logits: np.ndarray, shift: int, size: int, table: np.ndarray, out: np.ndarray) -> None:
    """Integer frequencies of the first ``size`` codes, less 1 each, of logits (B, K) with ``shift`` more places.

    They are rounded down; the most likely code, the first of several, takes what is left of ``TOTAL``. Written as whole
    float32 numbers, which hold 24 bits, into ``out`` (B, size).
    """
    half = (1 << shift) >> 1
    exponentials = np.empty(size, dtype=np.int64)
    for row in range(len(logits)):
        best = 0
        for code in range(size):
            if logits[row, code] > logits[row, best]:
                best = code
        largest = (int(logits[row, best]) + half) >> shift
        total = 0
        for code in range(size):
            value = _exp(largest - ((int(logits[row, code]) + half) >> shift), table)
            exponentials[code] = value
            total += value
        shared = TOTAL - size
        # One division and one product, each rounded once: at most a count too few, never too many in all.
        factor = shared / total
        left = shared
        for code in range(size):
            count = int(exponentials[code] * factor)
            left -= count
            out[row, code] = count
        out[row, best] = int(exponentials[best] * factor) + left
