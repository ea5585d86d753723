"""What every jointly trained quantizer offers, and how the use of its codes is counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

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
    buffers. Subclasses set ``dim`` and ``sizes`` and write :meth:`quantize`, :meth:`codes` and :meth:`tables`.

    Attributes:
        dim: channels of the latents.
        sizes: how many codes each slot has.
    """

    dim: int
    sizes: tuple[int, ...]

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
    index = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
    for slot, size in enumerate(sizes):
        index = index * size + codes[:, slot]
    return [torch.bincount(index, minlength=prod(sizes))]


def perplexity(counts: Sequence[Tensor]) -> Tensor:
    """exp of the entropy of counts [(K,)]: the number of equally frequent codes that would be as diverse.

    Of several counts, that of their mean entropy.
    """
    entropies = [torch.special.entr(each.double() / each.sum()).sum() for each in counts]
    return torch.stack(entropies).mean().exp().float()


def usage(counts: Sequence[Tensor]) -> Tensor:
    """Share of the codes that occur at all, over all counts [(K,), ...]."""
    return torch.cat(list(counts)).gt(0).float().mean()
