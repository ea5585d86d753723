"""What classes of the configuration have to give, asked where it is first used: ours pass, others are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geovq.configuration.section import blamed, name_of
from geovq.errors import InputError

if TYPE_CHECKING:
    from geovq.models.codec import Codec
    from geovq.models.prior import Prior


def check_codebook(quantizer: Any, K: int, dimension: int) -> None:
    """Raise InputError unless a fit left codewords and the history of its cost."""
    if not isinstance(getattr(quantizer, "cost_history_", None), np.ndarray):
        raise InputError(f"{name_of(quantizer)}: fit left no array cost_history_; end it with self._finish(…)")
    centers = getattr(quantizer, "cluster_centers_", None)
    tables = quantizer.tables_
    if centers is not None and len(centers) != K:
        raise InputError(f"{name_of(quantizer)}: fit gives {len(centers)} codewords; quantizer.K={K}")
    for table in tables:
        if table.shape[1] != dimension:
            raise InputError(f"{name_of(quantizer)}: codewords have {table.shape[1]} dimensions; vae.dim={dimension}")
        if len(bad := np.flatnonzero(~np.isfinite(table).all(1))):
            raise InputError(f"{name_of(quantizer)}: fit gives NaN or infinity in {len(bad)} codewords, first {bad[0]}")


def check_latents(autoencoder: object, latents: Tensor, split: str) -> None:
    """Raise InputError unless the latents (N, d, h, w) of a split are finite."""
    finite = latents.isfinite().flatten(1).all(1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise InputError(
            f"{name_of(autoencoder)}: encode gives NaN or infinity for {int((~finite).sum())} {split} images, first "
            f"{first}; train it anew with a smaller learning rate, or mend its encode"
        )


def check_codes(quantizer: object, codes: np.ndarray, n_tokens: int, codec: Codec) -> None:
    """Raise InputError unless there is one code per token and slot, within the sizes of the codebook."""
    sizes = np.asarray(codec.levels[0].sizes)
    found = np.asarray(codes)
    counts = (n_tokens, n_tokens * len(sizes))
    if (*found.shape[:1], found.size) != counts or found.dtype.kind not in "iu" or found is not codes:
        raise InputError(
            f"{name_of(quantizer)}: predict gives {found.shape} {found.dtype} for {n_tokens} tokens; "
            "expected an array with a whole number each"
        )
    if n_tokens and ((found < 0) | (found.reshape(n_tokens, -1) >= sizes).reshape(found.shape)).any():
        raise InputError(
            f"{name_of(quantizer)}: predict gives codes from {found.min()} to {found.max()}; there are "
            f"{sizes.tolist()}, from 0"
        )


def check_losses(prior: object, losses: Tensor, n: int) -> None:
    """Raise InputError unless there is one loss per sequence."""
    if tuple(losses.shape) != (n,):
        raise InputError(
            f"{name_of(prior)}: loss gives {tuple(losses.shape)} for {n} sequences; expected ({n},), in nats"
        )


def mean_bits(prior: Prior, ids: Tensor) -> float:
    """The mean code length of sequences (N, S) in bits per image.

    Raises:
        InputError: it is not one number from 0 for each.
    """
    with blamed(prior, "bits_per_image"):
        bits = prior.bits_per_image(ids)
    if tuple(bits.shape) != (len(ids),) or not (bits.isfinite().all() and float(bits.min()) >= 0):
        raise InputError(
            f"{name_of(prior)}: bits_per_image gives {tuple(bits.shape)} for {len(ids)} sequences, from "
            f"{float(bits.min()):.3g}; "
            f"expected ({len(ids)},) finite numbers from 0"
        )
    return float(bits.mean())


def check_sampled(prior: object, codes: object, n: int, codec: Codec) -> Tensor:
    """Codes (N, *shape) as they came, or InputError."""
    if not isinstance(codes, Tensor) or tuple(codes.shape) != (n, *codec.shape) or codes.is_floating_point():
        found = f"{tuple(codes.shape)} {codes.dtype}" if isinstance(codes, Tensor) else type(codes).__name__
        raise InputError(f"{name_of(prior)}: sample gives {found}; expected whole numbers {(n, *codec.shape)}")
    flat = codes.reshape(n, -1)
    if ((flat < 0) | (flat >= torch.tensor(codec.sizes))).any():
        raise InputError(
            f"{name_of(prior)}: sample gives codes from {int(flat.min())} to {int(flat.max())}, beyond the codebook"
        )
    return codes
