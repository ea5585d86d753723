"""The coordinates that neighbours are searched in: the latents themselves, or whitened by the mean metric.

With ``search="pullback"`` the whitened coordinates propose ``CANDIDATES`` times as many neighbours as are wanted, and
the shortest edges by the nodes' own metric tensors stay.

A constant metric ``G`` is worth one linear map: ``‖R(x − y)‖² = (x − y)ᵀG(x − y)`` with ``R = G^{1/2}``. With the mean
metric of all tokens, Euclidean distances of whitened latents are pixel error as it is on average, and directions that
the decoder hardly sees no longer decide who is near.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numba import njit

from geovq.errors import InputError
from geovq.geometry.symmetric import mean_metric, square_root
from geovq.geometry.threads import in_threads

Search = Literal["latent", "whitened", "pullback"]

CANDIDATES = 3
"""Neighbours that ``search="pullback"`` looks at for each one it keeps."""

# Share of the mean eigenvalue added to the mean metric: directions that the decoder ignores still tell tokens apart.
_RIDGE = 1e-6


def whitening(metrics: torch.Tensor | None, search: str = "whitened") -> np.ndarray:
    """``(Ḡ + ρI)^{1/2}``, ``(d, d)`` float32, of packed metrics ``(N, d(d+1)/2)``; ρ is a millionth of their mean
    eigenvalue, so that it can be inverted and distinct tokens stay distinct.

    Raises:
        InputError: no metrics, or all of them zero.
    """
    if metrics is None:
        raise InputError(
            f"search is {search!r}, but there are no metrics to whiten by; give metrics or search='latent'"
        )
    return square_root(mean_metric(metrics), _RIDGE).astype(np.float32)


def search_coordinates(points: np.ndarray, nodes: np.ndarray, transform: np.ndarray | None) -> np.ndarray:
    """Points ``(Q, d)`` as they are searched: unchanged, or mapped by ``transform`` around the nodes' mean.

    The mean is subtracted first, so that latents far from zero keep their digits. A point's coordinates do not depend
    on its company, to the last bit: a query that equals a node lands on it.
    """
    if transform is None:
        return points
    centre = nodes.mean(axis=0, dtype=np.float64).astype(np.float32)
    result = np.zeros_like(points)
    in_threads(_map_rows, len(points), points, centre, transform, result)
    return result


@njit(cache=True, nogil=True)
def _map_rows(points, centre, transform, result, first, last):  # type: ignore[no-untyped-def]
    for row in range(first, last):
        for a in range(points.shape[1]):
            value = points[row, a] - centre[a]
            for b in range(points.shape[1]):
                result[row, b] += value * transform[a, b]
