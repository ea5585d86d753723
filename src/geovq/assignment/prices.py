"""What codes cost beside the error that they decode to: their code length in bits times a price per bit.

A search minimises ``‖x − D(q)‖² + λ·bits(codes)`` (rate-distortion optimised encoding: Sullivan, Wiegand 1998), both
terms in squared pixel error, summed over the pixels of an image whose values go from 0 to 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geovq.models.prior import OrderedPrior


class Prices(ABC):
    """Prices of the codes of a batch of images, in squared pixel error."""

    @abstractmethod
    def of(self, rows: Tensor) -> Prices:
        """Those of some of the images."""

    @abstractmethod
    def total(self, codes: Tensor) -> Tensor:
        """What all codes (B, T) of each image cost, (B,)."""

    @abstractmethod
    def each(self, codes: Tensor) -> Tensor:
        """What each code costs at each place beside the codes (B, T) that are there: (B, T, K), or (K,) for all."""


@dataclass(frozen=True, eq=False)
class CodePrices(Prices):
    """A price (K,) for each code, wherever it stands: ``each`` then tells what a move really costs."""

    prices: Tensor

    def of(self, rows: Tensor) -> CodePrices:
        """The same for all images."""
        return self

    def total(self, codes: Tensor) -> Tensor:
        """What all codes (B, T) of each image cost, (B,)."""
        return self.prices[codes].sum(1)

    def each(self, codes: Tensor) -> Tensor:
        """The prices (K,)."""
        return self.prices


@dataclass(frozen=True, eq=False)
class PriorPrices(Prices):
    """``λ·(−log₂ p(codes | start))`` under a prior that gives one code after another.

    ``each`` has the length of a code after those before it, exactly; what it makes of the codes after it is left to
    ``total``.

    Attributes:
        prior: in evaluation mode, one code per token.
        start: (B,) start ids of the images: their class, as in the report, or none.
        rate_lambda: squared pixel error that a bit is worth.
    """

    prior: OrderedPrior
    start: Tensor
    rate_lambda: float

    def of(self, rows: Tensor) -> PriorPrices:
        """Those of some of the images."""
        return replace(self, start=self.start[rows])

    @torch.no_grad()
    def total(self, codes: Tensor) -> Tensor:
        """What all codes (B, T) of each image cost, (B,)."""
        return self._price(self.prior.code_lengths(self._ids(codes)).sum(1))

    @torch.no_grad()
    def each(self, codes: Tensor) -> Tensor:
        """What each code costs after those of ``codes`` (B, T) that stand before it, (B, T, K)."""
        logits = self.prior.logits(self._ids(codes))
        return self._price(-logits.log_softmax(-1)[..., : self.prior.layout.n_codes])

    def _ids(self, codes: Tensor) -> Tensor:
        return torch.cat([self.start[:, None], codes], dim=1)

    def _price(self, nats: Tensor) -> Tensor:
        return nats * (self.rate_lambda / math.log(2.0))


def at_codes(each: Tensor, codes: Tensor) -> Tensor:
    """Of prices (B, T, K) or (K,) those of some codes (B, T, m) at their places."""
    return each[codes] if each.ndim == 1 else each.gather(2, codes)
