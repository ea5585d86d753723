"""Models of diffusers as the pipeline sees them, against the models themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from geovq.errors import ConfigError
from geovq.geometry.metric import token_metrics
from geovq.models.autoencoder import decoder_of, encoded
from geovq.models.pretrained import KINDS, PretrainedAutoencoder
from small_autoencoders import SHAPES, built, saved

pytest.importorskip("diffusers")


def loaded(folder: Path, image_shape: tuple[int, int, int]) -> tuple[PretrainedAutoencoder, Any]:
    settings = SimpleNamespace(download=False, **PretrainedAutoencoder.filled({"path": str(folder)}))
    autoencoder = PretrainedAutoencoder(image_shape, settings.architecture)
    autoencoder.load_state_dict(PretrainedAutoencoder.weights_of(settings))
    return autoencoder.requires_grad_(False).eval(), settings


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_latents_are_those_of_the_model(small_autoencoder: Callable[[str], Path], kind: str) -> None:
    import diffusers

    folder = small_autoencoder(kind)
    model = getattr(diffusers, kind).from_pretrained(folder).eval()
    channels = model.config.in_channels
    autoencoder, settings = loaded(folder, (channels, 32, 32))
    assert autoencoder.latents_of(settings, (channels, 32, 32)) == SHAPES[kind]
    x = torch.rand(3, channels, 32, 32)
    with torch.no_grad():
        mean, log_variance = encoded(autoencoder, x)
        found = model.encode(2 * x - 1)
        latents = found.latent_dist.mean if kind == "AutoencoderKL" else getattr(found, "latents", None)
        latents = found.latent if latents is None else latents
        how = {"force_not_quantize": True} if kind == "VQModel" else {}
        images = (model.decode(latents, **how).sample / 2 + 0.5).clamp(0, 1)
        scale, shift = model.config.scaling_factor, getattr(model.config, "shift_factor", None) or 0
        torch.testing.assert_close(mean, (latents - shift) * scale, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(autoencoder.decode(mean), images, atol=1e-5, rtol=1e-5)
        assert (log_variance is not None) == (kind == "AutoencoderKL")
        if log_variance is not None:
            torch.testing.assert_close(log_variance, (found.latent_dist.var * scale**2).log(), atol=1e-5, rtol=1e-5)
        assert images.std() > 0.05  # and not one colour
        logits = decoder_of(autoencoder).logits(mean)
        torch.testing.assert_close(torch.sigmoid(logits), images, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_metric_tensors_are_exact_in_both_modes(small_autoencoder: Callable[[str], Path], kind: str) -> None:
    autoencoder, _ = loaded(small_autoencoder(kind), (1, 16, 16))
    with torch.no_grad():
        mean, _ = encoded(autoencoder, torch.rand(1, 1, 16, 16))
    forwards = token_metrics(autoencoder.decoder, mean, method="exact")
    backwards = token_metrics(autoencoder.decoder, mean, n_probes=16 * 16, precision="32")  # a probe per pixel
    assert forwards.abs().max() > 0
    torch.testing.assert_close(forwards, backwards, rtol=1e-3, atol=1e-5 * float(forwards.abs().max()))


def test_per_channel_statistics_of_latents_count(tmp_path: Path) -> None:
    changes = {"latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [1.0, 2.0, 4.0, 8.0], "shift_factor": None}
    folder = saved(built("AutoencoderKL", **changes), tmp_path)
    plain = saved(built("AutoencoderKL", scaling_factor=1.0, shift_factor=None), tmp_path / "plain")
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        (autoencoder, _), (other, _) = loaded(folder, (3, 32, 32)), loaded(plain, (3, 32, 32))
        mean, raw = encoded(autoencoder, x)[0], encoded(other, x)[0]
        torch.testing.assert_close(mean[:, 3], (raw[:, 3] - 4) * 0.5 / 8)
        torch.testing.assert_close(autoencoder.decode(mean), other.decode(raw), atol=1e-5, rtol=1e-5)


def test_grey_images_are_repeated_and_decoded_to_the_mean_over_colours(
    small_autoencoder: Callable[[str], Path],
) -> None:
    folder = small_autoencoder("AutoencoderKL")
    (grey, _), (coloured, _) = loaded(folder, (1, 32, 32)), loaded(folder, (3, 32, 32))
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        z = encoded(grey, x)[0]
        torch.testing.assert_close(z, encoded(coloured, x.expand(-1, 3, -1, -1))[0])
        mean = torch.sigmoid(coloured.decoder.logits(z)).mean(1, keepdim=True)
        inside = (coloured.decode(z) > 0).all(1, keepdim=True) & (coloured.decode(z) < 1).all(1, keepdim=True)
        assert inside.any()
        torch.testing.assert_close(grey.decode(z)[inside], mean[inside], atol=1e-5, rtol=1e-5)


def test_it_stays_in_evaluation_mode(small_autoencoder: Callable[[str], Path]) -> None:
    autoencoder, _ = loaded(small_autoencoder("AutoencoderKL"), (1, 32, 32))
    assert not any(each.training for each in autoencoder.train().modules())
    assert not any(each.training for each in autoencoder.decoder.train().modules())


def test_pixels_beyond_black_and_white_learn_all_the_same(small_autoencoder: Callable[[str], Path]) -> None:
    autoencoder, _ = loaded(small_autoencoder("AutoencoderKL"), (1, 32, 32))
    z = (30 * torch.randn(1, *SHAPES["AutoencoderKL"])).requires_grad_()
    images = autoencoder.decode(z)
    cut = (images == 0) | (images == 1)
    assert cut.float().mean() > 0.05
    weight = cut.float() * torch.rand_like(images)
    (dead,) = torch.autograd.grad((images * weight).sum(), z)
    (learning,) = torch.autograd.grad((torch.sigmoid(autoencoder.decoder.logits(z)) * weight).sum(), z)
    assert dead.abs().max() == 0
    assert learning.abs().max() > 1e-6


@pytest.mark.parametrize("error", [NotImplementedError(), KeyError("width"), ValueError("no such\nblock")])
def test_whatever_a_constructor_raises_is_one_line(
    small_autoencoder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import diffusers

    folder = small_autoencoder("AutoencoderTiny")

    def fails(config: object) -> None:
        raise error

    monkeypatch.setattr(diffusers.AutoencoderTiny, "from_config", fails)
    with pytest.raises(
        ConfigError, match=r"vae\.architecture: .* AutoencoderTiny of it \(.+\); save the model"
    ) as told:
        loaded(folder, (3, 32, 32))
    assert len(str(told.value).splitlines()) == 1
