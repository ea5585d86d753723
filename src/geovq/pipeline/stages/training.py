"""What the stages that train a network have in common: the training itself, what they store, and how it is loaded."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from geovq.configuration.options import Training
from geovq.configuration.section import blamed
from geovq.pipeline.checkpoint import TrainingState
from geovq.pipeline.copied_images import CopiedImages, Images, fit_on
from geovq.pipeline.fit import Network, Task, fit
from geovq.pipeline.stage import Artifact, ArtifactWriter, Context


def images_on_device(context: Context) -> tuple[Images, Images]:
    """Training and validation images (N, C, H, W) as bytes, on the device of the run or copied there batch by batch."""
    images = context.data.train.images, context.data.validation.images
    if fit_on(context.device, *images):
        return images[0].to(context.device), images[1].to(context.device)
    return CopiedImages(images[0], context.device), CopiedImages(images[1], context.device)


def labels_on_device(context: Context) -> tuple[Tensor | None, Tensor | None]:
    """Labels (N,) of training and validation images for a decoder that is told them; None for any other."""
    if context.config.vae.condition == "none":
        return None, None
    train, validation = context.data.train.labels, context.data.validation.labels
    assert train is not None  # checked before any compute
    assert validation is not None
    return train.to(context.device), validation.to(context.device)


def train_stage(
    context: Context,
    out: ArtifactWriter,
    task: Task[Any],
    settings: Training,
    patience: int | None = None,
    of: object = None,
    stage: str | None = None,
) -> TrainingState:
    """Train ``task.model`` on the device of the run; its curves go to the log and to ``history.json``.

    ``patience`` as of ``fit``. Errors of ``of``, an instance of someone else's class, are told as its own. ``stage`` is
    the name that the curves have, the task's unless told.
    """
    config, log = context.config, partial(context.log, stage or task.name)
    every = config.tracking.log_every
    with blamed(task if of is None else of, "training"):
        result = fit(task, settings, config.trainer, context.device, out.scratch, log, every, patience)
    out.json("history", result.history)
    return result


def write_network(out: ArtifactWriter, model: torch.nn.Module, result: TrainingState, **summary: Any) -> None:
    """Write ``weights.safetensors`` and ``summary.json``, which holds ``summary`` too."""
    # Tied weights share storage, which safetensors refuses.
    out.tensors("weights", {name: value.clone() for name, value in model.state_dict().items()})
    parameters = sum(p.numel() for p in model.parameters())
    known = {"best_step": result.best_step, "seconds_training": result.seconds, "parameters": parameters}
    out.json("summary", known | summary)


def load_network(model: Network, artifact: Artifact, device: torch.device) -> Network:
    """``model`` with the stored weights, on the device, in evaluation mode, without gradients."""
    model.load_state_dict(artifact.tensors("weights"))
    return model.to(device).eval().requires_grad_(False)
