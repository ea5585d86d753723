"""The stage of jointly trained quantizers on the tiny digits, and what a resumed training repeats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geovq.commands.train import open_data
from geovq.configuration.config import validate
from geovq.errors import ConfigError
from geovq.models.joint import JointAutoencoder
from geovq.models.vae import reconstruction_loss
from geovq.pipeline.artifacts import Artifact, ArtifactStore
from geovq.pipeline.fit import fit
from geovq.pipeline.stage import Context
from geovq.pipeline.stages.joint import STAGE, JointTask, load_joint, make_joint
from quantizer_classes import JOINT
from tiny import TINY

CPU = torch.device("cpu")


@pytest.fixture
def make_context(compose: Callable[..., Any], tmp_path: Path) -> Callable[..., Context]:
    """``make_context("fsq", "quantizer.K=8")``: the tiny digits with a joint quantizer."""

    def make(name: str, *overrides: str) -> Context:
        base = (*TINY, "tracking=none", f"paths.root={tmp_path}")
        config = validate(compose(*base, f"quantizer={name}", *overrides))
        source, info = open_data(config)
        return Context(config, source, info)

    return make


def section(compose: Callable[..., Any], name: str, *overrides: str) -> Any:
    return validate(compose(*TINY, "tracking=none", f"quantizer={name}", *overrides)).quantizer


def build(context: Context, root: Path) -> Artifact:
    return ArtifactStore(root).build(
        "joint", "0" * 16, STAGE.settings(context.config), {}, lambda out: STAGE.build(context, {}, out)
    )


@pytest.mark.parametrize("name", JOINT)
def test_the_stage_trains_and_its_network_comes_back(
    name: str, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    context = make_context(name)
    artifact = build(context, tmp_path)
    model = load_joint(context, {"joint": artifact})
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    x = context.data.validation.images.float() / 255
    image = model.decoder(model.codec().embed(model.codes(model.encode(x))))
    summary = artifact.json("summary")
    assert float((image - x).square().flatten(1).sum(1).mean()) == pytest.approx(
        summary["validation_reconstruction"], rel=1e-4
    )
    scores = [r["validation_reconstruction"] for r in artifact.json("history") if "validation_reconstruction" in r]
    assert summary["validation_reconstruction"] == pytest.approx(min(scores), rel=1e-5)
    for key in ("validation_usage", "validation_perplexity"):
        assert summary[key] > 0
    assert summary["validation_usage"] <= 1
    assert summary["validation_perplexity"] <= 16 * summary["validation_usage"] * 1.0001
    assert ("validation_usage_top" in summary) == (name == "vqvae2")


class Interrupted(JointTask):
    """A task that is killed before one of its steps."""

    stop_at: int | None = None

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if step == self.stop_at:
            raise KeyboardInterrupt
        return super().loss(model, index, step)


@pytest.mark.parametrize("name", JOINT)
def test_a_killed_training_resumes_bit_for_bit(name: str, tmp_path: Path, make_context: Callable[..., Context]) -> None:
    context = make_context(name, "vae.steps=12", "vae.batch_size=32", "vae.width=4", "vae.max_width=4")
    config = context.config
    trainer = config.trainer.model_copy(update={"checkpoint_seconds": 1e-9})

    def run(folder: str, stop_at: int | None) -> tuple[JointAutoencoder, Any]:
        (tmp_path / folder).mkdir(exist_ok=True)
        model = make_joint(config, context.info)
        data = context.data
        task = Interrupted(model, data.train.images, data.validation.images, config.vae.steps)
        task.stop_at = stop_at
        return model, fit(task, config.vae, trainer, CPU, tmp_path / folder, lambda metrics, step: None)

    whole, reference = run("whole", None)
    for stop_at in (1, 7):
        with pytest.raises(KeyboardInterrupt):
            run("killed", stop_at)
    resumed, result = run("killed", None)
    assert result.history == reference.history
    assert (result.best_step, result.best_score) == (reference.best_step, reference.best_score)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("residual_vq", ["quantizer.K=7"], r"quantizer\.n_stages=3: K=7 cannot be split"),
        ("product_vq", ["quantizer.K=3"], r"quantizer\.n_parts=2: K=3 cannot be split"),
        ("fsq", ["quantizer.K=4"], r"quantizer\.n_levels=3: K=4 cannot be split"),
        ("fsq", ["quantizer.levels=[8,8,8]"], r"their product 512 is more than quantizer\.K=16"),
        ("fsq", ["quantizer.levels=[1,8]"], r"quantizer\.levels\[0\]=1"),
        ("vqvae_ema", ["quantizer.decay=1.0"], r"quantizer\.decay=1\.0"),
    ],
)
def test_what_cannot_be_is_refused(name: str, overrides: list[str], message: str, compose: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        section(compose, name, *overrides)


def test_given_levels_are_taken(compose: Callable[..., Any], make_context: Callable[..., Context]) -> None:
    context = make_context("fsq", "quantizer.K=60", "quantizer.levels=[5,4,3]")
    assert make_joint(context.config, context.info).codec().levels[0].sizes == (5, 4, 3)


def test_the_key_sees_the_quantizer_and_not_the_rate(make_context: Callable[..., Context]) -> None:
    def settings(*arguments: str) -> dict[str, Any]:
        return STAGE.settings(make_context(*arguments).config)

    base = settings("vqvae_ema")
    assert base != settings("vqvae_ema", "quantizer.restart=0.3")
    assert base != settings("vqvae_rotation")
    assert base != settings("vqvae_ema", "vae.dim=8")
    assert base == settings("vqvae_ema", "vae.rate_bits_per_token=3", "vae.beta=1", "vae.free_bits=0.1")


def test_seeds_of_quantizer_and_network_are_separate(make_context: Callable[..., Context]) -> None:
    def state(*overrides: str) -> dict[str, Tensor]:
        context = make_context("gumbel", *overrides)
        return make_joint(context.config, context.info).state_dict()

    base, other = state(), state("quantizer.seed=5")
    changed = {key for key in base if not torch.equal(base[key], other[key])}
    assert changed == {"grids.quantizer.weight"}


def test_reported_error_is_summed_over_pixels_and_averaged_over_images(make_context: Callable[..., Context]) -> None:
    context = make_context("vqvae_ema")
    model = make_joint(context.config, context.info).eval()
    images = context.data.validation.images
    task = JointTask(model, images, images, 10)
    score, metrics = task.validate(model)
    x = images.float() / 255
    with torch.no_grad():
        logits = model.decoder.logits(model.codec().embed(model.codes(model.encode(x))))
    assert score == metrics["reconstruction"]
    assert score == pytest.approx(float(reconstruction_loss(logits, x, "mse").mean()), rel=1e-5)
