"""How close generated images are to real ones, as sets: per-image errors say nothing about samples.

All distances live on the features of a named network, given as (N, D) tensors, and carry that name: a Fréchet
distance on another network than Inception-v3 cannot be set beside published FID. Every one of them depends on
the number of images: compare only at equal numbers.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from geovq.errors import InputError

LEAST_IMAGES = {"fid": 2, "kid": 2, "precision": 4, "recall": 4}
"""Images that each score needs of both sets: a covariance, pairs, and a third neighbour."""

_CHUNK_BYTES = 100 * 2**20


class _AlreadyFeatures(nn.Module):
    """Stands where torchmetrics expects a feature network; what comes in are features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(real_features: Tensor, generated_features: Tensor, network_name: str) -> dict[str, float]:
    """Fréchet distance between Gaussians fitted to both feature sets (Heusel et al. 2017, eq. 6), in float64.

    Args:
        real_features: (N, D).
        generated_features: (M, D).
        network_name: of the feature network.

    Returns:
        ``fid_<network_name>``, in squared feature units; biased upwards by about 1/N.

    Raises:
        InputError: fewer than two images in a set, other shapes, or features that are not finite.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    _check_features(real_features, generated_features)
    metric = FrechetInceptionDistance(feature=_AlreadyFeatures(real_features.shape[1]), normalize=True)
    for features, is_real in ((real_features, True), (generated_features, False)):
        for part in features.split(max(1, _CHUNK_BYTES // (8 * features.shape[1]))):
            metric.update(part.detach().double().cpu(), real=is_real)
    # eigenvalues of a product of semidefinite matrices lose digits: equal sets can end at -1e-9
    return {f"fid_{network_name}": max(0.0, float(metric.compute()))}


def kernel_distance(
    real_features: Tensor,
    generated_features: Tensor,
    network_name: str,
    subsets: int = 50,
    subset_size: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Squared maximum mean discrepancy with a cubic kernel (Bińkowski et al. 2018), averaged over random
    subsets.

    Args:
        real_features: (N, D).
        generated_features: (M, D).
        network_name: of the feature network.
        subsets: how many subsets are drawn.
        subset_size: images in each; cut to the smaller set.
        seed: of the draws; the global generator is left as it was.

    Returns:
        ``kid_<network_name>`` and ``kid_<network_name>_standard_deviation`` over subsets; the estimate is
        unbiased and may fall below 0.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    _check_features(real_features, generated_features)
    size = min(subset_size, len(real_features), len(generated_features))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all extracted")
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(
            feature=_AlreadyFeatures(real_features.shape[1]),
            subsets=subsets,
            subset_size=size,
            normalize=True,
        )
        metric.update(real_features.detach().double().cpu(), real=True)
        metric.update(generated_features.detach().double().cpu(), real=False)
        mean, deviation = metric.compute()
    return {f"kid_{network_name}": float(mean), f"kid_{network_name}_standard_deviation": float(deviation)}


def precision_recall(
    real_features: Tensor, generated_features: Tensor, k: int = 3, network_name: str = ""
) -> dict[str, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2).

    Each set's manifold is the union of balls around its points that reach to the point's k-th nearest
    neighbour within the set. Precision is the share of generated points inside the real manifold, recall the
    reverse.

    Args:
        real_features: (N, D) with N > k.
        generated_features: (M, D) with M > k.
        k: the neighbour that sets a ball's radius.
        network_name: of the feature network.

    Returns:
        ``precision_<network_name>`` and ``recall_<network_name>``, in [0, 1]; without a network's name just
        ``precision`` and ``recall``.
    """
    _check_features(real_features, generated_features, at_least=k + 1)
    if k < 1:
        raise InputError(f"k={k}: the radius needs at least the first neighbour")
    real, generated = real_features.detach().float(), generated_features.detach().float()
    ending = f"_{network_name}" if network_name else ""
    return {
        f"precision{ending}": _share_inside(generated, real, _neighbour_distance(real, k)),
        f"recall{ending}": _share_inside(real, generated, _neighbour_distance(generated, k)),
    }


def class_accuracy(logits: Tensor, labels: Tensor, name: str = "class_accuracy") -> tuple[dict[str, float], Tensor]:
    """Share of images whose largest logit is at their label.

    Args:
        logits: (N, n_classes) of the classifier.
        labels: (N,) integers: the true labels, those that samples were asked for, or the classifier's own on
            the original images (label agreement).
        name: of the metric.

    Returns:
        The share, in [0, 1], under ``name``; and per image whether it agrees, (N,) bool.

    Raises:
        InputError: the numbers of images differ or are 0.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise InputError(
            f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)}: give (N, n_classes) and (N,), N > 0"
        )
    agrees = (logits.argmax(1) == labels.to(logits.device)).cpu()
    return {name: float(agrees.double().mean())}, agrees


def _neighbour_distance(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other point, (N,)."""
    radii = []
    for part in points.split(_rows(points)):
        # the point itself is at distance 0 and takes the first place
        radii.append(_distances(part, points).kthvalue(k + 1, dim=1).values)
    return torch.cat(radii)


def _share_inside(queries: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of queries within the radius of any centre."""
    inside = 0
    for part in queries.split(_rows(centres)):
        inside += int((_distances(part, centres) <= radii).any(1).sum())
    return inside / len(queries)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # through products, equal points would come out apart by the square root of the rounding error
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def _rows(points: Tensor) -> int:
    return max(1, _CHUNK_BYTES // (2 * 4 * len(points)))


def _check_features(real: Tensor, generated: Tensor, at_least: int = 2) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise InputError(
            f"features of shape {tuple(real.shape)} and {tuple(generated.shape)} must be (N, D) and (M, D)"
        )
    if min(len(real), len(generated)) < at_least:
        raise InputError(f"{len(real)} real and {len(generated)} generated images: give at least {at_least} of each")
    for name, features in (("real", real), ("generated", generated)):
        if not bool(features.isfinite().all()):
            raise InputError(f"{name} features hold NaN or infinity: look at the images and at the classifier")
