"""What codes cost once they are decoded, and which changes of them a search should try.

A quadratic model predicts what changes cost; several are made at once where tokens lie apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq.assignment.prices import Prices, at_codes
from geovq.geometry.checks import of_images
from geovq.geometry.computing import bf16_autocast
from geovq.geometry.symmetric import unpack_symmetric
from geovq.models.tokens import grids_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class MoveModel:
    """``ΔE(q_t → c) ≈ gᵀ(c − q) + γ (c − q)ᵀG(c − q) + price(c) − price(q)`` for a few candidates per token.

    Args:
        packed: ``(B·T, d(d+1)/2)`` metrics of the tokens.
        codewords: ``(K, d)``.
        damping: γ.
        n_candidates: at most K.
    """

    def __init__(self, packed: Tensor, codewords: Tensor, damping: float, n_candidates: int) -> None:
        self.codewords, self.n_candidates = codewords, n_candidates
        self.metrics = damping * unpack_symmetric(packed, codewords.shape[1])  # (B·T, d, d)
        self.candidates = torch.empty(0)
        self.quadratic = torch.empty(0)
        self.tried = torch.empty(0)

    def start(self, codes: Tensor, gradient: Tensor, prices: Tensor) -> None:
        """Choose each token's candidates: those of least cost in the model at the codes to start from.

        Args:
            codes: ``(B, T)``.
            gradient: ``(B, T, d)`` of the images' error with respect to the tokens.
            prices: ``(B, T, K)`` or ``(K,)`` of ``Prices.each``.
        """
        n, n_tokens = codes.shape
        d = self.codewords.shape[1]
        self.metrics = self.metrics.view(n, n_tokens, d, d)
        outer = (self.codewords[:, :, None] * self.codewords[:, None, :]).flatten(1)
        quadratic = self.metrics.flatten(2) @ outer.T  # cᵀGc, (B, T, K)
        linear, _ = self._linear(self.metrics, codes, gradient)
        costs = quadratic + prices + linear @ self.codewords.T
        self.candidates = costs.topk(self.n_candidates, largest=False).indices
        self.quadratic = quadratic.gather(2, self.candidates)
        self.tried = torch.zeros_like(self.candidates, dtype=torch.bool)

    def changes(self, rows: Tensor, codes: Tensor, gradient: Tensor, prices: Tensor) -> Tensor:
        """Predicted changes ``(R, T, m)`` of some images' costs; infinite for what is there or was tried in vain.

        Args:
            rows: ``(R,)`` places of these images in the batch that was started with.
            codes: ``(R, T)`` of these images alone.
            gradient: ``(R, T, d)`` of these images alone.
            prices: ``(R, T, K)`` or ``(K,)`` of ``Prices.each``.
        """
        candidates = self.candidates[rows]
        linear, here = self._linear(self.metrics[rows], codes, gradient)
        here = here[..., None] + at_codes(prices, codes[..., None])
        quadratic = self.quadratic[rows] + at_codes(prices, candidates)
        values = quadratic + (self.codewords[candidates] @ linear[..., None])[..., 0] - here
        return values.masked_fill((candidates == codes[..., None]) | self.tried[rows], torch.inf)

    def _linear(self, metrics: Tensor, codes: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """``g − 2Gq``, and the model's value at the codes themselves."""
        current = self.codewords[codes]
        pulled = (metrics @ current[..., None])[..., 0]
        return gradient - 2 * pulled, (current * (gradient - pulled)).sum(-1)


def adjacency(grid: tuple[int, ...]) -> Tensor:
    """``(T, T)``: whether two tokens of a grid are the same or touch, at corners too."""
    positions = torch.stack(torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij"), dim=-1)
    flat = positions.reshape(-1, len(grid))
    return (flat[:, None] - flat[None]).abs().amax(-1) <= 1


def move_counts(n_tokens: int) -> list[int]:
    """How many tokens the proposals of a round change: 1, 3, 9, … below a quarter of them."""
    counts = [1]
    while 3 * counts[-1] < n_tokens / 4:
        counts.append(3 * counts[-1])
    return counts


def tokens_apart(best: Tensor, near: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Tokens ``(B, most)`` of falling predicted gain, none beside another, and which of them promise a gain.

    Where no token is left that touches none before it, any stands there, without promise.

    Args:
        best: ``(B, T)`` predicted change of the best move of each token; negative is a gain.
        near: ``(T, T)`` of ``adjacency``.
        most: how many tokens.
    """
    left = best.clone()
    tokens, promising = [], []
    for _ in range(most):
        value, token = left.min(1)
        tokens.append(token)
        promising.append(value < 0)
        left = left.masked_fill(near[token], torch.inf)
    return torch.stack(tokens, 1), torch.stack(promising, 1)


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images ``(B, C, H, W)`` in [0, 1], and what codes ``(B, T)`` of one grid of tokens cost them.

    Attributes:
        decoder: maps ``(B, d, h, w)`` to images; in evaluation mode.
        images: ``(B, C, H, W)`` float.
        grid: ``(h', w')`` of the codes, ``T = h'·w'``.
        codewords: ``(K, d')``.
        prices: of the codes.
        bf16: whether to decode under autocast.
        lift: from vectors ``(B, d', h', w')`` of the grid to their part of what the decoder reads, ``(B, d, h, w)``;
            None where the decoder reads the vectors themselves.
        rest: ``(B, d, h, w)`` the part of the other grids, which stays.
        most: images to decode at a time.
    """

    decoder: nn.Module
    images: Tensor
    grid: tuple[int, int]
    codewords: Tensor
    prices: Prices
    bf16: bool
    lift: Callable[[Tensor], Tensor] | None = None
    rest: Tensor | None = None
    most: int = 256

    def of(self, rows: Tensor) -> DecodedImages:
        """Some of the images."""
        rest = None if self.rest is None else self.rest[rows]
        decoder, images, prices = of_images(self.decoder, rows), self.images[rows], self.prices.of(rows)
        return replace(self, decoder=decoder, images=images, prices=prices, rest=rest)

    def cost(self, codes: Tensor) -> Tensor:
        """Squared pixel error of each image plus the prices of its codes, (B,)."""
        return torch.cat([part._error_at(here) for part, here in self._parts(codes)]) + self.prices.total(codes)

    def _parts(self, codes: Tensor) -> Iterator[tuple[DecodedImages, Tensor]]:
        """The images, and their codes, that are decoded at one time."""
        if len(codes) <= self.most:
            yield self, codes
            return
        for rows in torch.arange(len(codes), device=codes.device).split(self.most):
            yield self.of(rows), codes[rows]

    def _error_at(self, codes: Tensor) -> Tensor:
        with torch.no_grad(), bf16_autocast(self.bf16, codes.device):
            decoded = self.decode(self.vectors(codes))
        return self._error(decoded)

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
        found = [part._error_and_gradient(here) for part, here in self._parts(codes)]
        error, gradient = (torch.cat(each) for each in zip(*found, strict=True))
        return error + self.prices.total(codes), gradient

    def _error_and_gradient(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            z = self.vectors(codes).requires_grad_(True)
            with bf16_autocast(self.bf16, codes.device):
                decoded = self.decode(z)
            error = self._error(decoded)
            (gradient,) = torch.autograd.grad(error.sum(), z, materialize_grads=True)
        return error.detach(), gradient.flatten(2).mT

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
