"""A quantizer: codewords are points of the lattice D4 in the four leading principal axes of the tokens."""

from __future__ import annotations

from itertools import product
from typing import ClassVar, Literal

import numpy as np

from geovq.configuration.fields import Count, Positive, Seed
from geovq.errors import InputError
from geovq.quantizers.base import CodebookEstimator, check_n_codes


class D4Lattice(CodebookEstimator):
    """The K shortest vectors of D4 (integers with an even sum; Conway, Sloane 1982), scaled to the tokens.

    Args:
        n_codes: K.
        n_scales: scales tried, evenly between half and twice the first guess.
        largest: the first guess reaches this many standard deviations.
        order: which of equally short vectors come first.
        random_state: of that order, where it is random.
    """

    rule: ClassVar[str] = "nearest lattice point in latent L2"

    def __init__(
        self,
        n_codes: int = 8,
        *,
        n_scales: Count = 20,
        largest: Positive = 2.0,
        order: Literal["sorted", "random"] = "sorted",
        random_state: Seed = 0,
    ) -> None:
        self.n_codes = n_codes
        self.n_scales = n_scales
        self.largest = largest
        self.order = order
        self.random_state = random_state

    def fit(self, tokens, y=None, *, metrics=None, graph=None, on_progress=None):
        """Choose the scale with the smallest sum of squared distances to ``(N, d)`` tokens."""
        points = self._check_tokens(tokens, fitting=True)
        if points.shape[1] < 4:
            raise InputError(f"tokens have {points.shape[1]} dimensions; D4Lattice needs at least 4: raise vae.dim")
        check_n_codes(self.n_codes, len(np.unique(points, axis=0)), len(points))
        mean = points.mean(axis=0)
        _, deviations, axes = np.linalg.svd((points - mean) / np.sqrt(len(points)), full_matrices=False)
        lattice = self._shortest()
        guess = self.largest * deviations[0] / max(np.abs(lattice).max(), 1)
        best = np.inf
        for scale in np.linspace(guess / 2, guess * 2, self.n_scales):
            codewords = (mean + scale * lattice @ axes[:4]).astype(np.float32)
            cost = float(np.square(points - codewords[nearest(points, codewords)]).sum())
            if cost < best:
                best, chosen = cost, codewords
        self._finish(cluster_centers_=chosen, labels_=nearest(points, chosen), cost_history_=np.array([best]))
        return self

    def predict(self, tokens, metrics=None):
        """Codes ``(N,)`` int32 of the nearest codewords."""
        points = self._check_tokens(tokens)
        return nearest(points, self.cluster_centers_)

    def _shortest(self) -> np.ndarray:
        radius = 1
        while True:
            vectors = np.array([v for v in product(range(-radius, radius + 1), repeat=4) if sum(v) % 2 == 0])
            inside = vectors[np.square(vectors).sum(axis=1) <= radius**2]  # beyond, the cube lacks some of that length
            if len(inside) >= self.n_codes:
                break
            radius += 1
        if self.order == "random":
            inside = np.random.default_rng(self.random_state).permutation(inside)
        return inside[np.argsort(np.square(inside).sum(axis=1), kind="stable")][: self.n_codes]


def nearest(points: np.ndarray, codewords: np.ndarray) -> np.ndarray:
    """The nearest codeword ``(K, d)`` of every point ``(N, d)``, by latent L2."""
    return np.argmin(np.square(codewords).sum(axis=1) - 2 * points @ codewords.T, axis=1).astype(np.int32)
