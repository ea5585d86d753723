"""Evaluation with networks on another device than the images, whichever part comes first."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from geovq.evaluation import generation, perceptual
from geovq.evaluation.evaluator import measure
from geovq.pipeline.stages.evaluated_run import EvaluatedRun

DEVICE = torch.device("cuda")  # none is needed: what is moved there is a tensor of the class below


class There(Tensor):
    """A tensor on the other device: it works with its like alone, as torch has it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        with torch._C.DisableTorchFunctionSubclass():  # else asking for a dimension would end here again
            if any(value.ndim > 0 and not isinstance(value, There) for value in given):
                raise RuntimeError("Expected all tensors to be on the same device")
        if func is Tensor.as_subclass:  # leaves the device
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args)
        return super().__torch_function__(func, types, args, kwargs)


class ClassifierThere:
    """A classifier on the other device, which others share: nobody may move it."""

    def features(self, images: Tensor) -> list[Tensor]:
        seen = self._seen(images)
        return [torch.cat([seen, 1 - seen], dim=1)]  # of one channel only the sign would count

    def embedding(self, images: Tensor) -> Tensor:
        return self._seen(images).flatten(1)[:, :8]

    def __call__(self, images: Tensor) -> Tensor:
        return self._seen(images).flatten(1)[:, :3]

    def output(self, features: Tensor) -> Tensor:
        return self._seen(features)[:, :3]

    def to(self, *arguments: Any) -> Any:
        raise AssertionError(f"the classifier is moved to {arguments}")

    def _seen(self, images: Tensor) -> Tensor:
        if not isinstance(images, There):
            raise RuntimeError("Expected all tensors to be on the same device")
        return images


@pytest.fixture
def _other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    move = Tensor.to

    def to(self: Tensor, *arguments: Any, **named: Any) -> Tensor:
        target = arguments[0] if arguments else named.get("device")
        if isinstance(target, There) or target == DEVICE:
            return self.as_subclass(There)
        return move(self, *arguments, **named)

    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(Tensor, "cpu", lambda self: self.as_subclass(Tensor))


@pytest.mark.usefixtures("_other_device")
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_networks_stay_where_they_are_and_images_come_to_them(order: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    images, output = torch.rand(2, 12, 1, 6, 6, generator=generator)
    stored = (255 * images).to(torch.uint8)
    labels = torch.arange(12) % 3
    config: Any = SimpleNamespace(
        evaluation=SimpleNamespace(lpips="off", seed=0, geodesic_codewords=0),
        geo=SimpleNamespace(metric="none"),
        data=SimpleNamespace(memory_gb=None),
        root=Path("/nowhere"),
        latents_are_points=True,
    )
    data = SimpleNamespace(test=SimpleNamespace(images=stored))
    info = SimpleNamespace(name="some", n_classes=3)
    context: Any = SimpleNamespace(config=config, info=info, device=DEVICE, data=data)
    tensors = {
        "measured": {"images": stored.flip(0), "labels": labels, "codes": stored[:, 0]},
        "without_prior": {"images": stored.flip(2)},
    }
    inputs: Any = {
        "samples": SimpleNamespace(tensors=tensors.get),
        "prior": SimpleNamespace(json=lambda name: {}),
        "features": SimpleNamespace(tensors=lambda split: {"features": (stored / 255).flatten(1)[:, :8]}),
    }
    run = EvaluatedRun(context, inputs)
    run.classifier, run.quantized, run.unquantized = ClassifierThere(), output, output  # type: ignore[assignment]
    parts = ([perceptual.perception], [generation.samples], [generation.sample_classes])
    found = [measure(parts[place], run) for place in order]
    measured = {name: value for each in found for name, value in each.values.items()}
    assert type(run.labels) is Tensor
    assert measured["perceptual_some_cnn"] > 0
    assert measured["fid_some_cnn"] >= 0
    assert measured["coverage_some_cnn_training"] == 1  # they are the test images here
    assert 0 <= measured["sample_class_accuracy"] <= 1
