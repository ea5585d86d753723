"""What the distances between sets of images share: features that fit together, and sets cut to equal numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from geovq.errors import InputError

GROUPS = 10
"""Of samples, each left out once, for a standard error over draws."""


def check_features(real: Tensor, generated: Tensor, at_least: int = 2) -> None:
    """Refuse what is no pair of feature sets (N, D) and (M, D) of finite numbers.

    Raises:
        InputError: saying which and why.
    """
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise InputError(
            f"features of shape {tuple(real.shape)} and {tuple(generated.shape)} must be (N, D) and (M, D)"
        )
    if min(len(real), len(generated)) < at_least:
        raise InputError(f"{len(real)} real and {len(generated)} generated images: give at least {at_least} of each")
    for name, features in (("real", real), ("generated", generated)):
        if not bool(features.isfinite().all()):
            raise InputError(f"{name} features hold NaN or infinity: look at the images and at the classifier")


def drawn(n: int, of: int) -> Tensor:
    """Indices of n among ``of`` images, at random since some sets are stored class by class; always the same ones."""
    return torch.randperm(of, generator=torch.Generator().manual_seed(0))[:n].sort().values


def groups_of(samples: Tensor, groups: int = GROUPS) -> tuple[Tensor, ...]:
    """Samples in groups of equal size, or of two sizes that differ by one; fewer groups than asked for if samples are
    fewer. Neighbours stay together: samples take their classes in turn, so every group has all classes.
    """
    return samples.tensor_split(min(groups, len(samples)))
