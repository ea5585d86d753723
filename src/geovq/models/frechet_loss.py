"""The Fréchet distance between two sets of features as a loss of the second set (Mathiasen & Hvilshøj 2020).

A batch is far too small for the covariance of its features, so the moments of both sets run over the batches. What a
sample adds to the distance at these moments is the derivative of the distance by the distribution of the second set:
for Gaussians of moments (m, C) and (m', C') it is, at a feature vector e,

    2 (m' - m)·e + (e - m')ᵀ(I - T)(e - m')        T = C^½ (C^½ C' C^½)^-½ C^½

where T is the map of optimal transport from C' to C (Takatsu 2011, eq. 2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geovq import ranks

MEMORY = 4096
"""Images over which the moments run, and which have to be seen before they count."""
_REFRESHED = 10
"""Batches after which roots are taken anew."""
_RIDGE = 1e-4
"""Of the mean variance of both sets, added to all variances: directions in which nothing varies have no root."""


class FrechetTerm(nn.Module):
    """Running moments of features of originals and of what is drawn, batches of pairs (B, D).

    Pairs share what a batch happens to hold: the distance of their moments is steadier than that to fixed ones.

    Args:
        size: D.
    """

    seen: Tensor
    calls: Tensor
    means: Tensor
    products: Tensor
    slope: Tensor
    curvature: Tensor
    centre: Tensor
    value: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        zeros = {"seen": (), "means": (2, size), "products": (2, size, size), "value": ()}
        zeros |= {"slope": (size,), "curvature": (size, size), "centre": (size,)}
        for name, shape in zeros.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, real: Tensor, drawn: Tensor) -> Tensor:
        """The distance at the running moments, with the derivative of each drawn sample's share of it; 0 before."""
        self._see(real, drawn)
        if self.seen < 1 - 1 / torch.e:
            return drawn.sum() * 0.0
        if self.calls % _REFRESHED == 0 or self.curvature.count_nonzero() == 0:
            self._refresh()
        apart = drawn.double() - self.centre
        share = (apart @ self.slope).mean() + ((apart @ self.curvature) * apart).sum(1).mean()
        return (share - share.detach() + self.value).to(drawn.dtype)

    @torch.no_grad()
    def _see(self, real: Tensor, drawn: Tensor) -> None:
        """Let the moments run on over a batch."""
        both = torch.stack([real, drawn]).double()
        rate = min(1.0, len(real) * ranks.count() / MEMORY)
        self.seen.lerp_(torch.ones_like(self.seen), rate)
        self.means.lerp_(ranks.mean(both.mean(1)), rate)
        self.products.lerp_(ranks.mean(both.mT @ both / len(real)), rate)
        self.calls += 1

    @torch.no_grad()
    def _refresh(self) -> None:
        means = self.means / self.seen
        covariances = self.products / self.seen - means[:, :, None] * means[:, None, :]
        identity = torch.eye(means.shape[1], dtype=means.dtype, device=means.device)
        covariances += _RIDGE * covariances.diagonal(dim1=1, dim2=2).mean() * identity
        values, vectors = torch.linalg.eigh(covariances[0])
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        values, vectors = torch.linalg.eigh(root @ covariances[1] @ root)
        values = values.clamp(min=torch.finfo(values.dtype).eps * float(values.max())).sqrt()
        difference = means[1] - means[0]
        self.slope.copy_(2 * difference)
        self.curvature.copy_(identity - root @ (vectors / values) @ vectors.T @ root)
        self.centre.copy_(means[1])
        traces = covariances.diagonal(dim1=1, dim2=2).sum()
        self.value.copy_(difference.square().sum() + traces - 2 * values.sum())
