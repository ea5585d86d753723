"""Stages and commands on a CUDA device against the CPU; what single functions compute there: test_gpu_check.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geovq.configuration.sections import Trainer
from geovq.models.objective import VaeObjective
from geovq.models.vae import VAE
from geovq.pipeline.checkpoint import TrainingState
from geovq.pipeline.fit import Part, fit

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class Settings:
    steps, batch_size, learning_rate, weight_decay, seed = 30, 16, 3e-3, 0.0, 0


class Images:
    """A small VAE on images of the device; with ``stop_at`` it is interrupted there."""

    name = "vae"

    def __init__(self, device: str, stop_at: int | None = None) -> None:
        torch.manual_seed(0)
        vae = VAE((1, 8, 8), 2, dim=4, width=8, max_width=16, blocks=1, norm="group")
        self.model: nn.Module = VaeObjective(vae, "mse", 0.02, "rate", 6.0).to(device)
        coarse = torch.rand(64, 1, 2, 2, generator=torch.Generator().manual_seed(1))
        self.images = nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear").to(device)
        self.n_examples, self.parts = 64, (Part(tuple(self.model.parameters())),)
        self.stop_at, self.seen = stop_at, set[str]()

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if step == self.stop_at:
            raise KeyboardInterrupt
        self.seen.add(index.device.type)
        return model(self.images[index], 1.0)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        value = float(self.model.held_out_sums(self.images)[0]) / 64
        return value, {"reconstruction": value}


def trained(task: Images, device: str, scratch: Path, precision: str) -> TrainingState:
    values = {
        "device": device,
        "devices": 1,
        "precision": precision,
        "threads": None,
        "warmup": 0.1,
        "gradient_clip": 1.0,
    }
    scratch.mkdir(exist_ok=True)
    trainer = Trainer.model_validate(values | {"validations": 3, "checkpoint_seconds": 1e-9, "profile": False})
    return fit(task, Settings(), trainer, torch.device(device), scratch, lambda metrics, step: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_goes_on_where_it_was_interrupted(device: str, precision: str, tmp_path: Path) -> None:
    whole = Images(device)
    before, _ = whole.validate(whole.model)
    state = trained(whole, device, tmp_path / "whole", precision)
    assert state.best_score < before
    assert whole.seen == {device}
    with pytest.raises(KeyboardInterrupt):
        trained(Images(device, stop_at=17), device, tmp_path / "parts", precision)
    resumed = Images(device)
    again = trained(resumed, device, tmp_path / "parts", precision)
    # On a CPU to the bit; kernels of a GPU may add in another order.
    assert again.best_score == pytest.approx(state.best_score, rel=1e-9 if device == "cpu" else 1e-2)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert a.device.type == b.device.type == device
        assert torch.allclose(a, b, rtol=0, atol=0 if device == "cpu" else 2e-2)


def test_float32_keeps_its_digits_in_a_run(digits_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    runner, _ = digits_run
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    replace(runner.context)
    assert torch.backends.cudnn.allow_tf32 is False


@pytest.mark.parametrize("device", DEVICES)
def test_a_file_is_the_same_on_both_devices(device: str, digits_run: Any, make_runner: Callable[..., Any]) -> None:
    from geovq.coding.file import decode, encode, images_per_block
    from geovq.coding.format import Header
    from geovq.coding.of_run import frequency_prior
    from geovq.pipeline.new_images import codes_of, images_of, needed
    from geovq.pipeline.stages.codes import load_codec
    from geovq.pipeline.stages.networks import final_codes

    runner, _ = digits_run
    there = make_runner(runner.context.config.root, f"trainer.device={device}")
    images = runner.context.data.test.images[:40]
    written = {}
    for each in (runner, there):
        artifacts = each.obtain((*needed(each.context), "prior"))
        codes = codes_of(each.context, artifacts, images)
        prior = frequency_prior(each.context, artifacts, load_codec(final_codes(artifacts)), "autoregressive")
        written[each] = codes, prior, images_of(each.context, artifacts, codes)
    (codes, prior, decoded), (codes_there, prior_there, decoded_there) = written.values()
    assert there.context.device.type == device
    assert (codes != codes_there).double().mean() <= 0.01  # near ties
    assert prior.digest == prior_there.digest
    flat = codes.flatten(1).numpy()
    here, again = encode(prior, flat), encode(prior_there, flat)
    assert [block.payload for block in here.blocks] == [block.payload for block in again.blocks]
    size = images_per_block(prior, False)
    header = Header(False, False, False, "autoregressive", 1, 8, 8, 40, size, flat.shape[1], *[""] * 4, prior.digest)
    assert np.array_equal(decode(prior_there, header, here.blocks)[0], flat)
    same = (codes == codes_there).flatten(1).all(1)
    assert int((decoded[same].int() - decoded_there[same].int()).abs().max()) <= 1


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("quantizer=pullback", "assign=search", "finetune=decoder"),
        ("quantizer=vqvae_ema", "prior=masked"),
        ("quantizer=conditional", "quantizer.steps=20", "prior=pixelcnn"),
        ("quantizer=product", "geo.metric=exact"),
        ("vae.loss=perceptual+adversarial",),
    ],
    ids=str,
)
def test_a_whole_run_on_a_cuda_device(
    settings: tuple[str, ...], make_runner: Callable[..., Any], tmp_path: Path
) -> None:
    runner = make_runner(tmp_path, "trainer.device=cuda", "trainer.precision=auto", *settings)
    results = runner.run()
    assert runner.context.device.type == "cuda"
    (report,) = (tmp_path / "artifacts" / "report").glob("*/metrics.json")
    assert '"psnr"' in report.read_text()
    assert results
