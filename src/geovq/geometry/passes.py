"""How many images go through a network at a time: as many as its activations leave room for, measured on one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from geovq.geometry.checks import of_images
from geovq.geometry.computing import bf16_autocast

BYTES_PER_PASS = {"cpu": 2**29, "cuda": 2**34}
"""Of what a backward pass reads. A process on a CPU then stays below 4 GB, with gradients and the memory that is lost
between blocks. Networks of the size that is trained here fit as often as they are asked to.
"""
_LIVE_WITHOUT_GRADIENT = 0.25
"""Share of what a backward pass needs that is there at one time of a forward pass alone, from above."""


def images_per_pass(
    network: Callable[[torch.Tensor], torch.Tensor],
    examples: torch.Tensor,
    at_most: int,
    *,
    backward: bool,
    bf16: bool = False,
) -> int:
    """Images to give a network at a time, from 1 to ``at_most``.

    Args:
        network: of a batch, such as latents ``(B, d, h, w)`` to images; in evaluation mode.
        examples: one or more of what it takes; the first is tried.
        at_most: as many where they all fit.
        backward: whether what the backward pass needs is kept, or a forward pass is all.
        bf16: whether it is under autocast.
    """
    if at_most <= 1 or len(examples) == 0:
        return max(1, at_most)
    needed = saved_bytes(of_images(network, slice(0, 1)), examples[:1], bf16)
    needed = max(1, int(needed * (1.0 if backward else _LIVE_WITHOUT_GRADIENT)))
    return max(1, min(at_most, BYTES_PER_PASS.get(examples.device.type, BYTES_PER_PASS["cpu"]) // needed))


def saved_bytes(network: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor, bf16: bool = False) -> int:
    """Bytes that the backward pass of an example ``(1, …)`` reads, beside the weights: what autograd has stored."""
    module = getattr(network, "__self__", network)  # of a method, whose it is
    weights = list(module.parameters()) if isinstance(module, torch.nn.Module) else []
    own, shapes = {each.untyped_storage().data_ptr() for each in weights}, {each.shape for each in weights}
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.shape not in shapes:  # autocast keeps weights in bf16 too
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    def same(tensor: Any) -> Any:
        return tensor

    with torch.inference_mode(False), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, same):
        example = example.detach().clone().requires_grad_(True)
        with bf16_autocast(bf16, example.device):
            # A copy may be changed in place. What comes of it is held until all is counted: no address is used twice.
            kept = network(example.clone())
    del kept
    return sum(found.values())
