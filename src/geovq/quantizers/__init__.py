"""Quantizers that are fitted to latents: one base class, one file per quantizer."""

from __future__ import annotations

from geovq.quantizers.base import CodebookEstimator
from geovq.quantizers.conditional import ConditionalCodebook
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
    "ConditionalCodebook",
    "EuclideanKMeans",
    "EuclideanKMedoids",
    "GeodesicBarycenters",
    "GeodesicKMedoids",
    "PosteriorKMeans",
    "ProductKMeans",
    "PullbackKMeans",
    "RandomTokens",
    "ResidualKMeans",
    "ScalarLevels",
    "StructuredCodebook",
    "WhitenedKMeans",
    "metric_barycentres",
    "nearest_by_metric",
]
