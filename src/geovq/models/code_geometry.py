"""The codewords behind the codes, as a prior reads them: vectors to embed by, and which codes lie close together."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from geovq.models.code_layout import CodeLayout
from geovq.models.codec import Codec

Embedding = Literal["learned", "codewords"]
Target = Literal["one_hot", "smoothed"]
_LEAST_VARIANCE = 1e-6
"""Of the largest: directions with less are no part of a table, as those that a block leaves zero."""
_ROWS = 4096


class CodeGeometry(nn.Module):
    """Whitened codewords of every table of a codec.

    Codewords c of a table (a slot of a grid) become W (c - mean), W the inverse root of their covariance: all
    directions count alike, whatever their scale in the latent space. Distances between them stand for what two codes
    differ by when decoded.

    Attributes:
        vectors: ``(T, K, d)``, rows beyond a table's size zero.
        near: ``(T,)`` mean distance of a codeword to its nearest other one.
    """

    vectors: Tensor
    near: Tensor
    streams: Tensor
    sizes: Tensor

    def __init__(self, codec: Codec, layout: CodeLayout, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing
        sizes = [size for level in codec.levels for size in level.sizes]
        tables = [table for level in codec.levels for table in level.tables]
        whitened = [_whitened(table[:size]) for table, size in zip(tables, sizes, strict=True)]
        vectors = torch.zeros(len(tables), layout.n_codes, max(table.shape[1] for table in whitened))
        for row, table in zip(vectors, whitened, strict=True):
            row[: len(table), : table.shape[1]] = table
        near = torch.stack([_nearest(table) for table in whitened])
        buffers = {"vectors": vectors, "near": near, "streams": layout.streams(), "sizes": torch.tensor(sizes)}
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def target(self, codes: Tensor) -> Tensor:
        """Target distribution (B, L, K) of codes (B, L): q(k' | k) ∝ exp(-|v_k - v_k'|² / (2 s²)).

        s is ``smoothing`` times the mean distance of neighbouring codewords.
        """
        shares = torch.empty(*codes.shape, self.vectors.shape[1], device=codes.device)
        for stream, (vectors, size) in enumerate(zip(self.vectors, self.sizes.tolist(), strict=True)):
            here = self.streams == stream
            chosen = vectors[codes[:, here]]
            squared = chosen.square().sum(-1, keepdim=True) + vectors.square().sum(1) - 2 * chosen @ vectors.T
            exponent = -squared.clamp(min=0) / (2 * (self.smoothing * self.near[stream]).square())
            exponent[..., size:] = -torch.inf
            shares[:, here] = exponent.softmax(-1)
        return shares


class CodeEmbedding(nn.Module):
    """Vectors of codes at their positions: learned ones, or a learned linear map of whitened codewords.

    Args:
        layout: of the codes; each slot of each grid has a table.
        width: dimensions.
        geometry: of the codewords; None learns a vector for each code.
    """

    streams: Tensor

    def __init__(self, layout: CodeLayout, width: int, geometry: CodeGeometry | None) -> None:
        super().__init__()
        self.register_buffer("streams", layout.streams(), persistent=False)
        n_tables = int(layout.streams().max()) + 1
        rows = layout.n_codes if geometry is None else geometry.vectors.shape[2]
        self.weight = nn.Parameter(0.02 * torch.randn(n_tables, rows, width))
        self.register_buffer("vectors", None if geometry is None else geometry.vectors, persistent=False)

    @property
    def tables(self) -> Tensor:
        """(T, K, width)."""
        vectors: Tensor | None = self.vectors  # type: ignore[assignment]
        return self.weight if vectors is None else vectors @ self.weight

    def forward(self, codes: Tensor, positions: Tensor | slice = slice(None)) -> Tensor:
        """Codes (B, n) at some positions, all by default, to (B, n, width)."""
        return self.tables[self.streams[positions], codes]


class CodeHead(nn.Module):
    """Logits of codes from features at their positions: a linear map for each table.

    Args:
        layout: of the codes.
        width: of features.
    """

    streams: Tensor
    allowed: Tensor

    def __init__(self, layout: CodeLayout, width: int) -> None:
        super().__init__()
        n_tables = int(layout.streams().max()) + 1
        self.weight = nn.Parameter(0.02 * torch.randn(n_tables, width, layout.n_codes))
        self.bias = nn.Parameter(torch.zeros(n_tables, layout.n_codes))
        self.register_buffer("streams", layout.streams(), persistent=False)
        self.register_buffer("allowed", layout.allowed()[: layout.length, : layout.n_codes], persistent=False)

    def forward(self, features: Tensor, positions: Tensor) -> Tensor:
        """Features (B, n, width) at positions (n,) to logits (B, n, K), -inf where a position lacks a code."""
        streams = self.streams[positions]
        logits = features.new_empty(*features.shape[:2], self.bias.shape[1])
        if len(self.bias) == 1:
            logits = features @ self.weight[0] + self.bias[0]
        else:
            for stream in streams.unique().tolist():
                here = streams == stream
                logits[:, here] = (features[:, here] @ self.weight[stream] + self.bias[stream]).to(logits.dtype)
        return logits.float().masked_fill(~self.allowed[positions], -torch.inf)


def _whitened(table: Tensor) -> Tensor:
    """(K, r) codewords (K, d) in the principal axes of their covariance, each of variance 1."""
    centred = (table - table.mean(0)).double()
    variances, axes = torch.linalg.eigh(centred.T @ centred / max(1, len(table) - 1))
    kept = variances > _LEAST_VARIANCE * variances.max().clamp(min=torch.finfo(torch.float64).tiny)
    return (centred @ axes[:, kept] / variances[kept].sqrt()).float()


def _nearest(vectors: Tensor) -> Tensor:
    """Mean distance of a vector (K, r) to its nearest other one; 1 where there is but one value."""
    found = []
    for rows in torch.arange(len(vectors)).split(_ROWS):
        distances = torch.cdist(vectors[rows], vectors)
        distances[torch.arange(len(rows)), rows] = torch.inf
        found.append(distances.amin(1))
    nearest = torch.cat(found)
    nearest = nearest[nearest.isfinite() & (nearest > 0)]
    return nearest.mean() if len(nearest) else torch.tensor(1.0)
