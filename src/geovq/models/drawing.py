"""How a code is drawn from logits: guidance, temperature, the most likely codes alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Drawing:
    """Settings of a draw.

    Attributes:
        temperature: logits are divided by it; 0 takes the most likely code.
        top_k: keep the k most likely codes; None keeps all.
        top_p: keep the smallest set of codes with this probability (Holtzman et al. 2020); None keeps all.
        guidance: g of classifier-free guidance (Ho, Salimans 2022); 1 is none.
        steps: of priors that draw many codes at once; None: what they take by themselves.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0
    steps: int | None = None

    @property
    def is_guided(self) -> bool:
        """Whether the network is asked twice, with the class and without it."""
        return self.guidance != 1

    def starts(self, start: Tensor, bos: int) -> Tensor:
        """Start ids (B,) and, with guidance, as many that withhold the class behind them: one batch for both."""
        return torch.cat([start, torch.full_like(start, bos)]) if self.is_guided else start

    def for_both(self, given: Tensor) -> Tensor:
        """The same input (B, …) for both halves of the batch."""
        return torch.cat([given, given]) if self.is_guided else given

    def guided(self, logits: Tensor) -> Tensor:
        """Logits (2B, …) of both halves to l_without + g (l_with - l_without), (B, …); without guidance as they are."""
        if not self.is_guided:
            return logits
        conditional, unconditional = logits.chunk(2)
        mixed = unconditional + self.guidance * (conditional - unconditional)
        return mixed.masked_fill(conditional == -math.inf, -math.inf)  # not NaN, where neither allows a code

    def draw(self, logits: Tensor) -> Tensor:
        """A code (B,) from logits (B, V), -inf where there is none."""
        if self.temperature == 0:
            return logits.argmax(1)
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[:, -1:], -math.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = logits.sort(descending=True)
            shares = ordered.softmax(1)
            beyond = shares.cumsum(1) - shares >= self.top_p
            logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -math.inf)
        return torch.multinomial(logits.softmax(1), 1)[:, 0]
