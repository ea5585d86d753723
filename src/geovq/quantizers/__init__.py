"""Quantizers: one protocol, one file per quantizer, one registry."""

from __future__ import annotations

import inspect
from typing import Any

from geovq.errors import ConfigError
from geovq.quantizers.base import CodebookEstimator, Quantizer
from geovq.quantizers.euclidean import EuclideanKMeans
from geovq.quantizers.euclidean_medoids import EuclideanKMedoids
from geovq.quantizers.geodesic import GeodesicBarycenters, GeodesicKMedoids
from geovq.quantizers.metric_assignment import metric_barycentres, nearest_by_metric
from geovq.quantizers.product import ProductKMeans
from geovq.quantizers.pullback import PullbackKMeans
from geovq.quantizers.random_tokens import RandomTokens
from geovq.quantizers.residual import ResidualKMeans
from geovq.quantizers.scalar import ScalarLevels
from geovq.quantizers.structured import StructuredCodebook
from geovq.quantizers.whitened import PosteriorKMeans, WhitenedKMeans

__all__ = [
    "CodebookEstimator",
    "EuclideanKMeans",
    "EuclideanKMedoids",
    "GeodesicBarycenters",
    "GeodesicKMedoids",
    "PosteriorKMeans",
    "ProductKMeans",
    "PullbackKMeans",
    "Quantizer",
    "RandomTokens",
    "ResidualKMeans",
    "ScalarLevels",
    "StructuredCodebook",
    "WhitenedKMeans",
    "make_quantizer",
    "metric_barycentres",
    "nearest_by_metric",
    "quantizer_class",
    "quantizer_names",
    "quantizer_settings",
]

_CLASSES: dict[str, type[Quantizer]] = {
    cls.name: cls
    for cls in (
        RandomTokens,
        EuclideanKMeans,
        EuclideanKMedoids,
        WhitenedKMeans,
        PosteriorKMeans,
        PullbackKMeans,
        GeodesicKMedoids,
        GeodesicBarycenters,
        ProductKMeans,
        ResidualKMeans,
        ScalarLevels,
    )
}


def quantizer_names() -> tuple[str, ...]:
    """All names that ``make_quantizer`` knows."""
    return tuple(_CLASSES)


def quantizer_class(name: str) -> type[Quantizer]:
    """The class of a quantizer.

    Raises:
        ConfigError: no quantizer has this name.
    """
    if name not in _CLASSES:
        raise ConfigError(f"quantizer {name!r} does not exist; choose one of {', '.join(_CLASSES)}")
    return _CLASSES[name]


def quantizer_settings(name: str) -> tuple[str, ...]:
    """The settings that ``make_quantizer`` takes for a quantizer.

    Raises:
        ConfigError: no quantizer has this name.
    """
    return tuple(key for key in inspect.signature(quantizer_class(name)).parameters if key != "self")


def make_quantizer(name: str, **settings: Any) -> Quantizer:
    """An unfitted quantizer, ``make_quantizer("geodesic", n_codes=512, random_state=0, max_iter=10)``.

    Raises:
        ConfigError: no quantizer has this name, or it has no such setting.
    """
    known = quantizer_settings(name)
    for key in settings:
        if key not in known:
            raise ConfigError(f"quantizer {name!r} has no setting {key!r}; it has {', '.join(known)}")
    return quantizer_class(name)(**settings)
