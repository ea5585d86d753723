"""What arguments must satisfy: arrays of points and metrics, graphs, decoders and their latents.

A pull-back metric belongs to one image. A decoder that is random (active dropout) or ties images together (statistics
over the batch) has no Jacobian of that kind, so it is refused before any long computation: by its layers' modes, and by
what it does to two images alone, together and twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numba import njit
from scipy.sparse import csr_matrix
from torch import nn

from geovq.errors import InputError, first_line

Array = np.ndarray | torch.Tensor
Decoding = TypeVar("Decoding", bound=Callable[..., torch.Tensor])

# Rows of metrics that are looked at at a time.
_CHECKED_ROWS = 65_536
# Of the largest pixel: above rounding in any precision used here, far below what dropout or batch statistics do.
_SAME_IMAGE = 1e-3


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise InputError, which names the choices, for a word that is none of them."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}; choose {' or '.join(map(repr, choices))}")


def as_array(values: Array, dtype: type | None = None) -> np.ndarray:
    """View a tensor or array as a C-contiguous numpy array (copied only where that is needed)."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # numpy has no bfloat16
    return np.asarray(values, dtype=dtype, order="C")


def as_points(points: Array, name: str = "tokens") -> np.ndarray:
    """Points as float32 ``(N, d)``; InputError where they are no matrix, empty, NaN or infinite."""
    array = as_array(points, np.float32)
    if array.ndim != 2:
        raise InputError(f"{name} have shape {array.shape}; give a matrix (N, d), one row per token")
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise InputError(f"{name} have shape {array.shape}; give at least one row and one column")
    for start in range(0, len(array), _CHECKED_ROWS):
        finite = np.isfinite(array[start : start + _CHECKED_ROWS])
        if not finite.all():
            bad = start + int(np.flatnonzero(~finite.all(axis=1))[0])
            raise InputError(f"{name} hold NaN or infinity (first in row {bad}); remove such rows or mend the encoder")
    return array


def check_metrics(metrics: Array, n_tokens: int, dimension: int) -> torch.Tensor:
    """Packed metric tensors ``(n_tokens, d(d+1)/2)`` as a tensor in their own floating type and place: never a whole
    copy of what may be half of the memory.

    Raises:
        InputError: the shape does not fit ``n_tokens`` and ``dimension``, or they are no floating-point numbers.
    """
    tensor = metrics.detach() if isinstance(metrics, torch.Tensor) else torch.from_numpy(_readable(metrics))
    expected = (n_tokens, dimension * (dimension + 1) // 2)
    if tuple(tensor.shape) != expected:
        raise InputError(
            f"metrics have shape {tuple(tensor.shape)}, but {n_tokens} tokens of {dimension} dimensions need "
            f"{expected}; pack them with pack_symmetric"
        )
    if not tensor.is_floating_point():
        raise InputError(f"metrics have dtype {tensor.dtype}; give floating-point numbers")
    return tensor


def as_packed(metrics: Array, n_tokens: int, dimension: int) -> torch.Tensor:
    """``check_metrics`` on the CPU; InputError too where one is not finite or has a negative diagonal entry."""
    tensor = check_metrics(metrics, n_tokens, dimension).cpu()
    rows, columns = np.triu_indices(dimension)
    diagonal = torch.from_numpy(np.flatnonzero(rows == columns))
    for start in range(0, n_tokens, _CHECKED_ROWS):
        block = tensor[start : start + _CHECKED_ROWS]
        if len(bad := (~torch.isfinite(block).all(dim=1)).nonzero()):
            where = f"first at token {start + int(bad[0])}"
            raise InputError(f"metrics hold NaN or infinity ({where}); check the decoder's output")
        if len(bad := (block[:, diagonal] < 0).any(dim=1).nonzero()):
            where = f"first at token {start + int(bad[0])}"
            raise InputError(f"metrics have a negative diagonal entry ({where}); a metric is positive semidefinite")
    return tensor


def _readable(values: Array) -> np.ndarray:
    """An array that torch can view: contiguous, writable, and of floats where it holds other numbers."""
    array = np.asarray(values)
    array = array if array.dtype.kind == "f" else array.astype(np.float32)
    return np.require(array, requirements=("C", "W"))


def check_lengths(adjacency: csr_matrix) -> None:
    """Raise InputError unless all edges have positive, finite lengths: paths need both, and medoids must lie apart."""
    lengths = adjacency.data
    if len(lengths) == 0 or (lengths.min() > 0 and lengths.max() < np.inf):  # NaN fails too
        return
    kinds = {"zero": lengths == 0, "negative": lengths < 0, "NaN": np.isnan(lengths), "infinite": np.isposinf(lengths)}
    counts = ", ".join(f"{bad.sum()} {kind}" for kind, bad in kinds.items() if bad.any())
    raise InputError(
        f"edge lengths: {counts} of {len(lengths)} stored ones, where all must be positive and finite; merge nodes at "
        "distance zero, leave out edges that are none, or build the graph with build_graph"
    )


def check_adjacency(adjacency: csr_matrix, n_nodes: int) -> None:
    """Raise InputError for what is no symmetric ``(n_nodes, n_nodes)`` matrix of positive edge lengths."""
    if adjacency.shape != (n_nodes, n_nodes):
        raise InputError(f"adjacency has shape {adjacency.shape}, but there are {n_nodes} nodes; give a row for each")
    try:
        adjacency.check_format(full_check=True)
    except ValueError as error:
        raise InputError(f"adjacency is no valid CSR matrix ({error}); build the graph again") from None
    check_lengths(adjacency)
    different = count_different(adjacency if adjacency.has_sorted_indices else adjacency.sorted_indices(), 1e-5)
    if different < 0:
        raise InputError("adjacency is not symmetric: some edges lead one way only; store them in both directions")
    if different // 2:
        raise InputError(
            f"adjacency is not symmetric: {different // 2} edges have another length each way; give them the mean of "
            "both"
        )


def device_of(decoder: nn.Module) -> torch.device:
    """Where the decoder's parameters are; the CPU if it has none."""
    parameter = next(decoder.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def of_images(decoder: Decoding, images: slice | torch.Tensor) -> Decoding:
    """The decoder for some of the images whose latents it is given, by place.

    One that is bound to facts of each image, such as their classes, has a method ``of`` that takes theirs.
    """
    of = getattr(decoder, "of", None)
    return decoder if of is None else of(images)


def check_latents(latents: torch.Tensor, name: str = "latents") -> None:
    """Raise InputError for anything but finite floating-point grids ``(B, d, h, w)`` with no empty dimension."""
    if latents.ndim != 4 or latents.numel() == 0:
        raise InputError(f"{name} have shape {tuple(latents.shape)}; give (B, d, h, w) with no empty dimension")
    if not latents.is_floating_point():
        raise InputError(f"{name} have dtype {latents.dtype}; give floating-point numbers")
    if len(bad := (~torch.isfinite(latents).flatten(1).all(dim=1)).nonzero()):
        raise InputError(f"{name} hold NaN or infinity (first in image {int(bad[0])}); mend the encoder first")


def check_decoder(decoder: nn.Module, latents: torch.Tensor, device: torch.device | None = None) -> torch.Size:
    """Refuse a decoder without a Jacobian per image; return the shape of one of its images.

    Decodes two images (two copies of one where there is no second).

    Raises:
        InputError: a layer in train mode or with batch statistics; images that change from call to call or with
            the company they are decoded in; another number of images than latents; images that are not finite.
    """
    decoder = of_images(decoder, slice(0, 1))
    _check_modes(decoder)
    # Repeated to four, so that even two equal latents have company whose statistics differ from one's own.
    pair = latents[[0, -1, -1, -1]].detach().to(device or device_of(decoder))
    with torch.no_grad():
        try:
            together, again, alone = decoder(pair), decoder(pair), decoder(pair[:1])
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"the decoder cannot decode latents of shape {tuple(latents.shape[1:])}: {first_line(error)}"
            ) from error
    if not isinstance(together, torch.Tensor) or together.ndim < 2 or len(together) != len(pair):
        shape = tuple(together.shape) if isinstance(together, torch.Tensor) else type(together).__name__
        raise InputError(f"the decoder makes {shape} of {len(pair)} latents; it must return one image per latent")
    if not bool(torch.isfinite(together).all()):
        raise InputError("the decoder's images are not finite; check its weights and the latents' scale")
    tolerance = _SAME_IMAGE * float(together.abs().max())
    if float((together - again).abs().max()) > tolerance:
        raise InputError("the decoder gives another image at every call; switch off its dropout or noise")
    if float((together[:1] - alone).abs().max()) > tolerance:
        raise InputError(
            "the decoder's image depends on the other images of the batch; replace statistics of the batch by "
            "GroupNorm or running statistics"
        )
    return together.shape[1:]


def _check_modes(decoder: nn.Module) -> None:
    for name, module in decoder.named_modules():
        where = f"its layer {name} ({type(module).__name__})" if name else "the decoder"
        if module.training:
            raise InputError(f"{where} is in train mode; call decoder.eval() before computing metrics")
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise InputError(
                f"{where} uses the statistics of the batch even in eval mode (track_running_stats=False), "
                "which ties images together; use GroupNorm or running statistics"
            )


def count_different(adjacency: csr_matrix, relative: float) -> int:
    """Entries that differ from the entry back by more than a share of themselves; −1 where some have none.

    Columns must be sorted.
    """
    return int(_count_different(adjacency.indptr, adjacency.indices, adjacency.data, relative))


@njit(cache=True)
def _count_different(indptr, indices, values, relative):  # type: ignore[no-untyped-def]
    following, different = indptr[:-1].copy(), 0
    for row in range(len(indptr) - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            column = indices[entry]
            back = following[column]
            if back == indptr[column + 1] or indices[back] != row:
                return -1
            following[column] += 1
            different += abs(values[back] - values[entry]) > relative * abs(values[entry])
    return different
