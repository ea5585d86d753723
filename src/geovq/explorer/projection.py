"""Tokens in two dimensions: PCA at once, UMAP once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from geovq.errors import ConfigError
from geovq.explorer.explored_run import SplitTokens
from geovq.pipeline.artifacts import ArtifactStore, ArtifactWriter, artifact_key

_UMAP = {"n_neighbors": 15, "min_dist": 0.1, "random_state": 0}


@dataclass(frozen=True)
class Plane:
    """An orthogonal projection of latents: ``(z − centre) @ axes``.

    Attributes:
        centre: (d,).
        axes: (d, 2), the directions of most variance.
        shares: of the variance along each, (2,).
    """

    centre: Tensor
    axes: Tensor
    shares: tuple[float, float]

    def __call__(self, points: Tensor) -> Tensor:
        """Points (P, d) to (P, 2)."""
        return (points - self.centre) @ self.axes


def principal_plane(points: Tensor) -> Plane:
    """The plane of most variance of points (P, d); of one dimension, that and a zero."""
    from sklearn.decomposition import PCA

    found = PCA(min(2, points.shape[1]), svd_solver="covariance_eigh").fit(points.double().numpy())
    missing = 2 - len(found.components_)
    axes = F.pad(torch.from_numpy(found.components_.T).float(), (0, missing))
    first, second = [*found.explained_variance_ratio_.tolist(), 0.0][:2]
    return Plane(points.mean(0), axes, (first, second))


@lru_cache(maxsize=8)
def plane_of(tokens: SplitTokens) -> Plane:
    """The plane of most variance of the shown tokens."""
    return principal_plane(tokens.tokens[tokens.shown_tokens])


@lru_cache(maxsize=8)
def positions(tokens: SplitTokens, projection: str) -> Tensor:
    """(P, 2) of the shown tokens, by ``pca`` or ``umap``."""
    return umap_positions(tokens) if projection == "umap" else plane_of(tokens)(tokens.tokens[tokens.shown_tokens])


def has_umap() -> bool:
    """Whether UMAP is installed."""
    return find_spec("umap") is not None


def umap_positions(split: SplitTokens) -> Tensor:
    """(P, 2) of the shown tokens by UMAP (McInnes, Healy, Melville 2018); computed once, then read.

    Raises:
        ConfigError: it is not installed.
    """
    if not has_umap():
        raise ConfigError("UMAP is not installed; pip install umap-learn, or take PCA")
    latents = split.run.inputs["latents"]
    settings = {**_UMAP, "split": split.name, "shown": len(split.shown)}
    inputs = {"latents": latents.key}

    def build(out: ArtifactWriter) -> None:
        from umap import UMAP

        points = split.tokens[split.shown_tokens].numpy()
        near = min(_UMAP["n_neighbors"], len(points) - 1)
        positions = UMAP(**{**_UMAP, "n_neighbors": near}, n_jobs=1).fit_transform(points)
        out.tensors("positions", {"positions": torch.from_numpy(np.asarray(positions, dtype=np.float32))})

    store, key = ArtifactStore(split.run.config.root), artifact_key("umap", 1, settings, inputs)
    return store.build("umap", key, settings, inputs, build).tensors("positions")["positions"]
