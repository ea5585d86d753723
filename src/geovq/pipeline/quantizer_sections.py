"""The settings of every quantizer, told apart by its name: ``quantizer=<name>`` on the command line."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from geovq.pipeline.sections import Count, Positive, Section, Seed


class Codebook(Section):
    """What all codebooks have."""

    K: Annotated[int, Field(ge=2)]
    seed: Seed


class Random(Codebook):
    """Tokens drawn at random."""

    name: Literal["random"]


class Euclidean(Codebook):
    """k-means or k-medoids in latent space."""

    name: Literal["euclidean", "euclidean_medoids"]
    max_iter: Count


class Whitened(Codebook):
    """k-means in the mean metric."""

    name: Literal["whitened"]
    scaling: Literal["full", "diagonal"]
    ridge: Positive
    max_iter: Count


class Posterior(Codebook):
    """k-means in coordinates scaled by the posterior's precision."""

    name: Literal["posterior"]
    ridge: Positive
    max_iter: Count


class Pullback(Codebook):
    """k-means with a metric per token."""

    name: Literal["pullback"]
    ridge: Positive
    max_iter: Count


class Geodesic(Codebook):
    """k-medoids on the graph."""

    name: Literal["geodesic"]
    exponent: Literal[1, 2]
    max_iter: Count
    n_candidates: Count


class GeodesicBarycenter(Codebook):
    """The cells of k-medoids on the graph, decoded to their barycentres."""

    name: Literal["geodesic_barycenter"]
    exponent: Literal[1, 2]
    max_iter: Count
    n_candidates: Count
    ridge: Positive


QuantizerSection = Annotated[
    Random | Euclidean | Whitened | Posterior | Pullback | Geodesic | GeodesicBarycenter, Field(discriminator="name")
]
