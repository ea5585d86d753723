"""What every jointly trained quantizer offers, and how the use of its codes is counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from geovq.models.codec import joined
from geovq.models.sizes import JOINED_CODES


@dataclass(frozen=True)
class Quantized:
    """Tokens after quantization.

    Attributes:
        vectors: (N, d); the forward value is the quantized one, the gradient reaches the tokens.
        codes: (N, M) int64, one per slot.
        penalty: scalar, mean over tokens; its unit is told by the quantizer.
    """

    vectors: Tensor
    codes: Tensor
    penalty: Tensor


class TokenQuantizer(nn.Module, ABC):
    """Tokens (N, dim) to codes (N, M) and back, trained together with an autoencoder.

    Randomness comes from torch's global generator, state that a resumed training needs lies in parameters and
    buffers. Subclasses set ``dim`` and ``sizes`` and write ``quantize``, ``codes`` and ``tables``.

    Attributes:
        dim: channels of the latents.
        sizes: how many codes each slot has.
    """

    is_joint: ClassVar[bool] = True
    """Whether it is trained together with its autoencoder."""
    latents_are_points: ClassVar[bool] = True
    """Whether latents lie in the space of the codewords; else they are scores of them."""
    grids: ClassVar[int] = 1
    """Grids of tokens per image: 1, or 2 for a coarse and a fine one with a quantizer each."""
    penalty_in_nats: ClassVar[bool] = False
    """Whether the penalty is in nats per token; else in squared latent units per dimension."""

    dim: int
    sizes: tuple[int, ...]
    penalty_weight: float = 0.0
    """What a unit of the penalty costs; see ``geovq.models.joint``."""

    @classmethod
    def least_sizes(cls, settings: Any) -> tuple[int, ...]:
        """How many codes each slot will have at least, known from the settings; asked before any compute."""
        return (settings.K,)

    def activation(self, latents: Tensor) -> Tensor:
        """What the encoder's output passes before it is called a latent; same shape."""
        return latents

    @abstractmethod
    def quantize(self, tokens: Tensor, progress: float) -> Quantized:
        """Quantize float32 tokens (N, dim); in training mode, also move what is not moved by gradients."""

    @abstractmethod
    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (N, dim) to codes (N, M), without randomness."""

    @abstractmethod
    def tables(self) -> list[Tensor]:
        """One table (K_m, dim) per slot; a token is the sum of a row of each."""

    def scalars(self) -> dict[str, Tensor]:
        """State worth logging."""
        return {}

    def forward(self, tokens: Tensor, progress: float) -> Quantized:
        """Quantize tokens (N, dim) in float32, whatever the precision around; exact table rows in evaluation mode."""
        with torch.autocast(tokens.device.type, enabled=False):
            quantized = self.quantize(tokens.float(), progress)
            return quantized if self.training else replace(quantized, vectors=self.embed(quantized.codes))

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (N, M) to vectors (N, dim)."""
        rows = [table[codes[:, slot]] for slot, table in enumerate(self.tables())]
        return torch.stack(rows).sum(0) if len(rows) > 1 else rows[0]


def straight_through(tokens: Tensor, vectors: Tensor) -> Tensor:
    """``vectors`` forward, the identity's gradient to ``tokens`` backward (Bengio et al. 2013); both (N, d)."""
    return tokens + (vectors - tokens).detach()


def code_counts(codes: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """How often each code occurs: codes (N, M) to one or several counts.

    Whole tokens are counted, ``[(prod(sizes),)]``, as long as they take at most ``JOINED_CODES`` values; beyond, their
    combinations are more than the tokens and each slot is counted by itself, ``[(size,), ...]``, as in reports.
    """
    if prod(sizes) > JOINED_CODES:
        return [torch.bincount(codes[:, slot], minlength=size) for slot, size in enumerate(sizes)]
    return [torch.bincount(joined(codes, sizes), minlength=prod(sizes))]


def perplexity(counts: Sequence[Tensor]) -> Tensor:
    """exp of the entropy of counts [(K,)]: the number of equally frequent codes that would be as diverse.

    Of several counts, that of their mean entropy.
    """
    entropies = [torch.special.entr(each.double() / each.sum()).sum() for each in counts]
    return torch.stack(entropies).mean().exp().float()


def usage(counts: Sequence[Tensor]) -> Tensor:
    """Share of the codes that occur at all, over all counts [(K,), ...]."""
    return torch.cat(list(counts)).gt(0).float().mean()
