"""Codes of images that are no part of a run's data, by the rule that gave its test images their codes.

The stages after training read latents, metric tensors and images of a split by its name. Here they are given those of
the new images where they ask for the test part.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from geovq.data import ImageSplit
from geovq.models.condition import given
from geovq.pipeline import stages
from geovq.pipeline.contracts import check_latents
from geovq.pipeline.stage import Artifact, Context, Inputs
from geovq.pipeline.stages.codes import also_starts_from, encoder_of, load_codec
from geovq.pipeline.stages.joint import load_joint
from geovq.pipeline.stages.latents import decode, encode
from geovq.pipeline.stages.metric_tensors import measured
from geovq.pipeline.stages.networks import codes_stage, final_codes, final_networks, load_final_decoder
from geovq.pipeline.stages.samples import to_bytes
from geovq.pipeline.stages.vae import load_vae

_OF_TEST_IMAGES = "metric_tensors_held_out"
_PER_PART = 1000  # images that are floats at one time


def needed(context: Context) -> tuple[str, ...]:
    """The stages whose artifacts ``codes_of`` reads."""
    config = context.config
    names = list(final_networks(config))
    for stage in stages.STAGES:
        if stage.name in {"codes", codes_stage(config)}:
            names += [stage.name, *stage.inputs(config)]
    return tuple(dict.fromkeys(name for name in names if name != _OF_TEST_IMAGES))


def codes_of(context: Context, artifacts: Inputs, images: Tensor) -> Tensor:
    """Codes (N, *shape) of byte images (N, C, H, W), which have no classes, by the artifacts of ``needed`` stages."""
    inputs: dict[str, Any] = dict(artifacts)
    context = _with_test_images(context, images)
    autoencoder = load_joint(context, inputs) if context.config.is_joint else load_vae(context, inputs).vae
    latents = encode(autoencoder, images, context.device)
    for part in latents.values():
        check_latents(autoencoder, part, "test")
    inputs["latents"] = _WithTestPart(inputs["latents"], latents)
    if any(_OF_TEST_IMAGES in stage.inputs(context.config) for stage in stages.STAGES if stage.applies(context.config)):
        inputs[_OF_TEST_IMAGES] = _WithTestPart(None, {"packed": measured(context, inputs, "test")})
    tuned = "finetune" in inputs
    if tuned and also_starts_from(context.config, tuned) == "codes":
        untuned = {name: artifact for name, artifact in inputs.items() if name != "finetune"}
        inputs["codes"] = _WithTestPart(inputs["codes"], {"codes": encoder_of(context, untuned)[0]("test")})
    codes = encoder_of(context, inputs)[0]("test")
    return codes.long()


@torch.no_grad()
def images_of(context: Context, inputs: Inputs, codes: Tensor) -> Tensor:
    """Images (N, C, H, W) as bytes of codes (N, *shape), of no class where the decoder asks for one."""
    decoder, codec = given(load_final_decoder(context, inputs), None), load_codec(final_codes(inputs))
    parts = [to_bytes(decode(decoder, codec.embed(part), context.device)) for part in codes.split(_PER_PART)]
    return torch.cat(parts)


class _WithTestPart:
    """An artifact whose tensors of the test part are others."""

    def __init__(self, artifact: Artifact | None, tensors: Mapping[str, Tensor]) -> None:
        self._artifact, self._tensors = artifact, dict(tensors)

    def tensors(self, name: str) -> dict[str, Tensor]:
        if name == "test":
            return self._tensors
        assert self._artifact is not None
        return self._artifact.tensors(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._artifact, name)


class _NewTestImages:
    """The data of a run with other test images; the rest is read where it is asked for."""

    def __init__(self, context: Context, test: ImageSplit) -> None:
        self._context, self.test = context, test

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context.data, name)


def _with_test_images(context: Context, images: Tensor) -> Context:
    without_class = None if context.config.vae.condition == "none" else torch.full((len(images),), -1)
    changed = copy.copy(context)
    vars(changed)["data"] = _NewTestImages(context, ImageSplit(images, without_class))
    return changed
