"""What the stages that train a network have in common: the training itself, what they store, and how it is loaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from geovq.configuration.section import blamed
from geovq.pipeline.fit import FitResult, Task, fit

if TYPE_CHECKING:
    import torch
    from torch import nn

    from geovq.configuration.sections import Training
    from geovq.pipeline.artifacts import Artifact, ArtifactWriter
    from geovq.pipeline.stage import Context

Network = TypeVar("Network", bound="nn.Module")


def train_stage(
    context: Context,
    out: ArtifactWriter,
    task: Task,
    settings: Training,
    patience: int | None = None,
    of: object = None,
) -> FitResult:
    """Train ``task.model`` on the device of the run; its curves go to the log and to ``history.json``.

    With ``patience`` it stops after that many validations without a better score. Errors of ``of``, an instance of
    someone else's class, are told as its own.
    """
    config = context.config
    log = partial(context.log, task.name)
    with blamed(task if of is None else of, "training"):
        result = fit(
            task, settings, config.trainer, context.device, out.scratch, log, config.tracking.log_every, patience
        )
    out.json("history", result.history)
    return result


def write_network(out: ArtifactWriter, model: nn.Module, result: FitResult, **summary: Any) -> None:
    """Write ``weights.safetensors`` and ``summary.json``, which holds ``summary`` too."""
    # Tied weights share storage, which safetensors refuses.
    out.tensors("weights", {name: value.clone() for name, value in model.state_dict().items()})
    known = {
        "best_step": result.best_step,
        "seconds_training": result.seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    out.json("summary", known | summary)


def load_network(model: Network, artifact: Artifact, device: torch.device) -> Network:
    """``model`` with the stored weights, on the device, in evaluation mode, without gradients."""
    model.load_state_dict(artifact.tensors("weights"))
    return model.to(device).eval().requires_grad_(False)
