from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from geovq.configuration.sections import Trainer
from geovq.errors import TrainingError
from geovq.pipeline.checkpoint import load_checkpoint
from geovq.pipeline.device import choose_device, set_threads
from geovq.pipeline.fit import BatchOrder, Part, fit, learning_rate_factor, mixed_seed, parameter_groups, seeded

CPU = torch.device("cpu")


def trainer(**changes: object) -> Trainer:
    values = {
        "device": "cpu",
        "devices": 1,
        "precision": "32-true",
        "threads": None,
        "warmup": 0.1,
        "gradient_clip": 1.0,
        "validations": 4,
        "checkpoint_seconds": 1000.0,
        "profile": False,
    }
    return Trainer.model_validate(values | changes)


@dataclass
class Settings:
    steps: int = 40
    batch_size: int = 16
    learning_rate: float = 1e-2
    weight_decay: float = 0.01
    seed: int = 3


class Regression:
    """A noisy task: its loss draws random numbers, as a VAE's does."""

    name = "regression"

    def __init__(self, stop_at: int | None = None, nan_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(100, 4, generator=generator)
        self.y = self.x.sum(1, keepdim=True).sin()
        self.n_examples, self.parts = 100, (Part(tuple(self.model.parameters())),)
        self.stop_at, self.nan_at = stop_at, nan_at
        self.calls: list[int] = []

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if step == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(step)
        noise = 0.1 * torch.randn(len(index), 1)
        loss = (model(self.x[index]) - self.y[index] - noise).square().mean()
        if step == self.nan_at:
            loss = loss * float("nan")
        return loss, {"loss": loss.detach()}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        score = float((model(self.x) - self.y).square().mean())
        return score, {"loss": score}


def ignore(metrics: dict[str, float], step: int) -> None:
    pass


def test_loss_falls_and_the_best_weights_are_left_in_the_model(tmp_path: Path) -> None:
    task = Regression()
    before, _ = task.validate(task.model)
    result = fit(task, Settings(steps=200), trainer(), CPU, tmp_path, ignore)
    assert result.best_score < 0.5 * before
    assert not task.model.training
    assert task.validate(task.model)[0] == pytest.approx(result.best_score)


@pytest.mark.parametrize(("patience", "steps", "best"), [(1, 15, (10, 4.0)), (2, 20, (10, 4.0)), (3, 50, (50, 0.5))])
def test_it_stops_after_as_many_validations_without_gain_as_patience_says(
    tmp_path: Path, patience: int, steps: int, best: tuple[int, float]
) -> None:
    scores = iter([5.0, 4.0, 6.0, 7.0, 3.0, 8.0, 9.0, 2.0, 1.0, 0.5])
    task = Regression()
    task.validate = lambda model: (next(scores), {})  # type: ignore[method-assign]
    result = fit(task, Settings(steps=50), trainer(validations=10), CPU, tmp_path, ignore, patience=patience)
    assert (result.best_step, result.best_score) == best
    assert len(task.calls) == steps


def test_a_training_leaves_the_global_generator_as_it_was(tmp_path: Path) -> None:
    task = Regression()
    before = torch.get_rng_state()
    fit(task, Settings(), trainer(), CPU, tmp_path, ignore)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(3):
        first = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, torch.rand(4, generator=torch.Generator().manual_seed(3)))


def test_threads_are_set_when_asked_for_and_by_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(torch, "set_num_threads", lambda n: asked.append(("torch", n)))
    monkeypatch.setattr(faiss, "omp_set_num_threads", lambda n: asked.append(("faiss", n)))
    choose_device(trainer(threads=3))
    set_threads(trainer(threads=None))
    assert asked == []
    set_threads(trainer(threads=3))
    assert asked == [("torch", 3), ("faiss", 3)]


@pytest.mark.parametrize("stop_at", [1, 17, 39])
def test_a_killed_training_resumes_bit_for_bit(tmp_path: Path, stop_at: int) -> None:
    whole = Regression()
    (tmp_path / "whole").mkdir()
    reference = fit(whole, Settings(), trainer(), CPU, tmp_path / "whole", ignore)
    scratch = tmp_path / "killed"
    scratch.mkdir()
    with pytest.raises(KeyboardInterrupt):
        fit(Regression(stop_at=stop_at), Settings(), trainer(checkpoint_seconds=1e-9), CPU, scratch, ignore)
    resumed = Regression()
    result = fit(resumed, Settings(), trainer(checkpoint_seconds=1e-9), CPU, scratch, ignore)
    assert resumed.calls[0] == stop_at
    assert (result.best_step, result.best_score) == (reference.best_step, reference.best_score)
    assert result.history == reference.history
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("where", ["tensor", "header", "cut"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_goes_on(
    tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = Regression()
    (tmp_path / "whole").mkdir()
    fit(reference, Settings(), trainer(), CPU, tmp_path / "whole", ignore)
    with pytest.raises(KeyboardInterrupt):
        fit(Regression(stop_at=17), Settings(), trainer(checkpoint_seconds=1e-9), CPU, tmp_path, ignore)
    path = tmp_path / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    if where == "tensor":
        content[-3] ^= 64
    elif where == "header":
        at = content.index(rb"{\"step\": 17") + len(rb"{\"step\": ")
        content[at] ^= 1  # step 17 becomes step 07
    path.write_bytes(content[:-1] if where == "cut" else content)
    resumed = Regression()
    fit(resumed, Settings(), trainer(), CPU, tmp_path, ignore)
    assert resumed.calls[0] == 16
    assert f"the checkpoint {path} cannot be used" in capsys.readouterr().err
    for name, value in reference.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_checkpoint_of_another_network_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(Regression(stop_at=1), Settings(), trainer(checkpoint_seconds=1e-9), CPU, tmp_path, ignore)
    other = Regression()
    other.model = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 1))
    fit(other, Settings(), trainer(), CPU, tmp_path, ignore)
    assert other.calls[0] == 0
    assert "it holds another network" in capsys.readouterr().err


def test_a_resumed_training_tells_its_curves_from_the_beginning(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(Regression(stop_at=23), Settings(), trainer(checkpoint_seconds=1e-9), CPU, tmp_path, ignore)
    logged: list[dict[str, float]] = []
    result = fit(
        Regression(), Settings(), trainer(), CPU, tmp_path, lambda m, s: logged.append({"step": s, **m}), log_every=4
    )
    assert logged == result.history
    assert logged[0]["step"] == 4


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    task = Regression(nan_at=25)
    with pytest.raises(TrainingError, match=r"regression: the loss is not finite at step 25 of 40; the last good"):
        fit(task, Settings(), trainer(checkpoint_seconds=1e-9), CPU, tmp_path, ignore)
    fresh = Regression()
    optimizer = torch.optim.AdamW(parameter_groups(fresh.parts, 0.01))
    state = load_checkpoint(tmp_path / "checkpoint.safetensors", fresh.model, optimizer)
    assert state.step == 25
    assert all(torch.isfinite(p).all() for p in fresh.model.parameters())


def test_every_example_is_visited_once_per_epoch_in_a_new_order() -> None:
    order = BatchOrder(10, 5, seed=1)
    epochs = [torch.cat([order.batch(2 * e), order.batch(2 * e + 1)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert epochs[0].tolist() != epochs[1].tolist()
    assert BatchOrder(10, 5, seed=1).batch(3).tolist() == order.batch(3).tolist()


def test_batches_are_no_larger_than_the_data() -> None:
    assert len(BatchOrder(7, 100, seed=0).batch(4)) == 7


def test_schedule_rises_then_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert factors[99] < 1e-3
    assert factors[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))


def test_seeds_of_different_numbers_differ() -> None:
    assert len({mixed_seed(seed, step) for seed in range(5) for step in range(100)}) == 500
