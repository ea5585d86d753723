"""What the stages that train a network have in common: the training itself, what they store, and how it is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from geovq.configuration.options import Training
from geovq.configuration.section import blamed
from geovq.models.condition import rows, withheld
from geovq.pipeline.checkpoint import TrainingState
from geovq.pipeline.fit import Network, Task, fit
from geovq.pipeline.stage import Artifact, ArtifactWriter, Context

_SHARE = 0.5
"""Of the device's free memory that whole sets of images may take; networks need the rest."""


class CopiedImages:
    """Byte images (N, C, H, W) elsewhere, whose batches come on ``device``; what stages use of a tensor is here."""

    dtype = torch.uint8

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images, self.device = images, device

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self.images[index.to(self.images.device) if isinstance(index, Tensor) else index].to(self.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches in their order."""
        return (self[start : start + size] for start in range(0, len(self), size))


Images = Tensor | CopiedImages


def images_on_device(context: Context) -> tuple[Images, Images]:
    """Training and validation images (N, C, H, W) as bytes, on the device of the run or copied there batch by batch."""
    device, images = context.device, (context.data.train.images, context.data.validation.images)
    most = math.inf if device.type == "cpu" else _SHARE * torch.cuda.mem_get_info(device)[0]
    if sum(each.nbytes for each in images) <= most:
        return images[0].to(device), images[1].to(device)
    return CopiedImages(images[0], device), CopiedImages(images[1], device)


@dataclass
class ImageTask(Task[Network]):
    """A task on byte images whose decoder may be told their classes: then it has labels (N,)."""

    labels: Tensor | None = field(default=None, kw_only=True)
    validation_labels: Tensor | None = field(default=None, kw_only=True)
    withheld: float = field(default=0.0, kw_only=True)
    """Share of the training images whose class is withheld."""

    @classmethod
    def of(cls, context: Context, model: Network, *own: Any, withholding: bool = False) -> Self:
        """With the images of a run and, where its decoder is told them, their labels; ``own`` fields follow these.

        ``withholding``: not those of the share ``vae.condition_dropout`` of training images.
        """
        device, train, validation = context.device, context.data.train.labels, context.data.validation.labels
        told: dict[str, Any] = {}
        if context.config.vae.condition != "none":
            assert train is not None  # checked before any compute
            assert validation is not None
            told = {"labels": train.to(device), "validation_labels": validation.to(device)}
            told["withheld"] = context.config.vae.condition_dropout if withholding else 0.0
        return cls(model, *images_on_device(context), *own, **told)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Training images (B, C, H, W) in [0, 1] and their labels (B,)."""
        labels = rows(self.labels, index)
        return self.train[index].float() / 255, withheld(labels, self.withheld) if self.withheld > 0 else labels

    def held_out(self, index: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """The same of validation images."""
        return self.validation[index].float() / 255, rows(self.validation_labels, index)


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
