"""Losses for images that look real, through the pipeline on digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geovq.configuration.checks import check
from geovq.configuration.config import validate
from geovq.data.types import DataInfo
from geovq.errors import ConfigError, TrainingError
from geovq.models import frechet_loss
from geovq.models.codec import flat_codec
from geovq.pipeline.stages.codes import load_codec
from geovq.pipeline.stages.finetune import CodesToImages, SharpTuning

QUICK = ("quantizer=euclidean", "geo=euclidean", "transformer=none", "evaluation.geodesic_codewords=0")


@pytest.mark.parametrize("method", [QUICK, pytest.param(("quantizer=vqvae2", *QUICK[1:]), marks=pytest.mark.slow)])
def test_tuning_moves_decoder_and_codewords_and_says_what_it_cost(
    tmp_path: Path,
    begin: Callable[[Path], Path],
    make_runner: Callable[..., Any],
    method: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frechet_loss, "MEMORY", 500)
    tuning = ("finetune=adversarial", "finetune.steps=20", "finetune.learning_rate=3e-3")
    runner = make_runner(begin(tmp_path), *method, *tuning, "finetune.frechet_weight=0.1")
    artifacts = runner.obtain(("finetune", "codes", "report"))
    summary = artifacts["finetune"].json("summary")
    for name in ("frechet", "reconstruction", "perceptual"):
        assert summary[f"validation_{name}"] > 0
        assert summary[f"validation_{name}_before"] > 0
    assert summary["validation_frechet"] < summary["validation_frechet_before"]
    told = [record["frechet"] for record in artifacts["finetune"].json("history") if "frechet" in record]
    assert told[0] == 0 < told[-1]  # counts from the time that enough images have been seen
    tables = [load_codec(artifacts[stage]).levels[-1].tables for stage in ("codes", "finetune")]
    assert not torch.equal(*tables)
    assert "rfid_digits_cnn" in artifacts["report"].json("metrics")


@pytest.mark.parametrize("loss", ["perceptual+adversarial", pytest.param("perceptual", marks=pytest.mark.slow)])
def test_an_autoencoder_is_trained_with_it_from_the_start_and_loads_without_it(
    tmp_path: Path, make_runner: Callable[..., Any], loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = "vae.image_loss.frechet_weight=0.5"
    runner = make_runner(tmp_path, *QUICK, f"vae.loss={loss}", weight, "vae.rate_bits_per_token=null")
    artifacts = runner.obtain(("vae", "latents"))
    assert "frechet_weight is without effect" in capsys.readouterr().err  # so few images are seen here
    assert not [name for name in artifacts["vae"].tensors("weights") if "discriminator" in name]
    logged = {name for record in artifacts["vae"].json("history") for name in record}
    assert {"perceptual", "reconstruction"} <= logged
    assert ("discriminator" in logged) == ("adversarial" in loss)
    assert ("validation_frechet" in logged) == ("adversarial" in loss)  # what the weights are kept by


class Nothing(nn.Module):
    """A decoder and a loss that compute nothing."""

    def logits(self, z: Tensor) -> Tensor:
        return z

    def forward(self, logits: Tensor, x: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return logits.sum(), {}


def test_what_is_kept_is_the_running_mean_of_the_weights() -> None:
    codes, tables = torch.zeros(1, 1, 1, dtype=torch.long), [torch.full((2, 3), value) for value in (1.0, 5.0, 7.0)]
    network = CodesToImages(flat_codec(tables[0], (1, 1)), Nothing(), "both")
    model = SharpTuning(network, Nothing(), memory=4.0)
    for table in tables:
        network.tables[0].data = table.clone()[None]
        model(codes, torch.zeros(1), 0.0)
    torch.testing.assert_close(model.kept.tables[0], torch.full((1, 2, 3), (1.0 * 0.75 + 5 * 0.25) * 0.75 + 7 * 0.25))
    model.eval()(codes, torch.zeros(1), 0.0)
    torch.testing.assert_close(model.kept.codec().levels[0].tables[0, 0, 0], torch.tensor(3.25))
    assert not any(parameter.requires_grad for parameter in model.kept.parameters())
    assert SharpTuning(network, Nothing(), memory=1.0).kept is network


def test_a_loss_that_is_not_finite_stops_it(
    tmp_path: Path, begin: Callable[[Path], Path], make_runner: Callable[..., Any]
) -> None:
    diverging = ("finetune=adversarial", "finetune.steps=20", "finetune.discriminator_rate=1e30")
    runner = make_runner(begin(tmp_path), *QUICK, *diverging)
    with pytest.raises(TrainingError, match="finetune: the loss is not finite at step"):
        runner.obtain(("finetune",))


def test_what_it_needs_is_asked_for_before_any_compute(compose: Callable[..., Any]) -> None:
    bare = DataInfo("bare", 1000, 200, 1, 28, 28, 0, (), "0")
    for words, told in (
        (("finetune=adversarial",), "finetune.features=classifier: the images have fewer than two classes"),
        (("vae.loss=perceptual",), "vae.image_loss.features=classifier: the images have fewer than two classes"),
        (("finetune=adversarial", "finetune.features=lpips"), "finetune.features=lpips: evaluation.lpips_weights=null"),
    ):
        with pytest.raises(ConfigError, match=told):
            check(validate(compose(*words)), bare)
    with pytest.raises(ConfigError, match=r"vae.loss=perceptual: .*finetune=adversarial"):
        validate(compose("quantizer=vqvae_ema", "vae.loss=perceptual"))
