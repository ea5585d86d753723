"""A batch of images and what codes of theirs cost: squared error of what they decode to, with its gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq.geometry.computing import bf16_autocast
from geovq.models.tokens import grids_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images ``(B, C, H, W)`` in [0, 1], and what codes ``(B, T)`` of one grid of tokens cost them.

    Attributes:
        decoder: maps ``(B, d, h, w)`` to images; in evaluation mode.
        images: ``(B, C, H, W)`` float.
        grid: ``(h', w')`` of the codes, ``T = h'·w'``.
        codewords: ``(K, d')``.
        prices: ``(K,)`` added to the cost of each code.
        bf16: whether to decode under autocast.
        lift: from vectors ``(B, d', h', w')`` of the grid to their part of what the decoder reads, ``(B, d, h, w)``;
            None where the decoder reads the vectors themselves.
        rest: ``(B, d, h, w)`` the part of the other grids, which stays.
    """

    decoder: nn.Module
    images: Tensor
    grid: tuple[int, int]
    codewords: Tensor
    prices: Tensor
    bf16: bool
    lift: Callable[[Tensor], Tensor] | None = None
    rest: Tensor | None = None

    def of(self, rows: Tensor) -> DecodedImages:
        """Some of the images."""
        return replace(self, images=self.images[rows], rest=None if self.rest is None else self.rest[rows])

    def cost(self, codes: Tensor) -> Tensor:
        """Squared pixel error of each image plus the prices of its codes, (B,)."""
        with torch.no_grad(), bf16_autocast(self.bf16, codes.device):
            decoded = self.decode(self.vectors(codes))
        return self._error(decoded) + self.prices[codes].sum(1)

    def best(self, choices: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of codes (B, T) those of least cost, image by image, the first among equals; and that cost (B,)."""
        codes, least = choices[0], self.cost(choices[0])
        for other in choices[1:]:
            cost = self.cost(other)
            better = cost < least
            codes = torch.where(better[:, None], other, codes)
            least = torch.where(better, cost, least)
        return codes, least

    def gradient(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The cost (B,), and the gradient (B, T, d') of its error with respect to the tokens."""
        with torch.inference_mode(False), torch.enable_grad():
            z = self.vectors(codes).requires_grad_(True)
            with bf16_autocast(self.bf16, codes.device):
                decoded = self.decode(z)
            error = self._error(decoded)
            (gradient,) = torch.autograd.grad(error.sum(), z, materialize_grads=True)
        return error.detach() + self.prices[codes].sum(1), gradient.flatten(2).mT

    def vectors(self, codes: Tensor) -> Tensor:
        """Codes (B, T) to the vectors (B, d', h', w') of the grid."""
        return grids_of(self.codewords[codes.flatten()], self.grid)

    def decode(self, vectors: Tensor) -> Tensor:
        """Images of vectors (B, d', h', w') of the grid, all else as it is."""
        z = vectors if self.lift is None else self.lift(vectors)
        decoded: Tensor = self.decoder(z if self.rest is None else z + self.rest)
        return decoded

    def _error(self, decoded: Tensor) -> Tensor:
        return (decoded.float() - self.images).square().flatten(1).sum(1)
