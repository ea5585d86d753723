"""The one training loop, shared by every network: schedule, clipping, validation, best weights, checkpoints, progress.

Every random number comes from (seed, step), so a resumed training repeats the interrupted one bit for bit; torch's
global generators are as before when it is over. Several ranks train on shares of the same batches.
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from geovq import ranks
from geovq.errors import TrainingError
from geovq.pipeline.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from geovq.pipeline.device import choose_precision
from geovq.pipeline.fabric import make_fabric
from geovq.pipeline.shared_draws import shared_draws
from geovq.progress import progress

if TYPE_CHECKING:
    from geovq.configuration.options import Training
    from geovq.configuration.sections import Trainer
    from geovq.pipeline.stages.training import Images

Metrics = dict[str, float]
Log = Callable[[Metrics, int], None]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Part:
    """Parameters that are clipped by themselves and trained with ``rate`` times the learning rate."""

    parameters: tuple[nn.Parameter, ...]
    rate: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass
class Task(ABC, Generic[Network]):
    """A network and what it is trained for, on examples (N, …) that come on its device."""

    name: ClassVar[str]
    model: Network
    train: Images
    validation: Images

    @property
    def n_examples(self) -> int:
        """To train on."""
        return len(self.train)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the model is made of, as far as the optimiser is concerned."""
        return (Part(tuple(self.model.parameters())),)

    @abstractmethod
    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the examples ``index`` (B,) through ``model``, and scalars worth logging."""

    @abstractmethod
    def validate(self, model: nn.Module) -> tuple[float, Metrics]:
        """Score on held-out data (lower is better; inf when not eligible as best) and its metrics."""


class BatchOrder:
    """The examples of each step: epoch after epoch in an order drawn from (seed, epoch).

    Batches never straddle epochs; the remainder of an epoch is left for other epochs' orders to reach.
    """

    def __init__(self, n_examples: int, batch_size: int, seed: int) -> None:
        self.n_examples, self.batch_size, self.seed = n_examples, min(batch_size, n_examples), seed
        self.per_epoch = n_examples // self.batch_size
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def batch(self, step: int) -> Tensor:
        """Indices (B,) of one step."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
            self._order = torch.randperm(self.n_examples, generator=generator)
            self._epoch = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]


def training_settings(trainer: Trainer, own: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Settings of a stage that trains: its own, and what of the trainer changes the outcome."""
    names = ("precision", "warmup", "gradient_clip", "validations")
    return {**own, **more, **{f"trainer_{name}": getattr(trainer, name) for name in names}}


def mixed_seed(seed: int, number: int) -> int:
    """Distinct seeds for the numbers 0, 1, 2, … of one seed."""
    return (seed * 1_000_003 + number) % (2**63)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers on the CPU from a seed; its global generator is as before when this is over."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Linear rise over the first ``warmup`` fraction of the steps, then half a cosine to zero."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def parameter_groups(parts: Iterable[Part], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for biases, gains and scalars; ``rate`` is that of the part."""
    groups: list[dict[str, Any]] = []
    for part in parts:
        parameters = [p for p in part.parameters if p.requires_grad]
        common = {"betas": part.betas, "rate": part.rate}
        groups += [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay, **common},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, **common},
        ]
    return groups


def fit(
    task: Task[Any],
    settings: Training,
    trainer: Trainer,
    device: torch.device,
    scratch: Path,
    log: Log,
    log_every: int = 50,
    patience: int | None = None,
) -> TrainingState:
    """Train ``task.model`` and leave its best weights in it, in evaluation mode.

    ``log`` receives the metrics of every ``log_every``-th step (more often in short trainings); ``scratch`` keeps the
    checkpoint. With ``patience`` it stops after that many validations without a better score. Raises TrainingError when
    the loss is no longer finite; the last good checkpoint stays in ``scratch``.
    """
    from torch.profiler import profile

    fabric = make_fabric(device, choose_precision(trainer, device))
    parts = task.parts
    groups = parameter_groups(parts, settings.weight_decay)
    model, optimizer = fabric.setup(task.model, torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True))
    path = scratch / "checkpoint.safetensors"
    state = load_checkpoint(path, task.model, optimizer.optimizer)
    order = BatchOrder(task.n_examples, settings.batch_size, settings.seed)
    validate_at = {round((i + 1) * settings.steps / trainer.validations) for i in range(trainer.validations)}
    # Reading the loss makes a GPU wait for its queue: there it is looked at now and then.
    look_every = 1 if device.type == "cpu" else 25
    log_every = min(log_every, max(1, settings.steps // 10))
    begun = saved = time.perf_counter()
    earlier = state.seconds
    for record in state.history:  # a resumed training tells its curves from the beginning
        log({name: value for name, value in record.items() if name != "step"}, int(record["step"]))

    task.model.train()
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        profile() if trainer.profile else nullcontext() as profiled,
        progress(f"training {task.name}", settings.steps, state.step) as advance,
    ):
        while state.step < settings.steps:
            since_best = sum(state.best_step < at <= state.step for at in validate_at)
            if patience is not None and state.best_step > 0 and since_best >= patience:
                break
            step = state.step
            torch.manual_seed(mixed_seed(settings.seed, step))
            rate = settings.learning_rate * learning_rate_factor(step, settings.steps, trainer.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate"]
            index = order.batch(step)[ranks.share(order.batch_size)]
            with shared_draws(order.batch_size):
                loss, metrics = task.loss(model, index.to(device, non_blocking=True), step)
            of_batch = ranks.mean(loss.detach())
            if step % look_every == 0 and not math.isfinite(of_batch.item()):
                raise _not_finite(task.name, step, settings, path)
            fabric.backward(loss)
            for part in parts:
                nn.utils.clip_grad_norm_(part.parameters, trainer.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
            state.step = step + 1

            if state.step % log_every == 0:
                _note(ranks.mean_numbers(metrics) | {"learning_rate": rate}, state, log)
            if state.step in validate_at:
                advance(0, f"validation {_validate(task, model, state, log)}")
            state.seconds = earlier + time.perf_counter() - begun
            is_time = time.perf_counter() - saved > trainer.checkpoint_seconds or state.step == settings.steps
            if is_time and ranks.rank() == 0:
                if not math.isfinite(of_batch.item()):
                    raise _not_finite(task.name, step, settings, path)
                save_checkpoint(path, state, task.model, optimizer.optimizer)
                saved = time.perf_counter()
            advance()
    if profiled is not None:  # which operations took the time
        print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=20), file=sys.stderr)
    if state.best:
        task.model.load_state_dict(state.best)
    else:
        kept = "no validation was eligible as best (see its curves); the last weights are kept"
        print(f"warning: {task.name}: {kept}", file=sys.stderr)
    task.model.eval()
    return state


def _validate(task: Task[Any], model: nn.Module, state: TrainingState, log: Log) -> str:
    """Take the validation score, and keep the weights when it is the best so far; the first score in words."""
    model.eval()
    with torch.no_grad():
        score, metrics = task.validate(model)
    score = ranks.agreed(score)
    model.train()
    _note({f"validation_{name}": value for name, value in metrics.items() if math.isfinite(value)}, state, log)
    if score < state.best_score:
        state.best_score, state.best_step = score, state.step
        state.best = {name: value.detach().clone() for name, value in task.model.state_dict().items()}
    name, value = next(iter(metrics.items()), ("score", score))
    return f"{name.replace('_', ' ')} {value:.4g}"


def _note(record: Metrics, state: TrainingState, log: Log) -> None:
    log(record, state.step)
    state.history.append({"step": state.step, **record})


def _not_finite(name: str, step: int, settings: Training, path: Path) -> TrainingError:
    kept = f"the last good checkpoint is kept in {path}" if path.is_file() else "there is no checkpoint yet"
    instead = f"try a smaller learning rate than {settings.learning_rate:g}"
    return TrainingError(f"{name}: the loss is not finite at step {step} of {settings.steps}; {kept}; {instead}")
