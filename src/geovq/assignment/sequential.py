"""Codes token after token in the metric of the whole image, each error being passed on to the tokens still open.

With the metric ``G = JᵀJ`` of all ``D = h·w·d`` latent numbers of an image, the decoded error of replacing ``z`` by
``q`` is ``(z − q)ᵀG(z − q)`` to first order. Choosing the nearest codeword token by token ignores the blocks of ``G``
between tokens. Let ``G = LᵀL`` with L lower triangular in blocks; then

    (z − q)ᵀG(z − q) = Σ_t ‖L_tt e_t + Σ_{s<t} L_ts e_s‖²,        e = z − q,

and fixing the first token first each token sees the errors of those fixed before it as a shift of its target, and for
its own metric ``L_ttᵀL_tt``: what is left of ``G_tt`` when the tokens still open are free to compensate (the Schur
complement). This is the nearest-plane rule of Babai (1986, Combinatorica 6, sec. 2) with codewords in place of lattice
points; for weights of networks it is known as GPTQ (Frantar et al. 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geovq import ranks
from geovq.errors import InputError
from geovq.geometry.checks import as_points, check_decoder, check_latents, of_images
from geovq.geometry.computing import images_per_pass
from geovq.geometry.sketch import sketch_factor
from geovq.progress import progress

# Numbers of the metrics of the images that are worked on at a time.
_BLOCK = 1 << 24


def sequential_codes(
    decoder: nn.Module,
    latents: Tensor,
    codewords: Tensor,
    *,
    n_probes: int = 64,
    shrinkage: float = 0.5,
    ridge: float = 0.01,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Codes ``(N, h, w)`` int64 by the nearest-plane rule in sketched metrics of whole images.

    Time per image: ``n_probes`` backward passes, ``D³/3`` for the factor and ``D·d·K`` for the costs; memory for a
    block of images only.

    Args:
        decoder: maps ``(B, d, h, w)`` to images; in evaluation mode.
        latents: ``(N, d, h, w)``.
        codewords: ``(K, d)``.
        n_probes: backward passes per image.
        shrinkage: weight in [0, 1] taken from the blocks between tokens, whose sketches are noise where the true
            ones are small. At 1 only the tokens' own metrics are left.
        ridge: share of the mean eigenvalue of an image's metric that is added to all; a sketch of fewer probes than
            latent numbers is singular.
        seed: of the probes.
        device: where to compute; the decoder must be there.

    Raises:
        InputError: shapes that do not fit, values that are not finite, a decoder in training mode.
    """
    check_latents(latents)
    if ridge <= 0 or not 0 <= shrinkage <= 1:
        raise InputError(f"ridge is {ridge} and shrinkage {shrinkage}; give ridge > 0 and shrinkage in [0, 1]")
    centers = torch.from_numpy(as_points(codewords, "codewords")).to(device)
    n_images, d, h, w = latents.shape
    check_decoder(decoder, latents[:1].to(device))
    step = max(1, _BLOCK // (h * w * d) ** 2)
    most = images_per_pass(decoder, latents[:1].to(device), step, backward=True)
    codes = torch.empty(n_images, h * w, dtype=torch.int64)
    own = ranks.starts(n_images, step)
    with progress("sequential codes", own.stop - own.start) as advance:
        for start in own:
            z = latents[start : start + step].to(device)
            factors = []
            for first in range(start, start + len(z), most):
                part = slice(first, min(first + most, start + len(z)))
                factors.append(sketch_factor(of_images(decoder, part), latents[part].to(device), n_probes, seed, first))
            factor = torch.cat(factors)
            metric = factor @ factor.mT
            tokens = z.flatten(2).mT.contiguous()
            codes[start : start + step] = nearest_plane(tokens, regularised(metric, d, shrinkage, ridge), centers).cpu()
            advance(len(z))
    return ranks.complete_(codes, step).view(n_images, h, w)


def regularised(metric: Tensor, d: int, shrinkage: float, ridge: float) -> Tensor:
    """Metrics ``(B, D, D)`` with blocks between tokens shrunk and a ridge added; positive definite."""
    size = metric.shape[-1]
    token = torch.arange(size, device=metric.device) // d
    weight = torch.where(token[:, None] == token, 1.0, 1.0 - shrinkage)
    level = metric.diagonal(dim1=1, dim2=2).mean(1)
    # Where the decoder ignores all latents of an image any code is as good as another.
    level = torch.where(level > 0, level, 1.0)
    return metric * weight + (ridge * level)[:, None, None] * torch.eye(size, device=metric.device)


def nearest_plane(tokens: Tensor, metric: Tensor, codewords: Tensor) -> Tensor:
    """Codes ``(B, T)`` of tokens ``(B, T, d)`` in positive definite metrics ``(B, T·d, T·d)``, token-major.

    The first token is fixed first.

    Raises:
        InputError: a metric that is singular to the precision it is given in.
    """
    n, n_tokens, d = tokens.shape
    # Cholesky's G' = CCᵀ of the tokens in reversed order, turned back, is G = LᵀL with L lower triangular.
    factor, failed = torch.linalg.cholesky_ex(metric.flip(1, 2))
    if failed.any():
        raise InputError("the metric of an image is singular: raise ridge (assign.ridge)")
    lower = factor.mT.flip(1, 2)
    blocks = lower.view(n, n_tokens, d, n_tokens, d)
    outer = (codewords[:, :, None] * codewords[:, None, :]).flatten(1)  # (K, d²)
    errors = torch.zeros_like(tokens)
    codes = torch.empty(n, n_tokens, dtype=torch.int64, device=tokens.device)
    for t in range(n_tokens):
        own = blocks[:, t, :, t]  # (B, d, d)
        past = torch.einsum("bisj,bsj->bi", blocks[:, t, :, :t], errors[:, :t])
        seen = torch.einsum("bij,bj->bi", own, tokens[:, t]) + past
        gram = own.mT @ own
        linear = torch.einsum("bij,bi->bj", own, seen)
        costs = gram.flatten(1) @ outer.T - 2 * linear @ codewords.T
        codes[:, t] = costs.argmin(1)
        errors[:, t] = tokens[:, t] - codewords[codes[:, t]]
    return codes
