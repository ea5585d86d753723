"""Shared argument checks: arrays or tensors in, contiguous finite float32 arrays out."""

from __future__ import annotations

import numpy as np
import torch

from geovq.errors import InputError

Array = np.ndarray | torch.Tensor


def as_array(values: Array, dtype: type | None = None) -> np.ndarray:
    """View a tensor or array as a C-contiguous numpy array (copied only where that is needed)."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # numpy has no bfloat16
    return np.asarray(values, dtype=dtype, order="C")


def as_points(points: Array, name: str = "tokens") -> np.ndarray:
    """Points as float32 ``(N, d)``.

    Raises:
        InputError: not two-dimensional, empty, or holding NaN or infinity.
    """
    array = as_array(points, np.float32)
    if array.ndim != 2:
        raise InputError(f"{name} have shape {array.shape}; give a matrix (N, d), one row per token")
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise InputError(f"{name} have shape {array.shape}; give at least one row and one column")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise InputError(f"{name} hold NaN or infinity (first in row {bad}); remove such rows or mend the encoder")
    return array


def as_metrics(metrics: Array, n_tokens: int, dimension: int, name: str = "metrics") -> np.ndarray:
    """Packed metric tensors as float32 ``(n_tokens, d(d+1)/2)``.

    Raises:
        InputError: the shape does not fit ``n_tokens`` and ``dimension``, or a value is not finite.
    """
    array = as_array(metrics, np.float32)
    expected = (n_tokens, dimension * (dimension + 1) // 2)
    if array.shape != expected:
        raise InputError(
            f"{name} have shape {array.shape}, but {n_tokens} tokens of {dimension} dimensions need "
            f"{expected}; pack them with pack_symmetric"
        )
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise InputError(f"{name} hold NaN or infinity (first at token {bad}); check the decoder's output")
    return array
