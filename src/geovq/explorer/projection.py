"""Tokens in two dimensions: PCA at once, UMAP once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

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
    centre = points.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((points - centre).double().T).reshape(points.shape[1], -1))
    axes, largest = vectors.flip(1)[:, :2].float(), values.flip(0)[:2].clamp(min=0)
    # The sign of an eigenvector is free: the largest entry is made positive, so that maps do not flip.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    if axes.shape[1] < 2:
        axes, largest = torch.nn.functional.pad(axes, (0, 1)), torch.nn.functional.pad(largest, (0, 1))
    first, second = (largest / values.clamp(min=0).sum().clamp(min=1e-30)).tolist()
    return Plane(centre, axes, (first, second))


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
