"""Random numbers of a batch that several ranks share: every image gets those that it would get on one rank.

Each rank draws for the whole batch, from the same seed, and takes the rows of its share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from geovq import ranks

_aten = torch.ops.aten
_OF_SHAPE = (_aten.rand.default, _aten.randn.default)
_LIKE = (_aten.rand_like.default, _aten.randn_like.default)
_IN_PLACE = (_aten.normal_.default, _aten.uniform_.default, _aten.bernoulli_.float, _aten.exponential_.default)
_DROPOUT = _aten.native_dropout.default  # of GPUs; on the CPU dropout draws in place
_DRAWS = {*_OF_SHAPE, *_LIKE, *_IN_PLACE, _DROPOUT}


def shared_draws(batch: int) -> AbstractContextManager[object]:
    """Around what is computed of a rank's share of ``batch`` images: draws for them are shared out, but with one rank.

    A draw is taken for one of the images, in their order, where its first dimension is a multiple of the share: any
    other one is the same on all ranks, as are whole numbers and permutations. Draws from a generator of their own are
    left alone; those inside of a GPU's fused attention are not those of one rank.
    """
    return nullcontext() if ranks.count() == 1 else _SharedDraws(batch)


def shared_parts(n: int, size: int = 500) -> Iterator[slice]:
    """Parts of n images that this rank looks at, its share of each ``size``; the loop over them draws as for all."""
    for start in range(0, n, size):
        own = ranks.share(batch := min(size, n - start))
        if own.start < own.stop:
            with shared_draws(batch):
                yield slice(start + own.start, start + own.stop)


class _SharedDraws(TorchDispatchMode):
    """Below autograd and below what layers are made of, so that every draw is seen, whoever makes it."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.own = batch, ranks.share(batch)
        self.n_images = self.own.stop - self.own.start

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function not in _DRAWS or kwargs.get("generator") is not None:
            return function(*args, **kwargs)
        first, rest = args[0], args[1:]
        shape = tuple(first if function in _OF_SHAPE else first.shape)
        if not shape or shape[0] == 0 or shape[0] % self.n_images:
            return function(*args, **kwargs)
        each = shape[0] // self.n_images
        whole, own = (self.batch * each, *shape[1:]), slice(self.own.start * each, self.own.stop * each)
        if function in _OF_SHAPE:
            return function(whole, *rest, **kwargs)[own]
        if function in _LIKE:
            return function(_alike(first, whole), *rest, **kwargs)[own]
        if function in _IN_PLACE:
            return first.copy_(function(_alike(first, whole), *rest, **kwargs)[own])
        kept, mask = function(_alike(first, whole).fill_(1), *rest, **kwargs)
        dropped: tuple[Tensor, Tensor] = (first * kept[own], mask[own])
        return dropped


def _alike(part: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An empty tensor of another shape with the order in memory of the dimensions of ``part``, in which draws come."""
    strides = part.stride()
    order = sorted(range(part.ndim), key=lambda dim: -strides[dim])
    places = sorted(range(part.ndim), key=lambda dim: order[dim])
    return part.new_empty([shape[dim] for dim in order]).permute(places)
