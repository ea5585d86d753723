"""Which changes of codes a search should try: a quadratic model of their cost, and sets of changes made at once."""

from __future__ import annotations

import torch
from torch import Tensor

from geovq.geometry.symmetric import unpack_symmetric


class MoveModel:
    """``ΔE(q_t → c) ≈ gᵀ(c − q) + γ (c − q)ᵀG(c − q) + price(c) − price(q)`` for a few candidates per token.

    Args:
        packed: ``(B·T, d(d+1)/2)`` metrics of the tokens.
        codewords: ``(K, d)``.
        prices: ``(K,)`` added to the cost of each token by its code.
        damping: γ.
        n_candidates: at most K.
    """

    def __init__(self, packed: Tensor, codewords: Tensor, prices: Tensor, damping: float, n_candidates: int) -> None:
        self.codewords, self.prices, self.n_candidates = codewords, prices, n_candidates
        self.metrics = damping * unpack_symmetric(packed, codewords.shape[1])  # (B·T, d, d)
        self.candidates = torch.empty(0)
        self.quadratic = torch.empty(0)
        self.tried = torch.empty(0)

    def start(self, codes: Tensor, gradient: Tensor) -> None:
        """Choose each token's candidates: those of least cost in the model at the codes to start from.

        Args:
            codes: ``(B, T)``.
            gradient: ``(B, T, d)`` of the images' error with respect to the tokens.
        """
        n, n_tokens = codes.shape
        d = self.codewords.shape[1]
        self.metrics = self.metrics.view(n, n_tokens, d, d)
        outer = (self.codewords[:, :, None] * self.codewords[:, None, :]).flatten(1)
        quadratic = (self.metrics.flatten(2) @ outer.T) + self.prices  # cᵀGc, (B, T, K)
        linear, _ = self._linear(self.metrics, codes, gradient)
        self.candidates = (quadratic + linear @ self.codewords.T).topk(self.n_candidates, largest=False).indices
        self.quadratic = quadratic.gather(2, self.candidates)
        self.tried = torch.zeros_like(self.candidates, dtype=torch.bool)

    def changes(self, rows: Tensor, codes: Tensor, gradient: Tensor) -> Tensor:
        """Predicted changes ``(R, T, m)`` of some images' costs; infinite for what is there or was tried in vain.

        Args:
            rows: ``(R,)`` places of these images in the batch that was started with.
            codes: ``(R, T)`` of these images alone.
            gradient: ``(R, T, d)`` of these images alone.
        """
        candidates = self.candidates[rows]
        linear, here = self._linear(self.metrics[rows], codes, gradient)
        values = self.quadratic[rows] + (self.codewords[candidates] @ linear[..., None])[..., 0] - here[..., None]
        return values.masked_fill((candidates == codes[..., None]) | self.tried[rows], torch.inf)

    def _linear(self, metrics: Tensor, codes: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """``g − 2Gq``, and the model's value at the codes themselves."""
        current = self.codewords[codes]
        pulled = (metrics @ current[..., None])[..., 0]
        here = (current * (gradient - pulled)).sum(-1) + self.prices[codes]
        return gradient - 2 * pulled, here


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
        near: ``(T, T)`` of :func:`adjacency`.
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
