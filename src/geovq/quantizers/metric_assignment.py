"""Codes by the metric of each token, and the barycentres of tokens that share a code, for any quantizer."""

from __future__ import annotations

import numpy as np
import torch

from geovq import ranks
from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array, as_points, check_metrics
from geovq.geometry.neighbors import centre_of
from geovq.geometry.symmetric import mean_metric, metric_shift
from geovq.quantizers.metric_features import MetricFeatures, barycentres

# Tokens whose features exist at a time.
_ROWS_AT_ONCE = 65_536


def nearest_by_metric(
    tokens: Array,
    metrics: Array,
    codewords: Array,
    shift: float = 0.0,
    origin: np.ndarray | None = None,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """Codes ``(N,)`` int32 that cost each token least in its own metric: ``argmin_c (z − c)ᵀ(G + shift·I)(z − c)``.

    Works for any codebook. With pull-back metrics the cost is, to first order, the squared pixel error that coding
    this token adds.

    Args:
        tokens: ``(N, d)``.
        metrics: ``(N, d(d+1)/2)`` packed, one per token.
        codewords: ``(K, d)``.
        shift: added to every metric's diagonal; a small one makes tokens with singular metrics choose a near codeword.
        origin: ``(d,)`` of the computation, the codewords' mean by default; matters for rounding only.
        device: where to compute; the CPU by default.

    Raises:
        InputError: shapes that do not fit together, or values that are not finite.
    """
    points, centers = as_points(tokens), as_points(codewords, "codewords")
    if points.shape[1] != centers.shape[1]:
        raise InputError(
            f"tokens have {points.shape[1]} dimensions, the codewords {centers.shape[1]}; "
            "encode with the codebook of this latent space"
        )
    packed = check_metrics(metrics, *points.shape)
    if origin is None:
        origin = centre_of(centers)
    codes = np.empty(len(points), dtype=np.int32)
    for start in ranks.starts(len(points), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        features = MetricFeatures(points[part], packed[part], shift, origin, device)
        codes[part] = features.nearest(centers)
    return ranks.complete_(torch.from_numpy(codes), _ROWS_AT_ONCE).numpy()


def metric_barycentres(
    tokens: Array,
    metrics: Array | None,
    labels: Array,
    n_codes: int,
    ridge: float = 1e-3,
    weights: Array | None = None,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """Codewords ``(K, d)`` float32 that minimise ``Σ w(z − c)ᵀ(G + ρI)(z − c)`` over the tokens of each code.

    ``c = (ΣwG + ρI·Σw)⁻¹(ΣwGz + ρΣwz)``: the mean weighted by the metrics, drawn towards the plain mean where these
    say little. ``ρ`` is ``ridge`` times the mean eigenvalue of the mean metric of all tokens.

    Args:
        tokens: ``(N, d)``.
        metrics: ``(N, d(d+1)/2)`` packed, one per token; None takes plain means.
        labels: ``(N,)`` codes in ``[0, K)``.
        n_codes: K.
        ridge: 0 asks for ``(ΣG)⁻¹ΣGz`` alone.
        weights: ``(N,)`` positive, such as numbers of duplicates; all 1 by default.
        device: where to sum; the CPU by default.

    Raises:
        InputError: shapes that do not fit, a code out of range or without tokens, metrics that are all zero, or
            sums that are singular although ``ridge`` is 0.
    """
    points, codes = as_points(tokens), as_array(labels).astype(np.int64)
    n_tokens, d = points.shape
    if codes.shape != (n_tokens,) or codes.min() < 0 or codes.max() >= n_codes:
        raise InputError(
            f"labels have shape {codes.shape}; give a code in [0, {n_codes}) for each of {n_tokens} tokens"
        )
    weight = np.ones(n_tokens) if weights is None else as_array(weights, np.float64)
    if weight.shape != (n_tokens,) or not (weight > 0).all():
        raise InputError(f"weights have shape {weight.shape}; give a positive number for each of {n_tokens} tokens")
    mass = np.bincount(codes, weight, n_codes)
    if (mass == 0).any():
        raise InputError(f"code {int((mass == 0).argmax())} has no tokens; give labels that use all {n_codes} codes")
    origin = centre_of(points)
    if metrics is None:
        columns = [np.bincount(codes, weight * column, n_codes) for column in (points - origin).T]
        return (np.stack(columns, axis=1) / mass[:, None] + origin).astype(np.float32)
    packed = check_metrics(metrics, n_tokens, d)
    shift = metric_shift(mean_metric(packed, torch.from_numpy(weight)).double().cpu().numpy(), ridge)
    matrices, vectors = np.zeros((n_codes, d, d)), np.zeros((n_codes, d))
    for start in range(0, n_tokens, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        features = MetricFeatures(points[part], packed[part], shift, origin, device)
        features.rows.mul_(torch.from_numpy(weight[part].astype(np.float32)).to(features.device)[:, None])
        sums = features.cell_sums(codes[part], n_codes)
        matrices += sums[0]
        vectors += sums[1]
    try:
        return barycentres(matrices, vectors, origin)
    except np.linalg.LinAlgError as error:
        raise InputError(f"ridge is {ridge} and the metrics of a cell are singular; give a ridge above 0") from error
