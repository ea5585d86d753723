"""Curves in latent space: their decoded length, and graph paths refined towards geodesics.

A decoder ``decode`` turns latent points ``(T, d)`` into outputs ``(T, …)``, row by row: one token inside a fixed image
(``in_context``), or whole latents flattened. The length of a latent curve is that of the curve of outputs.

**Refinement.** A path through tokens is coarse: it turns at every token. With its ends held, ``n`` points are moved to
minimise the discrete energy of the decoded curve (Shao, Kumar, Fletcher 2018; Arvanitidis, Hansen, Hauberg 2018),

    E(γ) = (n − 1) Σ_i ‖D(γ_{i+1}) − D(γ_i)‖²,

whose minimisers are geodesics run through at constant speed, where ``√E`` is their length. No metric tensor enters, so
the decoder's own curvature between tokens counts. ``geovq.geometry.energy_descent`` is the optimiser.

**Measured length.** Chords are shorter than arcs: a segment of output length ``h`` and curvature ``κ`` by ``κ²h³/24``.
``curve_length`` cuts every latent segment into 2 and into 4, whose chord sums err by O(h²), and removes the leading
term by Richardson's extrapolation, ``(4 L_4 − L_2)/3``: O(h⁴) for a smooth decoder. What is measured is the curve of
*straight latent segments* between the points, so the length is that of an actual curve: never below the distance of its
ends, but for the extrapolation's error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geovq.errors import InputError
from geovq.geometry.energy_descent import Decode, minimise_energy
from geovq.progress import progress

# Points decoded at a time where no gradient is kept.
_DECODED_POINTS = 4_096


@dataclass(frozen=True)
class Curves:
    """``B`` refined curves of ``n`` points."""

    points: Tensor
    """``(B, n, d)`` latent points, evenly spaced along the decoded curve once converged."""
    lengths: Tensor
    """``(B,)`` decoded lengths by ``curve_length``, in the unit of the outputs; never above ``start_lengths``."""
    start_lengths: Tensor
    """``(B,)`` decoded lengths of the starts: the given paths, resampled to ``n`` points."""
    n_iter: Tensor
    """``(B,)`` iterations spent."""
    converged: Tensor
    """``(B,)`` whether the tolerance was met before the iterations ran out."""


def refine_paths(
    decode: Decode,
    paths: Sequence[Tensor] | Tensor,
    n_points: int = 64,
    max_iter: int = 100,
    tolerance: float = 1e-6,
    batch_size: int = 16,
) -> Curves:
    """Shorten paths towards geodesics: minimise the energy of their decoded points, with their ends held.

    Paths of any number of points are resampled to ``n_points`` evenly along their decoded length, then optimised
    together, ``batch_size`` at a time. A curve that did not become shorter is given back as it started. The minimum is
    that of the start's surroundings: a curve around the wrong side of a hill stays there.

    Args:
        decode: latent points ``(T, d)`` to outputs ``(T, …)``, differentiable in forward and reverse mode, each row on
            its own (a decoder in eval mode).
        paths: ``B`` paths ``(P_b, d)``, each from its start to its end, or a tensor ``(B, P, d)``.
        n_points: points per curve, both ends included.
        max_iter: iterations per curve.
        tolerance: stop a curve when a step is predicted to lower its energy by less than this share (not below what the
            dtype resolves); its length has half of that to gain.
        batch_size: curves at a time; ``batch_size·n_points`` outputs with their gradients must fit in memory.

    Raises:
        InputError: no path, paths of less than two points or unlike dimensions, values or outputs that are not finite,
            fewer than 3 points, or settings that are not positive.
    """
    if n_points < 3 or max_iter < 1 or batch_size < 1 or not tolerance > 0:
        raise InputError(
            f"n_points is {n_points}, max_iter {max_iter}, batch_size {batch_size} and tolerance {tolerance}; "
            "a curve needs at least 3 points, the others must be positive"
        )
    _check_paths(paths)
    parts = []
    with progress("refining paths", total=len(paths)) as advance:
        for start in range(0, len(paths), batch_size):
            group = paths[start : start + batch_size]
            parts.append(_refine_group(decode, group, n_points, max_iter, tolerance))
            advance(len(group))
    fields = Curves.__dataclass_fields__
    return Curves(**{name: torch.cat([getattr(part, name) for part in parts]) for name in fields})


def curve_length(decode: Decode, points: Tensor, parts: int = 4) -> Tensor:
    """Decoded length of the straight segments between latent points, chord bias removed (module's docstring).

    Args:
        decode: latent points ``(T, d)`` to outputs ``(T, …)``.
        points: ``(…, n, d)`` with at least two points per curve.
        parts: that every segment is cut into, even; the other sum is over half as many.

    Returns:
        ``(…)`` lengths in the unit of the outputs (for images: root-summed pixel error). Zero for a curve that does not
        move.

    Raises:
        InputError: fewer than two points.
    """
    if points.ndim < 2 or points.shape[-2] < 2:
        raise InputError(f"points have shape {tuple(points.shape)}; a curve is (…, n, d) with n of at least 2")
    share = torch.arange(parts, dtype=points.dtype, device=points.device)[:, None] / parts
    begin, step = points[..., :-1, None, :], points.diff(dim=-2)[..., None, :]
    fine = (begin + share * step).flatten(-3, -2)  # (…, parts·(n − 1), d)
    fine = torch.cat((fine, points[..., -1:, :]), dim=-2)
    outputs = _decode_all(decode, fine.reshape(-1, fine.shape[-1])).flatten(1)
    outputs = outputs.view(*fine.shape[:-1], -1)
    halved = outputs[..., ::2, :].diff(dim=-2).norm(dim=-1).sum(dim=-1)
    whole = outputs.diff(dim=-2).norm(dim=-1).sum(dim=-1)
    return (4 * whole - halved) / 3


def resample(points: Tensor, n_points: int, lengths: Tensor | None = None) -> Tensor:
    """``n_points`` points spaced evenly along the polygon through ``points``, its ends kept exactly.

    Args:
        points: ``(P, d)``.
        n_points: at least 2.
        lengths: ``(P − 1,)`` lengths of the segments, in any unit; by default Euclidean in latent space.

    Returns:
        ``(n_points, d)``. A polygon without length is resampled evenly in the number of its points.

    Raises:
        InputError: fewer than two points, or lengths that do not fit.
    """
    if points.ndim != 2 or len(points) < 2 or n_points < 2:
        raise InputError(f"{n_points} points of a path of shape {tuple(points.shape)}; both need at least 2 points")
    segments = points.diff(dim=0).norm(dim=1) if lengths is None else lengths
    if segments.shape != (len(points) - 1,):
        raise InputError(f"{tuple(segments.shape)} lengths do not fit the {len(points) - 1} segments of the path")
    if not bool(segments.sum() > 0):
        segments = torch.ones_like(segments)
    knots = torch.cat((segments.new_zeros(1), segments.cumsum(dim=0)))
    wanted = torch.linspace(0, 1, n_points, dtype=knots.dtype, device=knots.device) * knots[-1]
    left = (torch.searchsorted(knots, wanted, right=True) - 1).clamp(0, len(points) - 2)
    share = (wanted - knots[left]) / segments[left].clamp(min=torch.finfo(segments.dtype).tiny)
    result = torch.lerp(points[left], points[left + 1], share.clamp(0, 1).to(points.dtype)[:, None])
    result[0], result[-1] = points[0], points[-1]
    return result


def path_images(decode: Decode, path: Tensor, n_images: int | None = None) -> Tensor:
    """Outputs of the decoder along a path.

    Args:
        decode: latent points ``(T, d)`` to outputs ``(T, …)``.
        path: ``(P, d)`` points.
        n_images: outputs evenly spaced along the decoded path; by default one per point of the path.

    Returns:
        ``(n_images or P, …)``.

    Raises:
        InputError: a path of a wrong shape.
    """
    if path.ndim != 2:
        raise InputError(f"the path has shape {tuple(path.shape)}; give (P, d) points, such as nodes[rows] of a graph")
    return _decode_all(decode, path if n_images is None else resample(path, n_images, _chords(decode, path)))


def in_context(decoder: nn.Module, latent: Tensor, row: int, col: int) -> Decode:
    """``decode`` for one token of an image: ``(T, d)`` tokens, each in place of the one at ``(row, col)``.

    Args:
        decoder: maps ``(B, d, h, w)`` to images; in eval mode.
        latent: ``(d, h, w)`` the image's latent, which gives all other tokens.
        row: of the token.
        col: of the token.

    Raises:
        InputError: another shape, or no such position.
    """
    if latent.ndim != 3 or not (0 <= row < latent.shape[1] and 0 <= col < latent.shape[2]):
        raise InputError(f"a latent of shape {tuple(latent.shape)} has no token at ({row}, {col}); give one (d, h, w)")
    here = torch.zeros_like(latent[:1])
    here[0, row, col] = 1
    others = latent.detach() * (1 - here)

    def decode(tokens: Tensor) -> Tensor:
        return decoder(others + tokens[:, :, None, None] * here)

    return decode


def _refine_group(
    decode: Decode, paths: Sequence[Tensor] | Tensor, n_points: int, max_iter: int, tolerance: float
) -> Curves:
    """Resample, optimise, and keep of each curve the shorter of start and result."""
    start = torch.stack([_evenly_decoded(decode, path.detach(), n_points) for path in paths])
    points, n_iter, converged = minimise_energy(decode, start, max_iter, tolerance)
    start_lengths, lengths = curve_length(decode, start), curve_length(decode, points)
    shorter = lengths < start_lengths
    points = torch.where(shorter[:, None, None], points, start)
    return Curves(points, torch.where(shorter, lengths, start_lengths), start_lengths, n_iter, converged)


def _evenly_decoded(decode: Decode, path: Tensor, n_points: int) -> Tensor:
    """Resampled by decoded length; a second time, since speed varies within the segments of a coarse path."""
    coarse = resample(path, n_points, _chords(decode, path))
    return resample(coarse, n_points, _chords(decode, coarse))


def _chords(decode: Decode, points: Tensor) -> Tensor:
    return _decode_all(decode, points).flatten(1).diff(dim=0).norm(dim=1)


def _decode_all(decode: Decode, points: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([decode(part) for part in points.split(_DECODED_POINTS)])


def _check_paths(paths: Sequence[Tensor] | Tensor) -> None:
    if len(paths) == 0:
        raise InputError("no path was given; give at least one (P, d)")
    dimension = paths[0].shape[-1] if paths[0].ndim else 0
    for index, path in enumerate(paths):
        if path.ndim != 2 or len(path) < 2 or path.shape[1] != dimension or not path.is_floating_point():
            raise InputError(
                f"path {index} has shape {tuple(path.shape)} and dtype {path.dtype}; "
                f"give floating-point (P, {dimension}) with P of at least 2"
            )
        if not bool(torch.isfinite(path).all()):
            raise InputError(f"path {index} holds NaN or infinity; remove such tokens or mend the encoder")
