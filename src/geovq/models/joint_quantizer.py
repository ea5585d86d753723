"""What every jointly trained quantizer offers, and how the use of its codes is counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn


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


def code_counts(codes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """How many tokens have each combination of slot codes: codes (N, M) to counts (prod(sizes),)."""
    index = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
    for slot, size in enumerate(sizes):
        index = index * size + codes[:, slot]
    return torch.bincount(index, minlength=prod(sizes))


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of counts (K,): the number of equally frequent codes that would be as diverse."""
    shares = counts.double() / counts.sum()
    return torch.special.entr(shares).sum().exp().float()


def usage(counts: Tensor) -> Tensor:
    """Share of the codes (K,) that occur at all."""
    return (counts > 0).float().mean()
