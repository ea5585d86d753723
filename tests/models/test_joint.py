"""All eight jointly trained autoencoders by the same questions."""

from __future__ import annotations

from math import log2, prod
from typing import Any

import pytest
import torch
from torch import Tensor

from geovq.models.codec import Codec
from geovq.models.joint import JointAutoencoder, level_counts, reconstruct
from geovq.models.layers import Decoder, Encoder, level_sizes
from geovq.models.networks import Convolutions, Networks
from geovq.models.vae import VAE, reconstruction_loss
from geovq.models.vit import Vit
from quantizer_classes import CLASSES, JOINT

MOVING = {"beta": 0.25, "decay": 0.9, "restart": 0.1}
NATS = {"kl_weight": 0.1}
OWN: dict[str, dict[str, Any]] = {
    "vqvae": MOVING,
    "vqvae_ema": MOVING,
    "vqvae_rotation": {**MOVING, "rotation": True},
    "gumbel": {"temperature_start": 1.0, "temperature_end": 0.1, "kl_ramp": 0.5, "gain": 6.0, "scale": 10.0} | NATS,
    "residual_vq": {**MOVING, "n_stages": 3},
    "product_vq": {**MOVING, "n_parts": 2},
    "fsq": {"n_levels": 3, "levels": None},
    "vqvae2": MOVING,
}
IMAGE = (1, 12, 12)


def make(
    name: str,
    K: int = 64,
    grid: int = 3,
    image: tuple[int, int, int] = IMAGE,
    loss: str = "mse",
    networks: Networks | None = None,
) -> JointAutoencoder:
    torch.manual_seed(0)
    kind = CLASSES[name]
    size = {"K": K} if name == "fsq" else {"dim": 4, "K": K} if "n_" in str(OWN[name]) else {"dim": 4, "n_codes": K}
    quantizers = [kind(**size, **OWN[name]) for _ in range(kind.grids)]
    return JointAutoencoder(quantizers, networks or Convolutions(image, grid, 8, 16, 1, "group"), loss)


def smooth_images(n: int = 64, side: int = 12) -> Tensor:
    """Random blobs: images that a handful of codes can tell apart."""
    generator = torch.Generator().manual_seed(3)
    place = torch.rand(n, 2, 1, 1, generator=generator)
    rows, columns = torch.linspace(0, 1, side)[:, None], torch.linspace(0, 1, side)[None]
    return torch.exp(-20 * ((rows - place[:, 0]) ** 2 + (columns - place[:, 1]) ** 2))[:, None]


def trained(name: str, steps: int = 5) -> JointAutoencoder:
    model, x = make(name).train(), smooth_images()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        torch.manual_seed(step)
        loss, _ = model(x, step / steps)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="module", params=JOINT)
def named(request: pytest.FixtureRequest) -> tuple[str, JointAutoencoder]:
    return request.param, trained(request.param)


def test_codes_embed_to_what_the_decoder_is_fed(named: tuple[str, JointAutoencoder]) -> None:
    _, model = named
    model.eval()
    x = smooth_images(20)
    fed: list[Tensor] = []
    hook = model.decoder.layers[0].register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0]))
    with torch.no_grad():
        model(x, 1.0)
        hook.remove()
        latents = model.encode(x)
        codes, codec = model.codes(latents), model.codec()
        assert latents.shape == (20, *model.latent_shape)
        assert codes.dtype == torch.int64
        assert codes.shape == (20, *codec.shape)
        torch.testing.assert_close(codec.embed(codes), fed[0], rtol=0, atol=0)
        image = model.decoder(fed[0])
        assert image.shape == x.shape
        assert 0 <= image.min() <= image.max() <= 1


def test_every_code_is_below_its_size_and_a_token_has_at_most_k_of_them(named: tuple[str, JointAutoencoder]) -> None:
    name, model = named
    codec = model.codec()
    codes = model.codes(model.encode(smooth_images(20))).reshape(20, -1)
    sizes = torch.tensor(codec.sizes)
    assert (codes >= 0).all()
    assert (codes < sizes).all()
    for level in codec.levels:
        assert prod(level.sizes) == 64
    assert sum(log2(size) for size in codec.sizes) == pytest.approx(6 * (9 + (4 if name == "vqvae2" else 0)))


def test_codecs_survive_storage(named: tuple[str, JointAutoencoder]) -> None:
    _, model = named
    codec = model.codec()
    codes = model.codes(model.encode(smooth_images(5)))
    assert torch.equal(Codec.from_tensors(codec.to_tensors()).embed(codes), codec.embed(codes))


def test_evaluation_is_repeatable_and_an_image_does_not_depend_on_its_batch(
    named: tuple[str, JointAutoencoder],
) -> None:
    _, model = named
    model.eval()
    x = smooth_images(10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    together = model.encode(x)
    torch.testing.assert_close(together[4:5], model.encode(x[4:5]), rtol=1e-4, atol=1e-5)
    first, second = model(x, 1.0)[0], model(x, 1.0)[0]
    assert torch.equal(first, second)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_every_weight_gets_a_gradient(named: tuple[str, JointAutoencoder]) -> None:
    name, _ = named
    model = trained(name).train()
    model(smooth_images(), 0.5)[0].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.grids.encoder.parameters())  # type: ignore[union-attr]


def test_the_loss_is_its_two_terms_in_the_stated_units(named: tuple[str, JointAutoencoder]) -> None:
    name, model = named
    model.eval()
    x = smooth_images(16)
    with torch.no_grad():
        loss, scalars = model(x, 1.0)
        logits, codes = reconstruct(model, x)
        latents, codec = model.encode(x), model.codec()
    reconstruction = reconstruction_loss(logits, x, "mse").mean()
    assert float(scalars["reconstruction"]) == pytest.approx(float(reconstruction), rel=1e-4)
    assert float(loss) == pytest.approx(float(scalars["reconstruction"] + scalars["penalty"]), rel=1e-5)
    gap = (latents - codec.embed(codes)).square().mean()
    pixels = 144
    if name in ("vqvae_ema", "vqvae_rotation", "product_vq"):
        assert float(scalars["penalty"]) == pytest.approx(0.1 * pixels * 0.25 * float(gap), rel=1e-3)
    elif name == "vqvae":
        assert float(scalars["penalty"]) == pytest.approx(0.1 * pixels * 1.25 * float(gap), rel=1e-3)
    elif name == "fsq":
        assert float(scalars["penalty"]) == 0
    (counts,) = level_counts(codes, codec)[-1]
    assert float(scalars["usage"]) == pytest.approx(float((counts > 0).sum()) / 64)


@pytest.mark.parametrize("name", JOINT)
def test_training_lowers_the_reconstruction_error_of_hard_codes(name: str) -> None:
    x = smooth_images()

    def error(model: JointAutoencoder) -> float:
        with torch.no_grad():
            return float(reconstruction_loss(reconstruct(model.eval(), x)[0], x, "mse").mean())

    constant = float((x - x.mean(0)).square().flatten(1).sum(1).mean())
    assert error(trained(name, 60)) < 0.8 * min(error(trained(name, 1)), constant)


def test_the_codebook_of_exponential_means_is_in_full_use() -> None:
    model = trained("vqvae_ema", 60).eval()
    (counts,) = level_counts(model.codes(model.encode(smooth_images(500))), model.codec())[0]
    assert float((counts > 0).float().mean()) >= 0.9


@pytest.mark.parametrize("grid", [1, 2, 3, 6, 12])
def test_two_grids_of_any_size_give_back_the_coarse_latents(grid: int) -> None:
    model = make("vqvae2", grid=grid)
    grids = model.grids
    top = torch.randn(2, 4, (grid + 1) // 2, (grid + 1) // 2)
    assert torch.equal(grids._pick(grids._repeat(top)), top)  # type: ignore[operator,union-attr]
    codes = model.codes(model.encode(torch.rand(2, *IMAGE)))
    assert codes.shape == (2, grid**2 + ((grid + 1) // 2) ** 2)


def test_fine_latents_depend_on_the_coarse_codes() -> None:
    model = make("vqvae2").eval()
    x = smooth_images(4)
    before = model.encode(x)
    with torch.no_grad():
        model.grids.top.table.detach().add_(1.0)  # type: ignore[union-attr,operator]
    after = model.encode(x)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_encoder_and_decoder_are_those_of_the_vae() -> None:
    model, vae = make("vqvae_ema"), VAE(IMAGE, 3, 4, 8, 16, 1, "group")
    shapes = {key: value.shape for key, value in vae.decoder.state_dict().items()}
    assert {key: value.shape for key, value in model.decoder.state_dict().items()} == shapes
    encoder = {key: value.shape for key, value in vae.encoder.state_dict().items()}
    joint = {key: value.shape for key, value in model.grids.encoder.state_dict().items()}
    assert encoder.keys() == joint.keys()
    assert {key for key in encoder if encoder[key] != joint[key]} == {
        key for key in encoder if encoder[key][0] == 8 and joint[key][0] == 4
    }


def test_codes_do_not_change_under_reduced_precision_around_the_quantizer() -> None:
    model = trained("vqvae_ema").eval()
    latents = model.encode(smooth_images(8))
    with torch.autocast("cpu", torch.bfloat16):
        quantized = model.grids.quantizer(latents.permute(0, 2, 3, 1).reshape(-1, 4), 1.0)  # type: ignore[operator,union-attr]
    assert quantized.vectors.dtype == torch.float32
    assert torch.equal(quantized.codes.reshape(8, 3, 3), model.codes(latents))


@pytest.mark.parametrize("name", JOINT)
def test_transformer_blocks_are_trained_by_all_of_them(name: str) -> None:
    model, x = make(name, networks=Vit(IMAGE, 3, 1, 16, 2)).train(), smooth_images()
    model(x, 0.5)[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.decoder.parameters())
    with torch.no_grad():
        logits, _ = reconstruct(model.eval(), x)
    assert logits.shape == x.shape


@pytest.mark.parametrize("name", ["fsq", "vqvae_ema", "vqvae2"])
def test_names_and_initial_weights_are_those_of_encoder_then_decoder(name: str) -> None:
    """Artifacts of joint quantizers hold them: neither may depend on who makes the networks."""
    model, sizes = make(name), level_sizes(IMAGE[1:], (3, 3))
    torch.manual_seed(0)
    two = CLASSES[name].grids == 2
    for _ in range(CLASSES[name].grids):  # as ``make`` draws them before
        CLASSES[name](**{"K": 64} if name == "fsq" else {"dim": 4, "n_codes": 64}, **OWN[name])
    encoder = Encoder(1, 16 if two else model.grids.latent_shape[0], sizes, 8, 16, 1, "group")
    expected = {f"grids.encoder.{key}": value for key, value in encoder.state_dict().items()}
    if not two:
        decoder = Decoder(1, model.latent_shape[0], sizes, 8, 16, 1, "group")
        expected |= {f"decoder.{key}": value for key, value in decoder.state_dict().items()}
    found = model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
