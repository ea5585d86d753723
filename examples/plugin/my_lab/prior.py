"""A prior: the codes of a position depend on the class alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geovq.configuration.fields import Positive
from geovq.models.code_layout import CodeLayout
from geovq.models.prior import Prior


class IndependentPositions(Prior):
    """A table of logits for every class (and for none) and position.

    Args:
        layout: of the sequences.
        spread: standard deviation of the initial logits.
    """

    def __init__(self, layout: CodeLayout, spread: Positive) -> None:
        super().__init__(layout)
        n_starts = layout.n_classes + 1
        self.logits = nn.Parameter(spread * torch.randn(n_starts, layout.length, layout.n_codes))
        self.register_buffer("allowed", layout.allowed()[:, : layout.n_codes], persistent=False)

    def _log_probabilities(self, start: Tensor) -> Tensor:
        """Start ids (B,) to (B, length, n_codes)."""
        row = torch.where(start == self.layout.bos, 0, start - self.layout.pad)  # classes come after PAD
        return self.logits[row].masked_fill(~self.allowed, -math.inf).log_softmax(2)

    def loss(self, ids: Tensor) -> Tensor:
        """Negative log-likelihood in nats: ids (B, S), start first, to (B,)."""
        found = self._log_probabilities(ids[:, 0]).gather(2, ids[:, 1 : self.layout.length + 1, None])
        return -found.sum((1, 2))

    @torch.no_grad()
    def bits_per_image(self, ids: Tensor, batch_size: int = 500) -> Tensor:
        """Code lengths in bits: (N, S) to (N,)."""
        return torch.cat([self.loss(part.to(self.device)).cpu() for part in ids.split(batch_size)]) / math.log(2)

    @torch.no_grad()
    def sample(self, start, *, temperature=1.0, top_k=None, top_p=None, seed=0, batch_size=500):
        """Codes (N, *layout.shape) for start ids (N,); ``top_k`` and ``top_p`` as in Holtzman et al. 2020."""
        generator = torch.Generator().manual_seed(seed)
        logits = self._log_probabilities(start.to(self.device)).cpu()
        if temperature == 0:
            codes = logits.argmax(2)
        else:
            shares = (logits / temperature).softmax(2)
            ordered, places = shares.sort(dim=2, descending=True)
            if top_k is not None:
                ordered[..., top_k:] = 0
            if top_p is not None:
                ordered[ordered.cumsum(2) - ordered >= top_p] = 0
            drawn = torch.multinomial(ordered.flatten(0, 1), 1, generator=generator)
            codes = places.flatten(0, 1).gather(1, drawn).reshape(len(start), -1)
        return codes.reshape(len(start), *self.layout.shape)
