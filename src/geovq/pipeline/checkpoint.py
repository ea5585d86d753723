"""Training state on disk: one safetensors file, replaced atomically, never a pickle."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Tensors = dict[str, Tensor]


@dataclass
class TrainingState:
    """Where a training stands: all that a later process needs to go on exactly as this one would have."""

    step: int = 0
    best_score: float = float("inf")
    best_step: int = -1
    best: Tensors = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Flat tensors of an optimizer's per-parameter state, named ``<parameter index>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, entry in state.items() for name, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Undo :func:`optimizer_tensors`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(path: Path, state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state beside ``path`` and rename it into place."""
    tensors: Tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in optimizer_tensors(optimizer).items()}
    tensors |= {f"best.{k}": v for k, v in state.best.items()}
    # Tied weights share storage, which safetensors refuses: store each name as its own copy.
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    metadata = {
        "step": str(state.step),
        "best_score": repr(state.best_score),
        "best_step": str(state.best_step),
        "seconds": repr(state.seconds),
        "history": json.dumps(state.history),
    }
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Restore model and optimizer in place; a fresh state when there is no readable checkpoint."""
    if not path.is_file():
        return TrainingState()
    groups: dict[str, Tensors] = {"model": {}, "optimizer": {}, "best": {}}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                group, name = key.split(".", 1)
                groups[group][name] = file.get_tensor(key)
    except SafetensorError as error:
        print(f"warning: the checkpoint {path} cannot be read ({error}); training starts anew", file=sys.stderr)
        return TrainingState()
    model.load_state_dict(groups["model"])
    restore_optimizer(optimizer, groups["optimizer"])
    return TrainingState(
        step=int(metadata["step"]),
        best_score=float(metadata["best_score"]),
        best_step=int(metadata["best_step"]),
        best=groups["best"],
        history=json.loads(metadata["history"]),
        seconds=float(metadata["seconds"]),
    )
