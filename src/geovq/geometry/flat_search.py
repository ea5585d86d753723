"""Candidates for nearest neighbours by every distance; who asks for them computes theirs again from differences."""

from __future__ import annotations

import numpy as np
import torch

from geovq.geometry.computing import faiss_in_threads, full_precision

# Squared distances that exist at a time: 1 GB.
_BLOCK_NUMBERS = 1 << 28
# Points per group: the nearest points are looked for in the groups with the nearest members.
_GROUP = 64


class FaissSearch:
    """Points held by faiss; every distance is computed, on the CPU."""

    def __init__(self, points: np.ndarray) -> None:
        self._index = faiss_in_threads().IndexFlatL2(points.shape[1])
        self._index.add(points)

    def candidates(self, queries: np.ndarray, wanted: int) -> np.ndarray:
        """``(Q, wanted)`` int32 nearest points, nearest first."""
        return np.asarray(self._index.search(queries, wanted)[1], dtype=np.int32)


class DeviceSearch:
    """Points held on a device; every distance is computed as ``|y|² − 2xy``.

    A row of distances is not sorted. Its minimum in every group of 64 points comes first; the nearest ``n`` points lie
    in the ``n`` groups with the smallest minima, so only these are looked at.

    Args:
        points: ``(M, d)`` float32, around zero: what lies far from it drowns in rounding.
        device: any device of torch.
        block_numbers: squared distances that exist at a time.
    """

    def __init__(self, points: np.ndarray, device: torch.device | str, block_numbers: int = _BLOCK_NUMBERS) -> None:
        self.device = torch.device(device)
        n_points, dimension = points.shape
        padded = -(-n_points // _GROUP) * _GROUP
        base = torch.zeros(padded, dimension, device=self.device)
        base[:n_points] = torch.from_numpy(points).to(self.device)
        self._squares = base.square().sum(dim=1)
        self._squares[n_points:] = torch.inf
        self._transposed = base.T.contiguous()
        self._n_points = n_points
        self.block = max(1, block_numbers // padded)
        """Queries that are compared with all points at a time."""

    def candidates(self, queries: np.ndarray, wanted: int) -> np.ndarray:
        """``(Q, wanted)`` int32 nearest points, in no order; ``wanted`` is at most the number of points."""
        found = np.empty((len(queries), wanted), dtype=np.int32)
        n_groups = min(wanted, len(self._squares) // _GROUP)
        with full_precision():
            for start in range(0, len(queries), self.block):
                rows = slice(start, start + self.block)
                x = torch.from_numpy(queries[rows]).to(self.device)
                costs = torch.addmm(self._squares, x, self._transposed, alpha=-2).unflatten(1, (-1, _GROUP))
                groups = costs.amin(dim=2).topk(n_groups, dim=1, largest=False, sorted=False).indices
                near = costs.gather(1, groups[..., None].expand(-1, -1, _GROUP)).flatten(1)
                place = near.topk(wanted, dim=1, largest=False, sorted=False).indices
                point = groups.gather(1, place // _GROUP) * _GROUP + place % _GROUP
                # Padding is infinitely far: it comes in only where distances overflow, and is no point.
                found[rows] = point.masked_fill_(point >= self._n_points, -1).to(torch.int32).cpu().numpy()
        return found
