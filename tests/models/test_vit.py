from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from geovq.configuration.config import validate
from geovq.errors import ConfigError
from geovq.geometry.metric import full_metric, token_metrics
from geovq.geometry.symmetric import pack_symmetric
from geovq.models.vit import PatchDecoder, Vit, VitVAE


@pytest.mark.parametrize(
    ("image", "grid"),
    [((1, 28, 28), 4), ((1, 28, 28), 7), ((3, 32, 32), 8), ((1, 8, 8), 4), ((1, 8, 8), 1), ((3, 24, 40), 4)],
)
def test_shapes_of_latents_and_images(image: tuple[int, int, int], grid: int) -> None:
    vae, x = VitVAE(image, grid, 3, layers=1, width=8, heads=2), torch.rand(2, *image)
    posterior = vae.encode(x)
    assert posterior.mean.shape == posterior.log_variance.shape == (2, *vae.latent_shape) == (2, 3, grid, grid)
    assert vae.decode(posterior.mean).shape == x.shape
    torch.testing.assert_close(torch.sigmoid(vae.decoder.logits(posterior.mean)), vae.decode(posterior.mean))


def test_a_token_is_its_patch() -> None:
    """Without blocks each token sees, and makes, the pixels at its own place alone."""
    vae, x = VitVAE((2, 6, 4), 2, 3, layers=0, width=8, heads=2), torch.rand(1, 2, 6, 4)
    changed = x.clone()
    changed[..., 3:, :2] = 1 - changed[..., 3:, :2]  # row 1, column 0
    moved = (vae.encode(x).mean != vae.encode(changed).mean).any(1)[0]
    assert moved.tolist() == [[False, False], [True, False]]
    z, other = torch.randn(2, 1, 3, 2, 2)
    other = torch.where(torch.tensor([[False, True], [False, False]]), other, z)  # row 0, column 1
    assert (vae.decode(z) != vae.decode(other))[0].all(0).nonzero().tolist() == [
        [r, c] for r in range(3) for c in (2, 3)
    ]


def test_tokens_are_told_apart_by_their_places() -> None:
    vae = VitVAE((1, 8, 8), 2, 3, layers=1, width=8, heads=2)
    z = torch.randn(1, 3, 1, 1).expand(1, 3, 2, 2)
    patches = vae.decode(z).unfold(2, 4, 4).unfold(3, 4, 4).reshape(4, 16)
    assert (patches[0] - patches[1]).abs().max() > 1e-4


def test_metric_tensors_are_those_of_finite_differences_in_their_own_image() -> None:
    torch.manual_seed(0)
    decoder: Any = PatchDecoder(Vit((1, 8, 8), 2, 2, 16, 2), 3).double().eval().requires_grad_(False)
    z = 2 * torch.randn(2, 3, 2, 2, dtype=torch.float64)
    exact = token_metrics(decoder, z, method="exact").double()
    step, tokens = 1e-2, []  # ViT's attention takes its softmax in float32: a smaller step would measure rounding
    for image in z:
        columns = [
            (decoder((image + step * e)[None]) - decoder((image - step * e)[None])).flatten() / (2 * step)
            for e in torch.eye(12, dtype=torch.float64).view(12, 3, 2, 2)
        ]
        jacobian = torch.stack(columns).view(3, 4, -1).transpose(0, 1)  # (tokens, d, pixels)
        tokens.append(pack_symmetric(jacobian @ jacobian.mT))
    expected = torch.cat(tokens)
    torch.testing.assert_close(exact, expected, rtol=2e-3, atol=1e-4 * float(expected.abs().max()))
    whole = full_metric(decoder, z[0]).view(4, 3, 4, 3)
    blocks = torch.stack([whole[t, :, t] for t in range(4)]).double()
    torch.testing.assert_close(pack_symmetric(blocks), exact[:4], rtol=1e-5, atol=1e-8)
    sketch = token_metrics(decoder, z.repeat(60, 1, 1, 1), method="sketch", n_probes=32).double()
    assert float((sketch.view(60, 8, -1).mean(0) - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("vae.grid=3",), "vae.grid=3: vae=vit cuts images into equal patches, and 8x8 allow 1, 2, 4, 8; take one"),
        (("vae.width=10", "vae.heads=4"), "vae.width=10 must be a multiple of vae.heads=4"),
        (("quantizer=vqvae2", "vae.grid=2", "vae.width=8"), "vae.width=8: there are at most 8 channels on a coarse"),
    ],
)
def test_what_does_not_fit_is_told_before_any_compute(
    compose: Callable[..., Any], overrides: tuple[str, ...], message: str
) -> None:
    from geovq.commands.train import open_data

    with pytest.raises(ConfigError, match=message):
        open_data(validate(compose("vae=vit", "quantizer.K=16", "geo.k=8", *overrides)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, compose: Callable[..., Any]) -> Callable[..., Any]:
    from geovq.commands.train import open_data
    from geovq.pipeline.runner import Runner
    from geovq.pipeline.stage import Context
    from tiny import TINY

    root = tmp_path_factory.mktemp("vit")
    ours = [each for each in TINY if each != "vae.max_width=16"]

    def run(*overrides: str) -> dict[str, Any]:
        given = ("vae=vit", *ours, "vae.layers=1", "vae.heads=2", "tracking=none", f"paths.root={root}", *overrides)
        config = validate(compose(*given))
        results = Runner(Context(config, *open_data(config))).run()
        return {name: result.artifact for name, result in results.items()}

    return run


@pytest.mark.parametrize(
    "overrides",
    [
        ("quantizer=geodesic", "transformer=none", "finetune=both", "evaluation.geodesic_codewords=0"),
        ("quantizer=vqvae_ema", "assign=search", "transformer=none"),
        ("quantizer=vqvae2", "transformer=none"),
    ],
)
def test_the_whole_way_of_the_data(run: Callable[..., Any], overrides: tuple[str, ...]) -> None:
    artifacts = run(*overrides)
    metrics = artifacts["report"].json("metrics")
    assert metrics["psnr"] > 5
    weights = artifacts["joint" if "joint" in artifacts else "vae"].tensors("weights")
    assert any("blocks.layers.0" in name for name in weights)
