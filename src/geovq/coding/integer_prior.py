"""The autoregressive prior on integers: probabilities that come out the same to the bit wherever they are computed.

Weights are rounded once to integers, activations after each layer (``fixed_point``). Both stand as float64 numbers in
matrix products whose partial sums all stay below 2^53: every one of them is exact, so neither the order of summation
nor threads, batch sizes, processors or the library that multiplies can change a bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from math import isqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geovq.coding import fixed_point
from geovq.coding.fixed_point import BITS, LIMIT
from geovq.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from geovq.models.autoregressive_prior import AutoregressivePrior

Multiply = Callable[[np.ndarray, np.ndarray], np.ndarray]
_EXACT = 1 << 53
_MOST_PLACES = 24  # binary places of weights, where sums allow so many
_LONGEST = 1 << 12


class Linear(NamedTuple):
    """A linear map on integers: x W + b has ``shift`` more binary places than x."""

    weight: np.ndarray
    """(n, m) float64, whole numbers."""
    bias: np.ndarray
    """(m,) int64."""
    shift: int

    @staticmethod
    def of(weight: Tensor, bias: Tensor | None = None) -> Linear:
        """The map of weights (n, m) and bias (m,) with as many binary places as keep all sums below 2^53."""
        exact = weight.detach().cpu().double().numpy()
        for shift in range(_MOST_PLACES, 0, -1):
            rounded = np.rint(exact * 2.0**shift)
            if np.abs(rounded).astype(np.int64).sum(0).max() * LIMIT < _EXACT:
                offset = np.zeros(exact.shape[1], dtype=np.int64) if bias is None else _integers(bias, BITS + shift)
                return Linear(np.ascontiguousarray(rounded), offset, shift)
        raise InputError(f"weights of a prior reach {np.abs(exact).max():g}: too large for exact sums")


class Block(NamedTuple):
    """A transformer block, normalised before attention and before the perceptrons."""

    first: tuple[np.ndarray, np.ndarray]
    attention: Linear
    projection: Linear
    second: tuple[np.ndarray, np.ndarray]
    hidden: Linear
    output: Linear


class IntegerPrior:
    """What ``AutoregressivePrior`` says of the next code, as integer frequencies that add up to 2^24.

    Args:
        prior: trained; its layout has sequences of one length.
        multiply: matrix product of float64 arrays; any one that is right gives the same bits.

    Raises:
        InputError: sequences that are too long, or weights that are too large.
    """

    def __init__(self, prior: AutoregressivePrior, multiply: Multiply = np.matmul) -> None:
        layout, network = prior.layout, prior.transformer.transformer
        if layout.variable_length or layout.sequence_length > _LONGEST:
            raise InputError(f"a prior over {layout.sequence_length} places cannot be computed on integers")
        self.multiply, self.bos, self.n_classes = multiply, layout.bos, layout.n_classes
        self.sizes: tuple[int, ...] = layout.sizes or (layout.n_codes,) * layout.length
        self.heads = int(prior.transformer.config.n_head)
        self.width = int(prior.transformer.config.n_embd)
        table = network.wte.weight
        self.tokens = _integers(table)
        self.positions = self._positions(network.wpe, layout.sequence_length - 1)
        self.codewords = None if prior.codewords is None else _integers(prior.codewords.tables)
        self.streams = layout.streams().tolist()
        self.blocks = [
            Block(
                (_integers(block.ln_1.weight), _integers(block.ln_1.bias)),
                Linear.of(block.attn.c_attn.weight, block.attn.c_attn.bias),
                Linear.of(block.attn.c_proj.weight, block.attn.c_proj.bias),
                (_integers(block.ln_2.weight), _integers(block.ln_2.bias)),
                Linear.of(block.mlp.c_fc.weight, block.mlp.c_fc.bias),
                Linear.of(block.mlp.c_proj.weight, block.mlp.c_proj.bias),
            )
            for block in network.h
        ]
        self.last = (_integers(network.ln_f.weight), _integers(network.ln_f.bias))
        self.head = Linear.of(table[: layout.n_codes].T)
        self.scale = isqrt((1 << 40) // (self.width // self.heads))

    @staticmethod
    def _positions(module: Any, length: int) -> np.ndarray:
        """(length, width) int64 of a vector per place, or of the sum of one each for grid, row, column and slot."""
        if not hasattr(module, "tables"):
            return _integers(module.weight)[:length]
        places = module.places[:length].cpu().numpy()
        return np.sum([_integers(table)[places[:, axis]] for axis, table in enumerate(module.tables)], axis=0)

    @property
    def digest(self) -> bytes:
        """Eight bytes of all integers that the frequencies are computed from."""
        found = hashlib.sha256()
        arrays = [self.tokens, self.positions, *self.last, self.head.weight]
        arrays += [] if self.codewords is None else [self.codewords]
        for block in self.blocks:
            arrays += [*block.first, *block.second]
            for linear in (block.attention, block.projection, block.hidden, block.output):
                arrays += [linear.weight, linear.bias]
        for array in arrays:
            found.update(array.astype("<i8").tobytes())
        return found.digest()[:8]

    @property
    def bytes_per_image(self) -> int:
        """Of keys and values."""
        return 8 * self.width * len(self.sizes) * len(self.blocks)

    def begin(self, starts: np.ndarray, batch_size: int = 128, threads: int = 1) -> Reading:
        """Sequences after their start ids (B,), of which ``batch_size`` are computed together on one thread."""
        parts = [starts[first : first + batch_size] for first in range(0, len(starts), batch_size)]
        return Reading(self, [_Batch(self, part) for part in parts], threads)


class Reading:
    """Sequences under way: ask for the frequencies of the next code, then tell it."""

    def __init__(self, prior: IntegerPrior, batches: list[_Batch], threads: int) -> None:
        self.batches, self.threads = batches, threads

    def frequencies(self) -> np.ndarray:
        """(B, K) float32 of the next code, less 1 each: whole numbers that add up to 2^24 - K."""
        if self.threads == 1 or len(self.batches) == 1:
            return np.concatenate([batch.frequencies() for batch in self.batches])
        with ThreadPoolExecutor(self.threads) as pool:
            return np.concatenate(list(pool.map(_Batch.frequencies, self.batches)))

    def append(self, codes: np.ndarray) -> None:
        """The codes (B,) that came."""
        first = 0
        for batch in self.batches:
            batch.append(codes[first : first + len(batch.ids)])
            first += len(batch.ids)

    def keep(self, rows: np.ndarray) -> Reading:
        """The sequences of some rows alone, in their order."""
        first, kept = 0, []
        for batch in self.batches:
            here = rows[(rows >= first) & (rows < first + len(batch.ids))] - first
            if len(here):
                kept.append(batch.keep(here))
            first += len(batch.ids)
        return Reading(self.batches[0].prior, kept, self.threads)


class _Batch:
    """Some sequences, with the keys and values of all places so far: ``slots`` says in which row of the store.

    Whoever gives sequences up keeps the rows of the others where they are.
    """

    def __init__(self, prior: IntegerPrior, starts: np.ndarray) -> None:
        self.prior, self.ids, self.place = prior, starts, 0
        self.keys: np.ndarray = np.empty(0, dtype=np.int32)
        self.values: np.ndarray = self.keys
        self.slots = np.empty(0, dtype=np.int64)

    def append(self, codes: np.ndarray) -> None:
        if self.place == 0:  # from here on they differ: each gets a row of its own, with what its start id wrote
            self.keys, self.values = (self._opened(first, len(codes)) for first in (self.keys, self.values))
            self.slots = np.arange(len(codes))
        self.ids, self.place = codes, self.place + 1

    def _opened(self, first: np.ndarray, n: int) -> np.ndarray:
        prior = self.prior
        store = np.empty((len(prior.blocks), n, prior.heads, len(prior.sizes), first.shape[-1]), dtype=np.int32)
        store[:, :, :, 0] = first[:, self.slots][:, :, :, 0]
        return store

    def keep(self, rows: np.ndarray) -> _Batch:
        kept = copy(self)
        kept.ids, kept.slots = self.ids[rows], self.slots[rows]
        return kept

    def frequencies(self) -> np.ndarray:
        """Of the next code: one step of the network; at the first place once for each start id."""
        if self.place > 0:
            return self._step(self.ids)
        prior = self.prior
        starts, self.slots = np.unique(self.ids, return_inverse=True)
        shape = (len(prior.blocks), len(starts), prior.heads, 1, prior.width // prior.heads)
        self.keys, self.values = np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.int32)
        slots, self.slots = self.slots, np.arange(len(starts))
        found = self._step(starts)
        self.slots = slots
        return found[slots]

    def _step(self, ids: np.ndarray) -> np.ndarray:
        prior, place, slots = self.prior, self.place, self.slots
        tables = prior.tokens
        if prior.codewords is not None and place > 0:
            tables = prior.codewords[prior.streams[place - 1]]
        x = tables[ids] + prior.positions[place]
        exponentials, gelu = fixed_point.exp_table(), fixed_point.gelu_table()
        inner = np.empty((len(x), prior.width))
        for block, keys, values in zip(prior.blocks, self.keys, self.values, strict=True):
            fixed_point.normalised(x, *block.first, inner)
            product = prior.multiply(inner, block.attention.weight)
            bias, shift = block.attention[1:]
            fixed_point.attended(product, bias, shift, prior.scale, keys, values, slots, place, exponentials, inner)
            fixed_point.added(prior.multiply(inner, block.projection.weight), *block.projection[1:], x)
            fixed_point.normalised(x, *block.second, inner)
            hidden = prior.multiply(inner, block.hidden.weight)
            fixed_point.activated(hidden, *block.hidden[1:], gelu)
            fixed_point.added(prior.multiply(hidden, block.output.weight), *block.output[1:], x)
        fixed_point.normalised(x, *prior.last, inner)
        logits = prior.multiply(inner, prior.head.weight)
        found = np.empty((len(x), prior.sizes[place]), dtype=np.float32)
        fixed_point.frequencies(logits, prior.head.shift, prior.sizes[place], exponentials, found)
        return found


def _integers(values: Tensor, places: int = BITS) -> np.ndarray:
    """The whole numbers nearest to values · 2^places: scaling by a power of two is exact."""
    return np.rint(values.detach().cpu().double().numpy() * 2.0**places).astype(np.int64)
