"""One computation on several processes, its ranks: which of them this is, and what they tell each other.

All ranks run the same code on shares of the same images, rank 0 on the first ones. With one rank, and outside of
``joined``, a share is the whole and every function here gives back what it was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.distributed as distributed
from torch import Tensor

_rank, _count = 0, 1


def rank() -> int:
    """The number of this one."""
    return _rank


def count() -> int:
    """How many there are."""
    return _count


@contextmanager
def joined(number: int, of: int) -> Iterator[None]:
    """Be one of several ranks of torch's process group; all of them have to make the same calls until this is over."""
    global _rank, _count
    before = _rank, _count
    _rank, _count = number, of
    try:
        yield
    finally:
        _rank, _count = before


def shares(n: int, unit: int = 1) -> list[slice]:
    """What of ``n`` things each rank takes, in order, cut at multiples of ``unit``."""
    units = -(-n // unit)
    ends = [min(n, units * number // _count * unit) for number in range(_count + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def share(n: int, unit: int = 1) -> slice:
    """What of ``n`` things this rank takes."""
    return shares(n, unit)[_rank]


def starts(n: int, step: int) -> range:
    """Where the blocks of ``step`` out of ``n`` things begin that are this rank's: the same blocks as on one rank."""
    own = share(n, step)
    return range(own.start, own.stop, step)


def complete_(rows: Tensor, unit: int = 1) -> Tensor:
    """Contiguous rows on the CPU, of which each rank has filled in those of its ``share``, filled in by all ranks."""
    if _count > 1:
        for source, part in enumerate(shares(len(rows), unit)):
            if part.start < part.stop:  # as bytes: not every way of sending knows every type
                distributed.broadcast(rows[part].view(-1).view(torch.uint8), source)
    return rows


def whole(rows: Tensor, dim: int = 0) -> Tensor:
    """The rows of all ranks, which have as many each, in their order; without gradient."""
    if _count == 1:
        return rows
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(_count)]
    distributed.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts, dim)


def total_(values: Tensor) -> Tensor:
    """In place the sum over all ranks; without gradient."""
    if _count > 1:
        distributed.all_reduce(values)
    return values


def total(number: float) -> float:
    """The sum over all ranks of a number."""
    return float(total_(torch.tensor(number, dtype=torch.float64)))


def mean(values: Tensor) -> Tensor:
    """The mean over all ranks, with its gradient where the ranks' mean loss is minimised."""
    if _count == 1:
        return values
    averaged: Tensor = _Mean.apply(values)
    return averaged


def norm(values: Tensor) -> Tensor:
    """The root of the summed squares of the values of all ranks."""
    return values.norm() if _count == 1 else total_(values.detach().square().sum()).sqrt()


def mean_numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """The means over all ranks of some scalars."""
    if _count == 1 or not values:
        return {name: float(value) for name, value in values.items()}
    stacked = torch.stack([value.detach().double() for value in values.values()])
    return dict(zip(values, (total_(stacked) / _count).tolist(), strict=True))


def agreed(number: float) -> float:
    """The number that rank 0 has."""
    if _count == 1:
        return number
    value = torch.tensor(number, dtype=torch.float64)
    distributed.broadcast(value, 0)
    return float(value)


class _Mean(torch.autograd.Function):
    """A rank's value pulls at the losses of all ranks, whose mean is minimised: so gradients are averaged as values."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        return total_(values.detach().clone(memory_format=torch.contiguous_format)) / _count

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return total_(gradient.clone(memory_format=torch.contiguous_format)) / _count
