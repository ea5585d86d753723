"""Quantizers: one protocol, one file per quantizer, one registry."""

from __future__ import annotations

import inspect
from typing import Any

from geovq.errors import ConfigError
from geovq.quantizers.base import Quantizer
from geovq.quantizers.euclidean import EuclideanKMeans
from geovq.quantizers.geodesic import GeodesicKMedoids

__all__ = [
    "EuclideanKMeans",
    "GeodesicKMedoids",
    "Quantizer",
    "make_quantizer",
    "quantizer_class",
    "quantizer_names",
]

_CLASSES: dict[str, type[Quantizer]] = {cls.name: cls for cls in (EuclideanKMeans, GeodesicKMedoids)}


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


def make_quantizer(name: str, **settings: Any) -> Quantizer:
    """An unfitted quantizer, ``make_quantizer("geodesic", n_codes=512, random_state=0, max_iter=10)``.

    Raises:
        ConfigError: no quantizer has this name, or it has no such setting.
    """
    cls = quantizer_class(name)
    known = [key for key in inspect.signature(cls).parameters if key != "self"]
    for key in settings:
        if key not in known:
            raise ConfigError(f"quantizer {name!r} has no setting {key!r}; it has {', '.join(known)}")
    return cls(**settings)
