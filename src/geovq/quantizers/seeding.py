"""Drawing the first codewords in proportion to what they would save."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from geovq.errors import InputError
from geovq.geometry.paths import NearestSource, nearest_sources
from geovq.progress import progress

_FEWEST_ROUNDS = 10


def draw_in_proportion(weights: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """``n_draws`` distinct indices, drawn one after the other with chances in proportion to ``weights``.

    By an exponential race (Efraimidis, Spirakis 2006): the smallest of ``E_i / w_i`` win. Zero weights never
    win while positive ones are left; ``n_draws`` must not exceed the number of positive weights.
    """
    with np.errstate(divide="ignore"):
        times = rng.standard_exponential(len(weights)) / weights
    return np.argpartition(times, n_draws - 1)[:n_draws]


def seeding_rounds(n_codes: int, n_rounds: int) -> list[int]:
    """Numbers of seeds to hold after each round: 1, then growing geometrically to ``n_codes``."""
    if n_rounds >= n_codes:
        return list(range(1, n_codes + 1))
    sizes = np.unique(np.round(np.geomspace(1, n_codes, n_rounds)).astype(int))
    return [int(size) for size in sizes]


def geodesic_seeds(
    adjacency: csr_matrix,
    weights: np.ndarray,
    n_codes: int,
    exponent: int,
    affordable: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, NearestSource]:
    """``(K,)`` distinct nodes spread by ``weight·distance^exponent``, and the assignment to them."""
    sizes = seeding_rounds(n_codes, max(_FEWEST_ROUNDS, affordable))
    medoids = draw_in_proportion(weights, 1, rng)
    with progress("geodesic seeding", total=len(sizes)) as advance:
        nearest = nearest_sources(adjacency, medoids)
        if not np.isfinite(nearest.distance).all():
            raise InputError("the graph is not connected; build it with build_graph, which joins its components")
        advance()
        for size in sizes[1:]:
            chances = np.maximum(weights * nearest.distance**exponent, np.finfo(float).tiny)
            chances[medoids] = 0.0
            medoids = np.concatenate((medoids, draw_in_proportion(chances, size - len(medoids), rng)))
            nearest = nearest_sources(adjacency, medoids)
            advance()
    return medoids, nearest
