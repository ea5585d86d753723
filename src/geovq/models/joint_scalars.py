"""Finite scalar quantization by vector-quantize-pytorch: every dimension rounded to one of a few levels."""

from __future__ import annotations

from math import prod
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from geovq.configuration.fields import Count, FewCodes
from geovq.errors import InputError
from geovq.models.joint_quantizer import Quantized, TokenQuantizer
from geovq.models.sizes import check_split, split_sizes

Levels = Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]


class FiniteScalars(TokenQuantizer):
    """Dimension m takes the L_m values -1, ..., 1 at equal distances (Mentzer et al. 2023).

    Latents are tanh of the encoder's output, in (-1, 1), and have one channel per level; rounding is straight-through.
    The published bound shifts even numbers of levels by half a step so that zero is a value, and cannot have two
    levels; the library's symmetric one is used, where zero then lies between two values. The two differ by a shift of
    the encoder's output and an affine map of the decoder's input, which the convolutions on either side can take up.
    There is no penalty and nothing to learn.

    Args:
        K: codes of one token: the product of the levels, or a little more.
        n_levels: dimensions, whose levels share K evenly.
        levels: or given ones, such as [16, 8, 4].
    """

    def __init__(self, K: FewCodes, n_levels: Count, levels: Levels | None = None) -> None:
        from vector_quantize_pytorch import FSQ

        super().__init__()
        self.sizes = tuple(levels) if levels else split_sizes(K, n_levels)
        if min(self.sizes) < 2 or prod(self.sizes) > K:
            raise InputError(
                f"levels of {list(self.sizes)} with K={K}: each must be at least 2 and their product, "
                f"{prod(self.sizes)}, at most K"
            )
        self.dim = len(self.sizes)
        # The clamp in place of the library's tanh: latents have passed theirs before they are called so.
        self.underlying = FSQ(list(self.sizes), preserve_symmetry=True, bound_hard_clamp=True)

    @classmethod
    def check_settings(cls, settings: Any) -> None:
        """Refuse levels whose product is no number of codes that would be compared as K."""
        if settings.levels is None:
            check_split(settings.K, settings.n_levels, "quantizer.n_levels")
        elif prod(settings.levels) > settings.K:
            raise ValueError(
                f"quantizer.levels={settings.levels}: their product {prod(settings.levels)} is more than "
                f"quantizer.K={settings.K}; take fewer levels, or a larger K"
            )
        elif 2 * prod(settings.levels) <= settings.K:
            raise ValueError(
                f"quantizer.levels={settings.levels}: their product {prod(settings.levels)} is a bit or more short of "
                f"quantizer.K={settings.K}, under which the run would be compared; take quantizer.K="
                f"{prod(settings.levels)}"
            )

    @classmethod
    def least_sizes(cls, settings: Any) -> tuple[int, ...]:
        """Levels need no crowd of tokens."""
        return (1,)

    def activation(self, latents: Tensor) -> Tensor:
        """tanh in float32: (B, M, h, w) to values in (-1, 1)."""
        return torch.tanh(latents.float())

    def quantize(self, tokens: Tensor, progress: float) -> Quantized:
        """Round to the nearest level, straight-through."""
        vectors, index = self.underlying(tokens[None])
        return Quantized(vectors[0], self.underlying.indices_to_level_indices(index[0].long()), tokens.new_zeros(()))

    def codes(self, tokens: Tensor) -> Tensor:
        """The nearest level of each dimension: (N, M)."""
        return self.quantize(tokens, 0.0).codes

    def tables(self) -> list[Tensor]:
        """Values of each dimension, zero in the others: one (L_m, M) table per dimension."""
        values = self.underlying.implicit_codebook
        tables, stride = [], 1
        for slot, size in enumerate(self.sizes):
            table = torch.zeros(size, self.dim, device=values.device)
            table[:, slot] = values[: stride * size : stride, slot]
            tables.append(table)
            stride *= size
        return tables
