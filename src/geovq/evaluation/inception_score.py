"""Inception score: whether a classifier is sure of each image, and sees all classes alike often."""

from __future__ import annotations

import torch
from torch import Tensor

from geovq.errors import InputError
from geovq.evaluation.image_sets import GROUPS, groups_of
from geovq.evaluation.statistics import jackknife_standard_error


def inception_score(probabilities: Tensor, groups: int = GROUPS) -> tuple[float, float | None]:
    """exp of the mean over images of KL(p(y|x) ‖ p(y)) (Salimans et al. 2016, section 4), on all images at once.

    Args:
        probabilities: p(y|x), (N, classes), rows that sum to 1.
        groups: of a delete-group jackknife (``jackknife_standard_error``).

    Returns:
        The score, from 1 to the number of classes, and its standard error over draws; None for fewer than four images.
    """
    if probabilities.ndim != 2 or len(probabilities) == 0:
        raise InputError(f"probabilities of shape {tuple(probabilities.shape)} must be (N, classes)")
    p = probabilities.detach().cpu().double()
    parts = [torch.cat([part.sum(0), torch.special.entr(part).sum()[None]]) for part in groups_of(p, groups)]
    sizes = torch.tensor([len(part) for part in groups_of(p, groups)], dtype=torch.float64)
    sums = torch.stack(parts)  # (groups, classes + 1), the last the entropies

    def score(total: Tensor, n: Tensor) -> Tensor:
        mean = total / n
        return (torch.special.entr(mean[:-1]).sum() - mean[-1]).exp()

    value = float(score(sums.sum(0), sizes.sum()))
    if len(p) < 4:
        return value, None
    without = [score(sums.sum(0) - own, sizes.sum() - n) for own, n in zip(sums, sizes, strict=True)]
    return value, jackknife_standard_error(torch.stack(without))
