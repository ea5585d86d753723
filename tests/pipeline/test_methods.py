"""Every kind of quantizer, assignment rule and fine-tuning through the whole way of the data, on one small VAE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geovq.errors import ConfigError
from geovq.models.tokens import tokens_of
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.networks import final_codes, load_decoder, load_final_decoder

QUICK = ("transformer=none", "evaluation.geodesic_codewords=0")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, begin: Callable[[Path], Path]) -> Path:
    return begin(tmp_path_factory.mktemp("methods"))


@pytest.fixture(scope="module")
def run(root: Path, make_runner: Callable[..., Any]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """The context and the artifacts of a run, its VAE and metrics shared."""

    def run(*overrides: str) -> tuple[Any, dict[str, Any]]:
        runner = make_runner(root, *overrides)
        return runner.context, {name: result.artifact for name, result in runner.run().items()}

    return run


def test_psnr(context: Any, artifacts: dict[str, Any]) -> tuple[float, float]:
    """Reported, and computed from codes and networks as they are stored."""
    stored = final_codes(artifacts)
    codes = load_codes(stored, "test")
    decoder = load_final_decoder(context, artifacts)
    output = decode(decoder, load_codec(stored).embed(codes), context.device).numpy()
    images = context.data.test.images.numpy() / 255.0
    mse = ((images - output) ** 2).reshape(len(images), -1).mean(axis=1)
    return artifacts["report"].json("metrics")["psnr"], float((-10 * np.log10(mse)).mean())


test_psnr.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "overrides",
    [
        ("quantizer=product",),
        ("quantizer=residual", "quantizer.metric=euclidean", "quantizer.n_stages=2"),
        ("quantizer=scalar", "assign=metric"),
        ("quantizer=vqvae", "vae.dim=1"),
        ("quantizer=fsq", "quantizer.n_levels=1", "assign=search"),
        ("quantizer=vqvae_ema", "assign=search"),
        ("quantizer=gumbel",),
        ("quantizer=residual_vq", "quantizer.n_stages=2", "finetune=both"),
        ("quantizer=vqvae2", "finetune=decoder"),
        ("quantizer=geodesic", "finetune=codebook"),
        ("quantizer=pullback", "assign=sequential", "finetune=both"),
        ("quantizer=whitened", "assign=whitened"),
        pytest.param(("quantizer=random", "assign=euclidean"), marks=pytest.mark.slow),
        pytest.param(("quantizer=residual_vq", "quantizer.K=4294967296"), marks=pytest.mark.slow),
        pytest.param(("quantizer=product_vq",), marks=pytest.mark.slow),
        pytest.param(("quantizer=vqvae_rotation",), marks=pytest.mark.slow),
        pytest.param(("quantizer=geodesic_barycenter",), marks=pytest.mark.slow),
    ],
    ids=lambda overrides: "-".join(part.split("=")[1] for part in overrides),
)
def test_each_method_reports_what_its_codes_decode_to(run: Callable[..., Any], overrides: tuple[str, ...]) -> None:
    context, artifacts = run(*QUICK, *overrides)
    reported, computed = test_psnr(context, artifacts)
    assert reported == pytest.approx(computed, abs=1e-3)
    metrics = artifacts["report"].json("metrics")
    codec = load_codec(artifacts["codes"])
    assert metrics["rate_nominal_bits_per_image"] == pytest.approx(float(np.log2(codec.sizes).sum()))
    assert "rate_prior_bits_per_image" in artifacts["report"].json("omitted")
    if context.config.quantizer.name != "vqvae2":
        assert metrics["rate_nominal_bits_per_image"] <= 16 * np.log2(context.config.quantizer.K) + 1e-6


def test_a_quantizer_of_scores_reports_nothing_of_its_latents(run: Callable[..., Any]) -> None:
    _, artifacts = run(*QUICK, "quantizer=gumbel")
    metrics, omitted = (artifacts["report"].json(name) for name in ("metrics", "omitted"))
    gone = {name for name, reason in omitted.items() if "scores of codewords" in reason}
    assert {
        "psnr_continuous",
        "psnr_quantization",
        "distortion_latent_l2_squared",
        "whitening_gain_predicted_db",
    } <= gone
    assert not gone & (set(metrics) | set(artifacts["report"].tensors("per_image")))
    assert {"psnr", "ssim", "perplexity"} <= set(metrics)
    assert set(artifacts["report"].tensors("pictures")) == {"index", "original", "quantized"}


def test_codes_of_several_slots_go_through_the_prior_and_back(run: Callable[..., Any]) -> None:
    context, artifacts = run("quantizer=product", "evaluation.geodesic_codewords=0")
    codec = load_codec(artifacts["codes"])
    assert len(codec.shape) == 3
    drawn = artifacts["samples"].tensors("measured")["codes"].flatten(1)
    assert (drawn < torch.tensor(codec.sizes)).all()
    metrics = artifacts["report"].json("metrics")
    assert 0 < metrics["rate_prior_bits_per_image"] < 2 * metrics["rate_nominal_bits_per_image"]
    assert context.config.is_joint is False


def test_codes_on_two_grids_go_through_the_prior_and_back(run: Callable[..., Any]) -> None:
    _, artifacts = run("quantizer=vqvae2")
    codec = load_codec(artifacts["codes"])
    assert codec.shape == (4 + 16,)
    assert artifacts["samples"].tensors("measured")["codes"].shape[1:] == codec.shape


@pytest.mark.parametrize("quantizer", ["whitened", "vqvae_ema", "product"])
def test_search_is_never_worse_than_metric_assignment_or_the_own_rule(run: Callable[..., Any], quantizer: str) -> None:
    found, psnr = {}, {}
    for rule in ("own", "metric", "search"):
        _, artifacts = run(*QUICK, f"quantizer={quantizer}", f"assign={rule}")
        per_image = artifacts["report"].tensors("per_image")
        found[rule], psnr[rule] = per_image["mse"].double(), per_image["psnr"].double()
    start = torch.minimum(found["own"], found["metric"])
    assert (found["search"] <= start + 1e-7).all()
    assert found["search"].mean() < start.mean()
    gain = artifacts["report"].json("metrics")["search_gain_db"]
    assert gain == pytest.approx(float((psnr["search"] - torch.maximum(psnr["own"], psnr["metric"])).mean()), abs=1e-3)


@pytest.mark.parametrize("quantizer", ["gumbel", "vqvae2"])
def test_search_of_scores_and_of_two_grids_is_never_worse_than_the_own_codes(
    run: Callable[..., Any], quantizer: str
) -> None:
    per_image = {}
    for rule in ("own", "search"):
        context, artifacts = run(*QUICK, f"quantizer={quantizer}", f"assign={rule}")
        per_image[rule] = artifacts["report"].tensors("per_image")
    assert (per_image["search"]["mse"] <= per_image["own"]["mse"] + 1e-7).all()
    gained = float((per_image["search"]["psnr"].double() - per_image["own"]["psnr"].double()).mean())
    assert gained > 0.05
    assert artifacts["report"].json("metrics")["search_gain_db"] == pytest.approx(gained, abs=1e-3)
    reported, computed = test_psnr(context, artifacts)
    assert reported == pytest.approx(computed, abs=1e-3)


@pytest.mark.parametrize("quantizer", ["pullback", "vqvae_ema", "vqvae2"])
def test_search_after_tuning_is_never_worse_than_the_codes_that_were_tuned_on(
    run: Callable[..., Any], quantizer: str
) -> None:
    context, artifacts = run(*QUICK, f"quantizer={quantizer}", "assign=search", "finetune=both", "finetune.steps=30")
    decoder = load_final_decoder(context, artifacts)
    codec, images = load_codec(artifacts["tuned_codes"]), context.data.test.images.float() / 255
    errors = [
        (decode(decoder, codec.embed(load_codes(artifacts[stage], "test")), context.device) - images)
        .square()
        .mean(dim=(1, 2, 3))
        for stage in ("codes", "tuned_codes")
    ]
    assert (errors[1] <= errors[0] + 1e-7).all()
    assert errors[1].mean() < errors[0].mean()


def test_a_price_on_bits_makes_codes_cheaper(run: Callable[..., Any]) -> None:
    rates, errors = [], []
    for price in (0.0, 0.3):
        # A price has them counted by itself.
        counted = ("assign.rate_model=unigram",) if price else ("assign.training_images=all",)
        _, artifacts = run(*QUICK, "quantizer=whitened", "assign=search", f"assign.rate_lambda={price}", *counted)
        metrics = artifacts["report"].json("metrics")
        rates.append(metrics["rate_unigram_bits_per_image"])
        errors.append(metrics["mse"])
    assert rates[1] < rates[0]
    assert errors[1] >= errors[0] - 1e-6


def test_a_dear_rule_leaves_out_training_images_that_nothing_learns_from(run: Callable[..., Any]) -> None:
    method = (*QUICK, "quantizer=whitened", "assign=search")
    _, held_out = run(*method)
    _, whole = run(*method, "assign.training_images=all")
    _, tuned = run(*method, "finetune=both", "finetune.steps=10")
    assert not held_out["codes"].has("train.safetensors")
    assert "rate_unigram_bits_per_image" in held_out["report"].json("omitted")
    assert tuned["codes"].has("train.safetensors")
    assert not tuned["tuned_codes"].has("train.safetensors")
    assert "rate_unigram_bits_per_image" in whole["report"].json("metrics")
    assert held_out["report"].json("metrics")["psnr"] == whole["report"].json("metrics")["psnr"]


def test_codebooks_on_one_autoencoder_share_what_none_of_them_changes(run: Callable[..., Any]) -> None:
    _, first = run(*QUICK, "quantizer=whitened")
    _, second = run(*QUICK, "quantizer=random")
    assert first["report"].manifest["inputs"]["unquantized"] == second["report"].manifest["inputs"]["unquantized"]
    for name in ("psnr_continuous", "metric_eigenvalue_mean", "kl_bits_per_token_standard_deviation"):
        assert first["report"].json("metrics")[name] == second["report"].json("metrics")[name]


def test_an_autoencoder_without_a_posterior_has_a_spectrum_without_divergences(run: Callable[..., Any]) -> None:
    _, artifacts = run(*QUICK, "quantizer=vqvae")
    spectrum = artifacts["report"].json("spectrum")
    assert len(spectrum["metric_eigenvalues"]) == 16
    assert spectrum["kl_bits_per_dimension"] is None
    assert spectrum["kl_bits_per_position"] is None
    assert artifacts["unquantized"].path("spectrum.png").is_file()


def test_the_metric_rule_chooses_the_least_cost_in_each_tokens_metric(run: Callable[..., Any]) -> None:
    from geovq.geometry.symmetric import unpack_symmetric
    from geovq.pipeline.stages.metric_tensors import load_metric_tensors

    _, artifacts = run(*QUICK, "quantizer=random", "assign=metric", "assign.ridge=1e-9")
    codec = load_codec(artifacts["codes"])
    codewords = codec.whole_codewords()
    tokens = tokens_of(artifacts["latents"].tensors("test")["mean"])
    metrics = unpack_symmetric(load_metric_tensors(artifacts, "test").double(), tokens.shape[1])
    difference = (tokens[:, None] - codewords[None]).double()
    costs = torch.einsum("nki,nij,nkj->nk", difference, metrics, difference)
    codes = load_codes(artifacts["codes"], "test").reshape(-1)
    chosen = costs.gather(1, codes[:, None])[:, 0]
    torch.testing.assert_close(chosen, costs.amin(1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tuned", ["codebook", "decoder", "both"])
def test_fine_tuning_lowers_the_validation_error_and_moves_what_it_names_alone(
    run: Callable[..., Any], tuned: str
) -> None:
    context, artifacts = run(*QUICK, "quantizer=pullback", f"finetune={tuned}", "finetune.steps=60")
    summary = artifacts["finetune"].json("summary")
    assert summary["validation_reconstruction"] < summary["validation_reconstruction_before"]
    before, after = load_codec(artifacts["codes"]), load_codec(artifacts["tuned_codes"])
    assert torch.equal(before.levels[0].tables, after.levels[0].tables) == (tuned == "decoder")
    old = load_decoder(context, artifacts).state_dict()
    new = load_final_decoder(context, artifacts).state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old) == (tuned == "codebook")


def test_fine_tuning_never_sees_the_encoder(run: Callable[..., Any]) -> None:
    _, artifacts = run(*QUICK, "quantizer=pullback", "finetune=both", "finetune.steps=60")
    weights = artifacts["finetune"].tensors("decoder")
    assert not [name for name in weights if "encoder" in name]
    assert artifacts["tuned_codes"].manifest["inputs"]["latents"] == artifacts["codes"].manifest["inputs"]["latents"]


def test_fine_tuning_that_only_harms_leaves_the_networks_alone(run: Callable[..., Any]) -> None:
    harmful = ("finetune=both", "finetune.steps=20", "finetune.learning_rate=3")
    context, artifacts = run(*QUICK, "quantizer=pullback", *harmful)
    summary = artifacts["finetune"].json("summary")
    assert summary["best_step"] == 0
    assert summary["validation_reconstruction"] == summary["validation_reconstruction_before"]
    before = load_decoder(context, artifacts).state_dict()
    after = load_final_decoder(context, artifacts).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(load_codes(artifacts["codes"], "test"), load_codes(artifacts["tuned_codes"], "test"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("quantizer=vqvae2", "assign=metric"), "assign=metric .* quantizer=vqvae2 are made for codes on two grids"),
        (("quantizer=gumbel", "assign=metric"), "assign=metric .* quantizer=gumbel are scores"),
        (("quantizer=vqvae_ema", "stages=[graph]"), r"stages=\[graph\] belong to post-hoc"),
        (("quantizer=vqvae_ema", "assign=metric", "geo=posterior"), "geo.metric=posterior"),
        (("quantizer=product", "quantizer.n_parts=3"), "quantizer.n_parts=3 must divide vae.dim=16"),
        (("quantizer=residual_vq", "quantizer.K=4"), "quantizer.n_stages=3"),
        (("quantizer=euclidean", "assign=search", "geo=euclidean"), "assign=search needs the tokens' metrics"),
        (("assign=search", "assign.n_rounds=0"), "assign.n_rounds=0"),
        (("quantizer=euclidean", "quantizer.K=1"), "quantizer.K=1"),
        (("quantizer=fsq", "quantizer.K=4294967296"), "quantizer.K=4294967296: .*65536"),
        (("quantizer=scalar", "quantizer.K=4294967296"), "quantizer.K=4294967296: .*65536"),
        (("assign=search", "assign.rate_lambda=inf"), "assign.rate_lambda=inf: input should be a finite number"),
        (("assign=search", "assign.damping=nan"), "assign.damping=nan: input should be a finite number"),
        (("finetune=both", "finetune.steps=0"), "finetune.steps=0"),
        (("stages=[finetune]",), "finetune=none must be"),
        (("transformer=none", "stages=[samples]"), "transformer=none must be"),
        (("quantizer=euclidean", "stages=[joint]"), r"stages=\[joint\] belongs to joint"),
        (("quantizer=fsq", "quantizer.levels=[8,1]"), r"quantizer.levels\[1\]=1: .* greater than or equal to 2"),
        (("quantizer=fsq", "quantizer.levels=8"), r"quantizer.levels=8: give a list: quantizer.levels=\[8\]"),
        (
            ("quantizer=fsq", "quantizer.levels=[16,16]", "quantizer.K=512"),
            "product 256 is a bit or more short of quantizer.K=512",
        ),
        (("quantizer=gumbel", "quantizer.temperature_end=3"), "quantizer.temperature_end=3.0 must be at most"),
        (
            ("quantizer=product", "quantizer.n_parts=16", "quantizer.K=512"),
            "quantizer.n_parts=16: K=512 cannot be split",
        ),
        (("quantizer=residual", "quantizer.n_stages=10", "quantizer.K=512"), "quantizer.n_stages=10: K=512 cannot"),
        (("geo=euclidean", "stages=[metric_tensors]"), r"stages=\[metric_tensors\] measures metrics: geo.metric=none"),
        (("quantizer=vqvae_ema", "geo=posterior", "stages=[metric_tensors]"), "geo.metric=posterior"),
        (("geo=euclidean", "geo.length=chord"), "geo.length=chord measures edges in pixels"),
    ],
)
def test_what_does_not_fit_is_told_before_any_compute(
    compose: Callable[..., Any], overrides: tuple[str, ...], message: str
) -> None:
    from geovq.configuration.config import validate

    with pytest.raises(ConfigError, match=message):
        validate(compose(*overrides))
