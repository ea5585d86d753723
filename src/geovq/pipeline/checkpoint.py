"""Training state on disk: one safetensors file, replaced atomically, never a pickle.

The file holds a checksum of its tensors and numbers, and the one before it is kept: where a checkpoint is damaged the
training goes on from the older one, or starts anew, and comes to the same.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from geovq.pipeline.disk import sync

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


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Flat tensors of an optimizer's per-parameter state, named ``<parameter index>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, entry in state.items() for name, value in entry.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Undo :func:`_optimizer_tensors`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(path: Path, state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state beside ``path`` and rename it into place; the one that was there is kept as the previous one."""
    tensors: Tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in _optimizer_tensors(optimizer).items()}
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
    save_file(tensors, temporary, metadata | {"checksum": _checksum(tensors, metadata)})
    sync(temporary)
    if path.is_file():
        path.replace(_previous(path))
    temporary.replace(path)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Restore model and optimizer in place; a fresh state when there is no checkpoint that can be believed."""
    for candidate in (path, _previous(path)):
        if not candidate.is_file():
            continue
        try:
            return _restore(candidate, model, optimizer)
        except (SafetensorError, ValueError) as error:
            print(
                f"warning: the checkpoint {candidate} cannot be used ({error}); training goes on from an older one, or "
                "starts anew",
                file=sys.stderr,
            )
    return TrainingState()


def _previous(path: Path) -> Path:
    return path.with_stem(f"{path.stem}.previous")


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """The state in a file; nothing is touched unless all of it is sound.

    Raises:
        SafetensorError, ValueError: the file is damaged, or belongs to another network.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    checksum = metadata.pop("checksum", None)
    if checksum != _checksum(tensors, metadata):
        raise ValueError("it differs from its checksum")
    groups: dict[str, Tensors] = {"model": {}, "optimizer": {}, "best": {}}
    for key, tensor in tensors.items():
        group, name = key.split(".", 1)
        groups[group][name] = tensor
    if _shapes(groups["model"]) != _shapes(model.state_dict()):
        raise ValueError("it holds another network")
    model.load_state_dict(groups["model"])
    _restore_optimizer(optimizer, groups["optimizer"])
    return TrainingState(
        step=int(metadata["step"]),
        best_score=float(metadata["best_score"]),
        best_step=int(metadata["best_step"]),
        best=groups["best"],
        history=json.loads(metadata["history"]),
        seconds=float(metadata["seconds"]),
    )


def _shapes(tensors: Tensors) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _checksum(tensors: Tensors, metadata: dict[str, str]) -> str:
    """Hex digest of everything that a checkpoint holds."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
