from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from geovq.assignment.search import search_codes
from geovq.commands.sample import SampleSettings
from geovq.commands.sample_sheet import draw_all
from geovq.configuration.config import validate
from geovq.configuration.parse import parse
from geovq.errors import ConfigError, InputError
from geovq.geometry.metric import token_metrics
from geovq.models.condition import ClassNetworks, given, withheld
from geovq.models.networks import Convolutions, Networks
from geovq.models.vit import Vit
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.metric_tensors import load_metric_tensors
from geovq.pipeline.stages.networks import final_codes, load_decoder, load_final_decoder

IMAGE, LABELS = (1, 8, 8), torch.tensor([2, 0, -1, 1, 2])
NETWORKS: dict[str, Networks] = {
    "convolutions": Convolutions(IMAGE, 2, 8, 16, 1, "group"),
    "vit": Vit(IMAGE, 2, 1, 8, 2),
}
BOTH = pytest.mark.parametrize("condition", ["concat", "film"])
EACH = pytest.mark.parametrize("networks", NETWORKS)


def make(networks: str, condition: Any) -> Any:
    """A decoder whose classes differ, as after training."""
    torch.manual_seed(0)
    decoder = ClassNetworks(NETWORKS[networks], condition, 3).decoder(4)
    nn.init.normal_(decoder.classes.weight)  # type: ignore[union-attr, arg-type]
    return decoder.eval().requires_grad_(False)


@EACH
def test_film_is_the_identity_at_first_and_every_class_learns(networks: str) -> None:
    decoder: Any = ClassNetworks(NETWORKS[networks], "film", 3).decoder(4)
    z = torch.randn(5, 4, 2, 2)
    assert torch.equal(decoder(z, LABELS), decoder.decoder(z))
    decoder(z, LABELS).square().sum().backward()
    assert (decoder.classes.weight.grad.abs().sum(1) > 0).all()


@BOTH
@EACH
def test_a_batch_decodes_as_its_images_do_each_with_its_class(networks: str, condition: str) -> None:
    decoder, z = make(networks, condition), torch.randn(5, 4, 2, 2)
    together = given(decoder, LABELS)(z)
    for image in range(5):
        alone = given(decoder, LABELS[image : image + 1])(z[image : image + 1])
        torch.testing.assert_close(together[image : image + 1], alone)
    torch.testing.assert_close(decode(given(decoder, LABELS), z, torch.device("cpu"), batch_size=2), together)
    torch.testing.assert_close(torch.sigmoid(given(decoder, LABELS).logits(z)), together)
    same = decoder.given(torch.tensor([2]))(z[:1].expand(2, -1, -1, -1))  # one class holds for any number of latents
    torch.testing.assert_close(same[0], same[1])
    others = [given(decoder, torch.tensor([label]))(z[:1]) for label in (-1, 0, 1, 2)]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(others) for b in others[:i])
    torch.testing.assert_close(given(decoder, None)(z[:1]), others[0])


def test_labels_of_other_images_are_refused() -> None:
    with pytest.raises(InputError, match="3 latents for the classes of 5 images"):
        make("vit", "film").given(LABELS)(torch.randn(3, 4, 2, 2))
    with pytest.raises(TypeError):
        make("vit", "film")(torch.randn(3, 4, 2, 2))


@BOTH
@EACH
@pytest.mark.parametrize("method", ["exact", "sketch"])
def test_the_metric_tensors_of_an_image_use_its_class(networks: str, condition: str, method: Any) -> None:
    decoder, z = make(networks, condition), torch.randn(5, 4, 2, 2)
    options: dict[str, Any] = {"method": method, "n_probes": 4, "precision": "32"}
    together = token_metrics(given(decoder, LABELS), z, batch_size=2, **options)
    if method == "exact":
        for image in range(5):
            alone = token_metrics(given(decoder, LABELS[image : image + 1]), z[image : image + 1], **options)
            torch.testing.assert_close(together[4 * image : 4 * image + 4], alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together, token_metrics(given(decoder, LABELS), z, **options), rtol=1e-4, atol=1e-6)
    other = token_metrics(given(decoder, torch.tensor([0, 1, 2, -1, 0])), z, **options)
    assert (together - other).abs().amax(1).view(5, 4).amin() > 1e-7


@BOTH
def test_search_asks_the_decoder_of_each_image(condition: str) -> None:
    decoder, n = make("convolutions", condition), 12
    labels, codewords = torch.arange(n) % 3, torch.randn(6, 4)
    truth = torch.randint(6, (n, 2, 2))
    images = given(decoder, labels)(codewords[truth].permute(0, 3, 1, 2))
    start = truth.clone()
    start[:, 0, 0] = (start[:, 0, 0] + 1) % 6
    metrics = token_metrics(given(decoder, labels), codewords[start].permute(0, 3, 1, 2), method="exact")
    found = search_codes(
        given(decoder, labels), images, start, codewords, metrics, alternatives=[truth], n_candidates=6, precision="32"
    )
    assert torch.equal(found.codes, truth)
    assert float(found.cost_after.max()) < 1e-6


def test_a_share_of_labels_is_withheld() -> None:
    labels = torch.arange(3).repeat(4000)
    kept = withheld(labels, 0.25)
    assert kept is not None
    assert float((kept == -1).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(kept[kept >= 0], labels[kept >= 0])
    assert withheld(None, 0.25) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("geo.length=chord",), "geo.length=chord asks the decoder between tokens of different images"),
        (("vae.condition_dropout=0",), "vae.condition_dropout=0.*greater than 0"),
    ],
)
def test_what_does_not_fit_is_told_before_any_compute(
    compose: Callable[..., Any], overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(compose("vae.condition=film", *overrides))


def test_without_a_condition_keys_do_not_know_of_it(compose: Callable[..., Any]) -> None:
    def dumped(*overrides: str) -> dict[str, Any]:
        return validate(compose(*overrides)).vae.dumped()

    assert not [name for name in dumped() if "condition" in name]
    assert dumped() == dumped("vae.condition_dropout=0.5")
    assert dumped("vae.condition=film") != dumped("vae.condition=film", "vae.condition_dropout=0.5")


@pytest.mark.parametrize(
    "overrides",
    [
        ("vae.condition=concat", "quantizer=pullback", "assign=search", "finetune=both"),
        ("vae.condition=film", "quantizer=vqvae_ema", "assign=sequential", "transformer=none"),
        ("vae.condition=film", "quantizer=vqvae2", "assign=search", "transformer=none"),
    ],
)
def test_the_whole_way_of_the_data(
    tmp_path_factory: pytest.TempPathFactory,
    make_runner: Callable[..., Any],
    compose: Callable[..., Any],
    overrides: tuple[str, ...],
) -> None:
    root = tmp_path_factory.getbasetemp() / "condition"
    runner = make_runner(root, "evaluation.geodesic_codewords=0", *overrides)
    artifacts, context = {name: result.artifact for name, result in runner.run().items()}, runner.context
    labels, codes = context.data.test.labels, load_codes(final_codes(artifacts), "test")
    latents = load_codec(final_codes(artifacts)).embed(codes)
    decoder: Any = load_final_decoder(context, artifacts)
    images = context.data.test.images.float() / 255

    def psnr(classes: torch.Tensor) -> float:
        error = (decode(decoder.given(classes), latents, context.device) - images).square().flatten(1).mean(1)
        return float((-10 * error.log10()).mean())

    assert artifacts["report"].json("metrics")["psnr"] == pytest.approx(psnr(labels), abs=1e-3)
    assert psnr(labels) > psnr((labels + 1) % 10)
    assert artifacts["report"].path("classes.png").is_file()
    if "metric_tensors" in artifacts and context.config.geo.metric == "sketch":
        mean = artifacts["latents"].tensors("train")["mean"]
        trained: Any = load_decoder(context, artifacts)
        asked = {"n_probes": context.config.geo.n_probes, "seed": context.config.geo.seed, "precision": "32"}
        expected = token_metrics(trained.given(context.data.train.labels), mean, method="sketch", **asked)
        torch.testing.assert_close(load_metric_tensors(artifacts, "train").float(), expected, rtol=0.01, atol=1e-4)
    if "samples" in artifacts:
        drawn = artifacts["samples"].tensors("measured")
        again = decode(
            decoder.given(drawn["labels"]), load_codec(final_codes(artifacts)).embed(drawn["codes"]), context.device
        )
        assert torch.equal((again * 255).round().to(torch.uint8), drawn["images"])
        settings = parse(SampleSettings, compose(*(f"paths.root={root}", "complete=upper", "n=2"), name="sample"))
        _, completed = draw_all(runner, settings, context.info.class_names, None)
        assert completed["codes_temperature_1"].shape == (20, *codes.shape[1:])


def test_images_without_labels_are_refused(compose: Callable[..., Any]) -> None:
    from dataclasses import replace

    from geovq.commands.train import open_data
    from geovq.configuration.checks import check

    config = validate(compose("vae.condition=film"))
    _, info = open_data(config)
    with pytest.raises(ConfigError, match=r"vae\.condition=film: the images have no labels"):
        check(config, replace(info, n_classes=0, class_names=()))
