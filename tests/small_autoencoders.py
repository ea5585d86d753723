"""Small models of diffusers for 32x32 images and 4x4 tokens, trained for a moment on digits and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

_BLOCKS: dict[str, Any] = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 4,
}
_DC: dict[str, Any] = {
    f"{part}_{name}": value
    for part in ("encoder", "decoder")
    for name, value in (
        ("block_types", ("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock")),
        ("block_out_channels", (8, 8, 8, 8)),
        ("layers_per_block", (1, 1, 1, 1)),
        ("qkv_multiscales", ((), (), (), (5,))),
    )
}
SETTINGS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {**_BLOCKS, "latent_channels": 4, "scaling_factor": 0.5, "shift_factor": 0.1},
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8,) * 4,
        "decoder_block_out_channels": (8,) * 4,
        "num_encoder_blocks": (1,) * 4,
        "num_decoder_blocks": (1,) * 4,
        "latent_channels": 4,
    },
    "AutoencoderDC": {**_DC, "latent_channels": 8, "attention_head_dim": 8, "scaling_factor": 0.4},
    "VQModel": {**_BLOCKS, "in_channels": 1, "out_channels": 1, "latent_channels": 4, "vq_embed_dim": 3},
}
SHAPES = {"AutoencoderKL": (4, 4, 4), "AutoencoderTiny": (4, 4, 4), "AutoencoderDC": (8, 4, 4), "VQModel": (3, 4, 4)}


def built(kind: str, **changes: Any) -> Any:
    """An untrained model."""
    import diffusers

    torch.manual_seed(0)
    return getattr(diffusers, kind)(**SETTINGS[kind] | changes)


def trained(kind: str, steps: int = 25) -> Any:
    """A model after a few steps on digits: dark, with something bright in the middle."""
    model = built(kind)
    images = F.interpolate(torch.from_numpy(load_digits().images).float()[:, None] / 16, size=(32, 32), mode="bilinear")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        x = 2 * images[torch.randint(len(images), (16,))].expand(-1, model.config.in_channels, -1, -1) - 1
        # Of a VQModel the decoder learns on latents before their quantization, which is all that is asked of it here.
        made = model.decode(model.encode(x).latents, force_not_quantize=True) if kind == "VQModel" else model(x)
        optimizer.zero_grad()
        (made.sample - x).square().mean().backward()
        optimizer.step()
    return model.eval()


def saved(model: Any, folder: Path, **how: Any) -> Path:
    """Its folder."""
    model.save_pretrained(folder, **how)
    return folder
