"""Which codeword costs a token least, and sums over the tokens of each codeword: the two halves of Lloyd's passes.

Products and minimum are fused block by block, so that the ``N·K`` costs never stand in memory: on the CPU by faiss, on
another device by torch.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

from geovq.errors import InputError
from geovq.geometry.computing import faiss_in_threads, in_threads

# Numbers that one block of costs may hold on a GPU: 256 MB.
_DEVICE_BLOCK = 1 << 26


def nearest_codes(points: np.ndarray, codewords: np.ndarray, device: torch.device | str | None = None) -> np.ndarray:
    """Codes ``(N,)`` int64 of the codewords nearest to every point.

    Every distance is computed as ``|x|² − 2xc + |c|²``; where the squared distance is small beside ``|x|²`` it holds
    that much rounding, so give points around their mean.

    Args:
        points: ``(N, d)`` float32.
        codewords: ``(K, d)`` float32.
        device: where to compute; the CPU by default.

    Raises:
        InputError: squared distances overflow.
    """
    if is_cpu(device):
        index = faiss_in_threads().IndexFlatL2(codewords.shape[1])
        index.add(codewords)
        return _checked(index.search(points, 1)[1][:, 0])
    x = torch.from_numpy(np.require(points, requirements="W")).to(device)
    y = torch.from_numpy(codewords).to(device)
    return _lowest_in_blocks(x, -2 * y, y.square().sum(dim=1))


def squared_distances(points: np.ndarray, codewords: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """``(N,)`` float32 ``|x − c|²`` of points ``(N, d)`` and the codewords ``(K, d)`` of their codes ``(N,)``.

    By differences: it keeps its digits where the points lie much farther apart than from their codewords.
    """
    squared = np.empty(len(points), np.float32)
    in_threads(_squared_distances, len(points), points, codewords, codes, squared)
    return squared


@njit(cache=True, nogil=True)
def _squared_distances(points, codewords, codes, squared, first, last):  # type: ignore[no-untyped-def]
    for row in range(first, last):
        total = 0.0
        for column in range(points.shape[1]):
            total += np.float64(points[row, column] - codewords[codes[row], column]) ** 2
        squared[row] = total


def lowest_products(rows: torch.Tensor, weights: torch.Tensor, n: int = 1) -> np.ndarray:
    """For every row the ``n`` weights with the smallest inner products, smallest first: ``(N, n)`` int64 places.

    Args:
        rows: ``(N, p)`` float32, on the device where to compute.
        weights: ``(K, p)`` float32, there too.
        n: at most K; 1 on a GPU.

    Raises:
        InputError: products overflow.
    """
    if is_cpu(rows.device):
        index = faiss_in_threads().IndexFlatIP(weights.shape[1])
        index.add((-weights).numpy())
        return _checked(index.search(rows.numpy(), n)[1])
    return _lowest_in_blocks(rows, weights, torch.zeros(len(weights), device=rows.device))[:, None]


def cell_sums(rows: torch.Tensor, codes: np.ndarray, n_codes: int, sums: np.ndarray | None = None) -> np.ndarray:
    """Sums ``(K, p)`` float64 of the rows ``(N, p)`` of each code, the same for any number of threads.

    Those of rows before may be given as ``sums``, and are added to in place.
    """
    sums = np.zeros((n_codes, rows.shape[1])) if sums is None else sums
    if not is_cpu(rows.device):
        sums += _cell_sums_on_device(rows, torch.from_numpy(codes).to(rows.device), n_codes).cpu().numpy()
        return sums
    # Each thread takes some of the columns, and all of them add the rows in the same order.
    in_threads(_add_rows, rows.shape[1], rows.numpy(), codes, sums)
    return sums


@njit(cache=True, nogil=True)
def _add_rows(rows, codes, sums, first, last):  # type: ignore[no-untyped-def]
    for row in range(len(rows)):
        code = codes[row]
        for column in range(first, last):
            sums[code, column] += rows[row, column]


def _cell_sums_on_device(rows: torch.Tensor, codes: torch.Tensor, n_codes: int) -> torch.Tensor:
    """By products with indicators: adding in place would take an order of its own on a GPU in every run."""
    sums = torch.zeros(n_codes, rows.shape[1], dtype=torch.float64, device=rows.device)
    labels = torch.arange(n_codes, device=rows.device)
    step = max(1, _DEVICE_BLOCK // (2 * (n_codes + rows.shape[1])))
    for start in range(0, len(rows), step):
        member = (codes[start : start + step] == labels[:, None]).double()
        sums += member @ rows[start : start + step].double()
    return sums


def _lowest_in_blocks(rows: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor) -> np.ndarray:
    parts = rows.split(max(1, _DEVICE_BLOCK // len(weights)))
    return torch.cat([torch.addmm(offsets, part, weights.T).min(dim=1).indices for part in parts]).cpu().numpy()


def _checked(codes: np.ndarray) -> np.ndarray:
    """faiss answers −1 where no cost is a number."""
    if (codes < 0).any():
        raise InputError("squared distances overflow float32; scale the tokens (or the metrics) down")
    return codes


def is_cpu(device: torch.device | str | None) -> bool:
    """Whether the device is the CPU, which it is by default."""
    return device is None or torch.device(device).type == "cpu"
