"""Kernel distance of two sets of features, and its standard error over draws."""

from __future__ import annotations

import torch
from torch import Tensor

from geovq.evaluation.image_sets import GROUPS, check_features, groups_of
from geovq.evaluation.statistics import jackknife_standard_error

_CHUNK_NUMBERS = 2**20
"""Of a part of the kernel matrix: it stays in the processor's cache, which is several times as fast."""


class KernelDistance:
    """Squared maximum mean discrepancy to a set, kernel (xᵀy/D + 1)³ (Bińkowski et al. 2018, eq. 4).

    The unbiased estimate over all pairs, not over random subsets: equal in expectation, with less spread.

    Args:
        real_features: (N, D), N at least 2.
        device: where to compute; by default where they are.
    """

    def __init__(self, real_features: Tensor, device: torch.device | None = None) -> None:
        check_features(real_features, real_features)
        self.device = device or real_features.device
        self.real = real_features.detach().to(self.device).float()
        self._within = _mean_of_pairs(_kernel_sum(self.real, self.real), self.real)

    def __call__(self, generated_features: Tensor, made_of: Tensor | None = None) -> float:
        """Unbiased, so it may fall below 0; of features (M, D).

        ``made_of``: (M,) the real one that each generated one was made of. Such a pair tells nothing of two
        distributions and is left out (Gretton et al. 2012, eq. 4), else the estimate would be too low.
        """
        if made_of is None:
            return self.with_error(generated_features, groups=1)[0]
        check_features(self.real, generated_features)
        generated, n = generated_features.detach().to(self.device).float(), len(generated_features)
        pairs = float(((self.real[made_of.to(self.device)].double() * generated.double()).mean(1) + 1).pow(3).sum())
        cross = (_kernel_sum(generated, self.real) - pairs) / (n * len(self.real) - n)
        return self._within + _mean_of_pairs(_kernel_sum(generated, generated), generated) - 2 * cross

    def with_error(self, generated_features: Tensor, groups: int = GROUPS) -> tuple[float, float | None]:
        """The distance and its standard error over draws of the generated images, the real ones being fixed.

        The error is that of a delete-group jackknife (``jackknife_standard_error``) over ``groups_of`` the generated
        images; None for one group or fewer than four images.
        """
        check_features(self.real, generated_features)
        generated = generated_features.detach().to(self.device).float()
        parts = groups_of(generated, groups)
        sizes = torch.tensor([len(part) for part in parts], dtype=torch.float64)
        cross = torch.tensor([_kernel_sum(part, self.real) for part in parts], dtype=torch.float64)
        own = torch.tensor([_diagonal_sum(part) for part in parts], dtype=torch.float64)
        among = torch.zeros(len(parts), len(parts), dtype=torch.float64)
        for row, first in enumerate(parts):
            for column, second in enumerate(parts[: row + 1]):
                among[row, column] = among[column, row] = _kernel_sum(first, second)

        def distance(kept: Tensor) -> float:
            n = float(sizes[kept].sum())
            within = (among[kept][:, kept].sum() - own[kept].sum()) / (n * (n - 1))
            return float(self._within + within - 2 * cross[kept].sum() / (n * len(self.real)))

        everything = torch.ones(len(parts), dtype=torch.bool)
        value = distance(everything)
        if len(parts) == 1 or len(generated) < 4:
            return value, None
        without = [distance(torch.arange(len(parts)) != left_out) for left_out in range(len(parts))]
        return value, jackknife_standard_error(torch.tensor(without, dtype=torch.float64))


def _kernel_sum(first: Tensor, second: Tensor) -> float:
    total = 0.0
    for part in first.split(max(1, _CHUNK_NUMBERS // len(second))):
        kernel = torch.addmm(part.new_ones(()), part, second.T, alpha=1 / part.shape[1])
        total += float((kernel * kernel).mul_(kernel).sum(1).double().sum())
    return total


def _diagonal_sum(features: Tensor) -> float:
    return float((features.double().square().mean(1) + 1).pow(3).sum())


def _mean_of_pairs(total: float, features: Tensor) -> float:
    return (total - _diagonal_sum(features)) / (len(features) * (len(features) - 1))
