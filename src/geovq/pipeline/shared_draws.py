"""Random numbers of a batch that several ranks share: every image gets those that it would get on one rank.

Each rank draws for the whole batch, from the same seed, and takes the rows of its share.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from geovq import ranks

_OF_SHAPE = (torch.rand, torch.randn)
_LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}
_IN_PLACE = (Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.exponential_)


def shared_draws(n_images: int) -> AbstractContextManager[object]:
    """Around what is computed of a rank's ``n_images``: draws for them are shared out; nothing with one rank.

    A draw is taken for one of the images, in their order, where its first dimension is a multiple of ``n_images``: any
    other one is the same on all ranks, as are whole numbers and permutations. Covered are ``rand``, ``randn`` and those
    ``_like`` something, drawing in place, dropout, and attention with dropout but no mask. Draws from a generator of
    their own are left alone.
    """
    return nullcontext() if ranks.count() == 1 else _SharedDraws(n_images)


class _SharedDraws(TorchFunctionMode):
    def __init__(self, n_images: int) -> None:
        super().__init__()
        self.n_images = n_images

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is None:
            if function in _OF_SHAPE:
                shape = tuple(args[0] if isinstance(args[0], tuple | list) else args)
                if self._is_of_images(shape):
                    return self._own(function(self._whole(shape), **kwargs), shape)
            elif function in _LIKE and self._is_of_images(args[0].shape):
                like = {"dtype": args[0].dtype, "device": args[0].device} | kwargs
                return self._own(_LIKE[function](self._whole(args[0].shape), **like), args[0].shape)
            elif function in _IN_PLACE and self._is_of_images(args[0].shape):
                whole = args[0].new_empty(self._whole(args[0].shape))
                return args[0].copy_(self._own(function(whole, *args[1:], **kwargs), args[0].shape))
            elif function is F.dropout:
                return self._dropout(*args, **kwargs)
            elif function is F.scaled_dot_product_attention:
                return self._attention(function, *args, **kwargs)
        return function(*args, **kwargs)

    def _is_of_images(self, shape: Any) -> bool:
        return len(shape) > 0 and shape[0] > 0 and shape[0] % self.n_images == 0

    def _whole(self, shape: Any) -> tuple[int, ...]:
        return (shape[0] * ranks.count(), *shape[1:])

    def _own(self, whole: Tensor, shape: Any) -> Tensor:
        return whole[ranks.share(shape[0] * ranks.count())]

    def _dropout(self, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0 or not self._is_of_images(values.shape):
            return F.dropout(values, p, training, inplace)
        kept = F.dropout(torch.ones(self._whole(values.shape), dtype=values.dtype, device=values.device), p)
        kept = self._own(kept, values.shape)
        return values.mul_(kept) if inplace else values * kept

    def _attention(
        self,
        function: Callable[..., Tensor],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """Attention whose dropout is drawn inside the kernel, written out."""
        if dropout_p == 0 or attn_mask is not None or is_causal or any(kwargs.values()):
            return function(query, key, value, attn_mask, dropout_p, is_causal, **kwargs)
        weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
        return self._dropout(weights, dropout_p) @ value
