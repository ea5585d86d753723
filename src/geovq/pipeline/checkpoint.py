"""Training state on disk: one safetensors file with a checksum, replaced atomically, never a pickle.

The file before it is kept: where a checkpoint is damaged the training goes on from that one, or starts anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
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
    """Where a training stands: all that a later process needs to go on exactly as this one would have.

    ``best`` holds the best weights; ``history`` one record of metrics per logged step.
    """

    step: int = 0
    best_score: float = float("inf")
    best_step: int = -1
    best: Tensors = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


class Checkpoints:
    """The checkpoint of a fit that is no training of the shared loop: of network, optimiser and number of steps.

    Args:
        path: of the file.
        seconds: between two of them, at least.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._kept = time.perf_counter()

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Set both to what the file holds; how many steps that took, 0 where there is none that can be believed."""
        return load_checkpoint(self.path, model, optimizer).step

    def keep(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write both as they are after ``step`` steps, unless that was done a moment ago."""
        if time.perf_counter() - self._kept > self.seconds:
            save_checkpoint(self.path, TrainingState(step), model, optimizer)
            self._kept = time.perf_counter()


def save_checkpoint(path: Path, state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state beside ``path`` and rename it into place; the one that was there is kept as the previous one."""
    moments: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    groups: dict[str, dict[str, Any]] = {
        "model": model.state_dict(),
        "optimizer": {f"{i}.{name}": value for i, entry in moments.items() for name, value in entry.items()},
        "best": state.best,
    }
    # Tied weights share storage, which safetensors refuses: store each name as its own copy.
    tensors = {
        f"{group}.{name}": torch.as_tensor(value).detach().cpu().clone().contiguous()
        for group, values in groups.items()
        for name, value in values.items()
    }
    numbers = json.dumps(asdict(replace(state, best={})))
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, {"state": numbers, "checksum": _checksum(tensors, numbers)})
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
            instead = "training goes on from an older one, or starts anew"
            print(f"warning: the checkpoint {candidate} cannot be used ({error}); {instead}", file=sys.stderr)
    return TrainingState()


def _previous(path: Path) -> Path:
    return path.with_stem(f"{path.stem}.previous")


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """The state in a file; nothing is touched unless all of it is sound.

    Raises SafetensorError, ValueError: the file is damaged, or belongs to another network.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    numbers = metadata.get("state", "")
    if metadata.get("checksum") != _checksum(tensors, numbers):
        raise ValueError("it differs from its checksum")
    groups: dict[str, Tensors] = {"model": {}, "optimizer": {}, "best": {}}
    for key, tensor in tensors.items():
        group, name = key.split(".", 1)
        groups[group][name] = tensor
    if _shapes(groups["model"]) != _shapes(model.state_dict()):
        raise ValueError("it holds another network")
    model.load_state_dict(groups["model"])
    moments: dict[int, Tensors] = {}
    for key, tensor in groups["optimizer"].items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return TrainingState(**json.loads(numbers) | {"best": groups["best"]})


def _shapes(tensors: Tensors) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _checksum(tensors: Tensors, numbers: str) -> str:
    """Hex digest of everything that a checkpoint holds."""
    digest = hashlib.sha256(numbers.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
