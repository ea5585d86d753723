"""How far a metric tensor can be trusted: true decoded error against the predicted ``eᵀGe``.

``eᵀGe`` is the first term of ``‖D(z + e) − D(z)‖²`` for a token displaced by ``e`` in its own image. What it drops
grows with ``‖e‖``: a saturating output makes long steps cheaper than predicted, a fold of the decoder dearer. The
validity radius is the ``‖e‖`` up to which the typical (median) ratio of the two stays near 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from geovq.errors import InputError
from geovq.geometry.checks import as_packed, check_decoder, check_latents, device_of
from geovq.geometry.symmetric import quadratic_form
from geovq.progress import progress


@dataclass(frozen=True)
class DecodedErrors:
    """Predicted and true squared pixel errors ``(R, T)`` of ``T`` displaced tokens at ``R`` radii."""

    radii: np.ndarray
    """(R,) lengths ‖e‖ in latent units, ascending."""
    predicted: np.ndarray
    """(R, T) ``eᵀGe``, squared pixel error summed over the image."""
    decoded: np.ndarray
    """(R, T) ``‖D(z + e) − D(z)‖²``, in the same unit."""

    def ratio_quantiles(self, probabilities: tuple[float, ...] = (0.1, 0.5, 0.9)) -> np.ndarray:
        """Quantiles ``(R, len(probabilities))`` over tokens of decoded / predicted.

        Tokens with a prediction of zero at a radius (a decoder that ignores them) are left out there; NaN where
        none is left.
        """
        result = np.full((len(self.radii), len(probabilities)), np.nan)
        for row, (predicted, decoded) in enumerate(zip(self.predicted, self.decoded, strict=True)):
            known = predicted > 0
            if known.any():
                result[row] = np.quantile(decoded[known] / predicted[known], probabilities)
        return result

    def share_within(self, tolerance: float) -> np.ndarray:
        """Share ``(R,)`` of tokens whose own ratio lies within ``1 ± tolerance``; NaN as in ``ratio_quantiles``."""
        known = self.predicted > 0
        inside = known & (np.abs(self.decoded - self.predicted) <= tolerance * self.predicted)
        counts = known.sum(axis=1)
        return np.where(counts > 0, inside.sum(axis=1) / np.maximum(counts, 1), np.nan)

    def validity_radius(self, tolerance: float) -> float:
        """Largest ‖e‖ up to which the median ratio stays within ``1 ± tolerance``.

        Linear in ‖e‖ between the last radius inside and the first outside; 0 if the smallest is outside or has no
        ratio; infinity if all are inside: then the radii were too small to tell.

        Raises:
            InputError: ``tolerance`` not positive.
        """
        _check_tolerance(tolerance)
        deviation = np.abs(self.ratio_quantiles((0.5,))[:, 0] - 1.0)
        return _first_crossing(self.radii, deviation, tolerance)

    def validity_radius_of_tokens(self, tolerance: float, share: float = 0.8) -> float:
        """Largest ‖e‖ up to which at least ``share`` of the tokens have a ratio of their own within ``1 ± tolerance``.

        Stricter than ``validity_radius``, since deviations up and down do not cancel in it; limits as there.

        Raises:
            InputError: ``tolerance`` not positive, or ``share`` outside (0, 1).
        """
        _check_tolerance(tolerance)
        if not 0 < share < 1:
            raise InputError(f"share is {share}; give a share of tokens between 0 and 1, such as 0.8")
        return _first_crossing(self.radii, 1.0 - self.share_within(tolerance), 1.0 - share)


def _check_tolerance(tolerance: float) -> None:
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance}; give a fraction above 0, such as 0.25")


def _first_crossing(radii: np.ndarray, values: np.ndarray, limit: float) -> float:
    """Where values first rise above the limit, linear between radii; a NaN counts as above."""
    outside = np.flatnonzero(~(values <= limit))
    if len(outside) == 0:
        return float("inf")
    first = int(outside[0])
    if first == 0:
        return 0.0
    below, above = float(values[first - 1]), float(values[first])
    share = 0.0 if np.isnan(above) else (limit - below) / (above - below)
    return float(radii[first - 1] + share * (radii[first] - radii[first - 1]))


def decoded_error_against_prediction(
    decoder: nn.Module,
    latents: torch.Tensor,
    metrics: torch.Tensor,
    radii: np.ndarray | list[float],
    *,
    directions: Literal["random", "tokens"] | torch.Tensor = "random",
    n_tokens: int = 1024,
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> DecodedErrors:
    """Displace single tokens in their own images and compare the decoded error with ``eᵀGe``.

    Args:
        decoder: maps ``(B, d, h, w)`` to images; in eval mode.
        latents: ``(B, d, h, w)``.
        metrics: ``(B·h·w, d(d+1)/2)`` packed, of these latents: exact ones, unless the error of a sketch is to be
            part of the comparison.
        radii: ``(R,)`` lengths of displacements in latent units, ascending, above 0.
        directions: ``"random"``: uniform on the sphere. ``"tokens"``: towards another token of ``latents``, chosen
            at random. A tensor ``(B·h·w, d)``: a direction per token, such as that to its codeword; only tokens
            whose direction is not zero are displaced.
        n_tokens: how many tokens to displace, chosen at random; all if there are fewer.
        seed: of the choice of tokens and directions.
        batch_size: images per decoder pass; no influence beyond rounding.
        device: where to decode; by default where the decoder's parameters are.

    Returns:
        Errors at each radius. Time: ``(R + 1)·n_tokens`` decoded images.

    Raises:
        InputError: arguments that do not fit together or are out of range, no token with a direction, and what
            ``token_metrics`` refuses.
    """
    check_latents(latents)
    lengths = np.asarray(radii, dtype=np.float64)
    if lengths.ndim != 1 or len(lengths) == 0 or not (np.diff(lengths, prepend=0.0) > 0).all():
        raise InputError(f"radii are {radii}; give ascending lengths above 0")
    if n_tokens < 1 or batch_size < 1:
        raise InputError(f"n_tokens is {n_tokens} and batch_size {batch_size}; both must be at least 1")
    n_images, d, h, w = latents.shape
    packed = as_packed(metrics, n_images * h * w, d)
    device = torch.device(device) if device is not None else device_of(decoder)
    check_decoder(decoder, latents, device)
    generator = torch.Generator().manual_seed(seed)
    grids = latents.detach().cpu()
    tokens = grids.permute(0, 2, 3, 1).reshape(-1, d)
    directed = _directions(directions, tokens, generator)
    norms = directed.norm(dim=1)
    eligible = torch.nonzero(norms > 0)[:, 0]
    if len(eligible) == 0:
        raise InputError("every direction is zero; give displacements to other places than the tokens' own")
    chosen = eligible[torch.randperm(len(eligible), generator=generator)[:n_tokens]]
    unit = directed[chosen] / norms[chosen, None]
    at_unit_length = quadratic_form(packed[chosen].to(unit.dtype), unit).double().numpy()

    decoded = np.empty((len(lengths), len(chosen)))
    with progress("decoded errors", total=len(chosen)) as advance:
        for start in range(0, len(chosen), batch_size):
            part = slice(start, start + batch_size)
            decoded[:, part] = _decoded(decoder, grids, chosen[part], unit[part], lengths, device)
            advance(len(chosen[part]))
    return DecodedErrors(lengths, lengths[:, None] ** 2 * at_unit_length, decoded)


def _directions(
    directions: Literal["random", "tokens"] | torch.Tensor, tokens: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """``(B·h·w, d)`` displacements of any length, zero where a token has none."""
    if isinstance(directions, torch.Tensor):
        if directions.shape != tokens.shape or not bool(torch.isfinite(directions).all()):
            raise InputError(
                f"directions have shape {tuple(directions.shape)}; give finite {tuple(tokens.shape)}, one per token"
            )
        return directions.detach().cpu().to(tokens.dtype)
    if directions == "random":
        return torch.randn(tokens.shape, generator=generator, dtype=tokens.dtype)
    if directions == "tokens":
        # Each towards the next in a random circle: never towards itself.
        circle = torch.randperm(len(tokens), generator=generator)
        displacements = torch.empty_like(tokens)
        displacements[circle] = tokens[circle.roll(1)] - tokens[circle]
        return displacements
    raise InputError(f"directions is {directions!r}; choose 'random' or 'tokens', or give a tensor of displacements")


@torch.no_grad()
def _decoded(
    decoder: nn.Module,
    grids: torch.Tensor,
    chosen: torch.Tensor,
    unit: torch.Tensor,
    lengths: np.ndarray,
    device: torch.device,
) -> np.ndarray:
    """``(R, b)`` squared errors of images whose chosen token moves by each length."""
    n_positions = grids.shape[2] * grids.shape[3]
    original = grids[chosen // n_positions].to(device)
    reference = decoder(original).double()
    rows = torch.arange(len(chosen), device=device)
    position = (chosen % n_positions).to(device)
    result = np.empty((len(lengths), len(chosen)))
    for index, length in enumerate(lengths):
        moved = original.flatten(2).clone()
        moved[rows, :, position] += unit.to(device) * float(length)
        error = (decoder(moved.view_as(original)).double() - reference).square().flatten(1).sum(dim=1)
        result[index] = error.cpu().numpy()
    return result
