"""Each stage of a finished run against an independent computation, and what is built when."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import connected_components, dijkstra

from geovq.commands.train import print_report
from geovq.configuration.config import validate
from geovq.errors import ConfigError
from geovq.evaluation.anisotropy import whitening
from geovq.evaluation.evaluator import measure
from geovq.evaluation.evaluators import OURS
from geovq.geometry.symmetric import unpack_symmetric
from geovq.models.codec import stacked_codec
from geovq.models.tokens import tokens_of
from geovq.pipeline.stages import STAGES
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.evaluated_run import EvaluatedRun, no_geodesics
from geovq.pipeline.stages.graph import load_graph
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.prior import load_prior
from geovq.pipeline.stages.report import STAGE as REPORT
from geovq.pipeline.stages.vae import load_vae


def artifact(digits_run: Any, name: str) -> Any:
    return digits_run[1][name].artifact


def networks(digits_run: Any) -> tuple[Any, Any]:
    context = digits_run[0].context
    vae = load_vae(context, {"vae": artifact(digits_run, "vae")}).vae
    return context, vae


def test_all_stages_ran_in_order(digits_run: Any) -> None:
    # Held-out metrics are measured only where codes are assigned with them.
    stages = [stage.name for stage in STAGES if stage.applies(digits_run[0].context.config)]
    assert list(digits_run[1]) == [name for name in stages if name != "metric_tensors_held_out"]
    assert not {"joint", "finetune", "tuned_codes"} & set(stages)
    assert not any(result.cached for result in digits_run[1].values())


def test_latents_are_posterior_means_in_data_set_order(digits_run: Any) -> None:
    context, vae = networks(digits_run)
    latents = artifact(digits_run, "latents").tensors("test")
    for i in (0, 7, len(context.data.test) - 1):
        image = context.data.test.images[i : i + 1].float() / 255
        mean, log_variance = vae.encoder(image).chunk(2, dim=1)
        torch.testing.assert_close(latents["mean"][i], mean[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(latents["log_variance"][i], log_variance[0], atol=1e-5, rtol=1e-4)


def test_graph_is_connected_positive_and_symmetric(digits_run: Any) -> None:
    graph = load_graph(artifact(digits_run, "graph"))
    assert connected_components(graph.adjacency, directed=False)[0] == 1
    assert graph.adjacency.data.min() > 0
    assert abs(graph.adjacency - graph.adjacency.T).max() == pytest.approx(0, abs=1e-6)
    assert graph.unit == "pixel"


def test_training_codes_are_the_nearest_medoid_by_separate_shortest_paths(digits_run: Any) -> None:
    graph = load_graph(artifact(digits_run, "graph"))
    state = artifact(digits_run, "codebook").tensors("state")
    medoids = state["medoid_nodes"].numpy()
    distances = dijkstra(graph.adjacency, directed=False, indices=medoids)  # one run per medoid
    codes = load_codes(artifact(digits_run, "codes"), "train").reshape(-1).numpy()
    chosen = distances[codes, graph.token_node]
    np.testing.assert_allclose(chosen, distances.min(axis=0)[graph.token_node], rtol=1e-5)


def test_codebook_cost_never_rises(digits_run: Any) -> None:
    costs = [entry["cost"] for entry in artifact(digits_run, "codebook").json("history")]
    assert len(costs) >= 2
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(costs))


def test_every_image_of_every_split_has_all_its_codes(digits_run: Any) -> None:
    context = digits_run[0].context
    for split in ("train", "validation", "test"):
        codes = load_codes(artifact(digits_run, "codes"), split)
        assert codes.shape == (len(getattr(context.data, split)), 4, 4)
        assert codes.min() >= 0
        assert codes.max() < context.config.quantizer.K


def test_reported_psnr_is_that_of_decoded_codes(digits_run: Any) -> None:
    context, vae = networks(digits_run)
    codes = load_codes(artifact(digits_run, "codes"), "test")
    output = decode(vae.decoder, load_codec(artifact(digits_run, "codes")).embed(codes), context.device).numpy()
    images = context.data.test.images.numpy() / 255.0
    mse = ((images - output) ** 2).reshape(len(images), -1).mean(axis=1)
    metrics = artifact(digits_run, "report").json("metrics")
    assert metrics["psnr"] == pytest.approx(float((-10 * np.log10(mse)).mean()), abs=1e-3)
    assert metrics["psnr_pooled"] == pytest.approx(float(-10 * np.log10(mse.mean())), abs=1e-3)


def test_what_sweepers_choose_by_is_the_psnr_of_validation_codes(digits_run: Any, capsys: Any) -> None:
    context, vae = networks(digits_run)
    codes = load_codes(artifact(digits_run, "codes"), "validation")
    output = decode(vae.decoder, load_codec(artifact(digits_run, "codes")).embed(codes), context.device).numpy()
    images = context.data.validation.images.numpy() / 255.0
    expected = float((-10 * np.log10(((images - output) ** 2).reshape(len(images), -1).mean(axis=1))).mean())
    metrics = artifact(digits_run, "report").json("metrics")
    assert metrics["psnr_validation"] == pytest.approx(expected, abs=1e-3)
    assert print_report(context.config, digits_run[1]) == metrics["psnr_validation"] != metrics["psnr"]


def test_reported_latent_distortion_and_perplexity(digits_run: Any) -> None:
    codes = load_codes(artifact(digits_run, "codes"), "test").reshape(-1)
    tokens = tokens_of(artifact(digits_run, "latents").tensors("test")["mean"])
    codewords = load_codec(artifact(digits_run, "codes")).levels[0].tables[0]
    metrics = artifact(digits_run, "report").json("metrics")
    distortion = float((tokens - codewords[codes]).square().sum(1).mean())
    assert metrics["distortion_latent_l2_squared"] == pytest.approx(distortion, rel=1e-4)
    shares = np.bincount(codes.numpy()) / len(codes)
    shares = shares[shares > 0]
    assert metrics["perplexity"] == pytest.approx(float(np.exp(-(shares * np.log(shares)).sum())), rel=1e-4)


def test_reported_whitening_gain_is_that_of_the_water_levels_found_by_halving(digits_run: Any) -> None:
    tokens = tokens_of(artifact(digits_run, "latents").tensors("test")["mean"]).double().numpy()
    packed = artifact(digits_run, "unquantized").tensors("metric_tensors")["packed"].double()
    metric = unpack_symmetric(packed.mean(0), 16).numpy()
    values, axes = np.linalg.eigh(metric)
    root = (axes * np.sqrt(values.clip(0))) @ axes.T

    def error(covariance: np.ndarray) -> np.ndarray:
        """Error covariance of the best Gaussian code of log2 16 = 4 bits."""
        variances, vectors = np.linalg.eigh(covariance)
        variances = variances.clip(1e-30)
        low, high = 1e-30, variances.max()
        for _ in range(300):
            level = np.sqrt(low * high)
            bits = 0.5 * np.log2((variances / level).clip(1)).sum()
            low, high = (level, high) if bits > 4 else (low, level)
        return (vectors * np.minimum(variances, level)) @ vectors.T

    covariance = np.cov(tokens.T)
    expected = np.trace(metric @ error(covariance)) / np.trace(error(root @ covariance @ root))
    reported = artifact(digits_run, "report").json("metrics")["whitening_gain_predicted_db"]
    assert reported == pytest.approx(10 * np.log10(expected), abs=1e-3)


def test_the_divergence_is_told_by_dimension_and_by_position(digits_run: Any) -> None:
    unquantized = artifact(digits_run, "unquantized")
    latents = artifact(digits_run, "latents").tensors("validation")
    mean, log_variance = latents["mean"].double().numpy(), latents["log_variance"].double().numpy()
    terms = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance) / np.log(2)
    spectrum = unquantized.json("spectrum")
    np.testing.assert_allclose(spectrum["kl_bits_per_dimension"], terms.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(spectrum["kl_bits_per_position"], terms.sum(axis=1).mean(axis=0), rtol=1e-4)
    total = unquantized.json("metrics")["kl_bits_per_token"]
    assert np.mean(spectrum["kl_bits_per_position"]) == pytest.approx(total, rel=1e-4)
    assert sum(spectrum["kl_bits_per_dimension"]) == pytest.approx(total, rel=1e-4)
    assert len(spectrum["metric_eigenvalues"]) == 16
    assert unquantized.path("spectrum.png").read_bytes().startswith(b"\x89PNG")


def some_tokens(mean: torch.Tensor, packed: torch.Tensor) -> Any:
    codec = stacked_codec([torch.zeros(4, 2)], (1, 1))
    return SimpleNamespace(tokens=tokens_of(mean), latents={"mean": mean}, metric_tensors=packed, codec=codec)


def test_latents_that_vary_only_where_the_decoder_is_blind_have_no_gain_but_a_reason() -> None:
    mean = torch.zeros(8, 2, 1, 1)
    mean[:, 0, 0, 0] = torch.arange(8.0)
    found = whitening.measure(some_tokens(mean, torch.tensor([[0.0, 0.0, 1.0]]).expand(8, -1)))
    assert not found.values
    assert "no effect" in found.omitted["whitening_gain_predicted_db"]


def test_a_single_token_has_no_spread_and_so_no_gain() -> None:
    found = whitening.measure(some_tokens(torch.ones(1, 2, 1, 1), torch.tensor([[1.0, 0.0, 1.0]])))
    assert not found.values
    assert "single token" in found.omitted["whitening_gain_predicted_db"]


def test_every_score_of_a_report_is_declared_and_every_declared_one_measured_or_omitted(digits_run: Any) -> None:
    report = artifact(digits_run, "report")
    metrics, omitted = report.json("metrics"), report.json("omitted")
    inputs = {name: result.artifact for name, result in digits_run[1].items()}
    declared = [name for each in OURS for name in each.names(EvaluatedRun(digits_run[0].context, inputs))]
    assert len(declared) == len(set(declared))
    assert not set(metrics) & set(omitted)
    assert {*metrics, *omitted} == set(declared)
    assert set(report.tensors("per_image")) <= set(metrics)
    assert all(omitted.values())


def test_evaluators_give_the_same_in_any_order(digits_run: Any) -> None:
    inputs = {name: result.artifact for name, result in digits_run[1].items()}
    again = measure(
        [each for each in reversed(OURS) if not each.of_autoencoder], EvaluatedRun(digits_run[0].context, inputs)
    )
    metrics = artifact(digits_run, "report").json("metrics")
    assert again.values == {name: metrics[name] for name in again.values}


def test_the_geodesic_distortion_is_exact_where_that_takes_seconds(digits_run: Any) -> None:
    metrics = artifact(digits_run, "report").json("metrics")
    assert metrics["distortion_geodesic_pixel2_standard_error"] == 0
    assert metrics["distortion_geodesic_codewords"] == metrics["active_codes"]


@pytest.mark.parametrize(
    ("overrides", "measured"),
    [
        ((), True),
        (("quantizer=euclidean",), False),
        (("quantizer=euclidean", "evaluation.geodesic_codewords=all"), True),
        (("quantizer=euclidean", "evaluation.geodesic_codewords=40"), True),
        (("evaluation.geodesic_codewords=0",), False),
        (("quantizer=vqvae", "evaluation.geodesic_codewords=all"), False),
    ],
)
def test_no_graph_is_built_for_the_geodesic_distortion_alone(
    compose: Callable[..., Any], overrides: tuple[str, ...], measured: bool
) -> None:
    config = validate(compose("tracking=none", *overrides))
    assert (no_geodesics(config) is None) == measured
    assert ("graph" in REPORT.inputs(config)) == measured
    settings = REPORT.settings(validate(compose("tracking=none", *overrides, "geo=euclidean")))
    assert settings != REPORT.settings(config)  # the unit is part of the score's name


def test_prior_bits_are_a_normalised_code_length(digits_run: Any) -> None:
    """Chain rule, one position at a time, without the cache and without the model's own loss."""
    context = digits_run[0].context
    inputs = {name: artifact(digits_run, name) for name in ("prior", "codes")}
    prior = load_prior(context, inputs)
    codes = load_codes(artifact(digits_run, "codes"), "test")[:3]
    ids = prior.layout.encode(codes, context.data.test.labels[:3])
    bits = torch.zeros(3)
    for t in range(1, ids.shape[1]):
        logits = prior.transformer(input_ids=ids[:, :t], use_cache=False).logits[:, -1, : prior.layout.n_codes]
        bits -= logits.log_softmax(1)[torch.arange(3), ids[:, t]] / np.log(2)
    torch.testing.assert_close(prior.bits_per_image(ids), bits, rtol=1e-4, atol=1e-3)


def test_a_second_run_only_reads(digits_run: Any, make_runner: Callable[..., Any]) -> None:
    runner = make_runner(digits_run[0].context.config.paths.root)
    results = runner.run()
    assert all(result.cached for result in results.values())
    assert "data" not in runner.context.__dict__, "images were loaded though nothing was built"


def test_a_sweep_over_k_shares_vae_and_graph(digits_run: Any, make_runner: Callable[..., Any]) -> None:
    first = digits_run[0]
    second = make_runner(first.context.config.paths.root, "quantizer.K=12")
    shared = {name for name in first.keys if first.keys[name] == second.keys[name]}
    assert shared == {
        *(
            "vae",
            "latents",
            "metric_tensors",
            "metric_tensors_held_out",
            "graph",
            "classifier",
            "features",
            "unquantized",
        )
    }


def test_a_euclidean_codebook_does_not_depend_on_the_metric(tmp_path: Path, make_runner: Callable[..., Any]) -> None:
    first = make_runner(tmp_path, "quantizer=euclidean")
    second = make_runner(tmp_path, "quantizer=euclidean", "geo.n_probes=8")
    assert first.keys["codebook"] == second.keys["codebook"]
    assert first.keys["graph"] != second.keys["graph"]


@pytest.mark.parametrize(
    "override",
    ["trainer.checkpoint_seconds=5", "trainer.threads=2", "tracking.experiment=other", "trainer.device=auto"],
)
def test_keys_ignore_how_and_where(tmp_path: Path, make_runner: Callable[..., Any], override: str) -> None:
    assert make_runner(tmp_path).keys == make_runner(tmp_path / "elsewhere", override).keys


LATENTS, METRICS = ("vae", "latents"), ("metric_tensors", "metric_tensors_held_out")


@pytest.mark.parametrize(
    ("override", "unchanged"),
    [
        ("vae.seed=1", {"classifier", "features"}),
        ("data.split_seed=1", set()),
        ("geo.k=9", {*LATENTS, *METRICS, "classifier", "features", "unquantized"}),
        ("geo.n_probes=5", {*LATENTS, "classifier", "features"}),
        (
            "transformer.seed=1",
            {*LATENTS, *METRICS, "graph", "codebook", "codes", "classifier", "features", "unquantized"},
        ),
        (
            "samples.top_k=5",
            {*LATENTS, *METRICS, "graph", "codebook", "codes", "prior", "classifier", "features", "unquantized"},
        ),
    ],
)
def test_keys_see_what_matters(
    tmp_path: Path, make_runner: Callable[..., Any], override: str, unchanged: set[str]
) -> None:
    first, second = make_runner(tmp_path), make_runner(tmp_path, override)
    assert {name for name in first.keys if first.keys[name] == second.keys[name]} == unchanged


def test_a_damaged_input_is_set_aside_and_rebuilt(tmp_path: Path, make_runner: Callable[..., Any]) -> None:
    make_runner(tmp_path, "stages=[latents]").run()
    [weights] = (tmp_path / "artifacts/vae").glob("*/weights.safetensors")
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    [latents] = (tmp_path / "artifacts/latents").glob("*/manifest.json")
    latents.parent.rename(tmp_path / "gone")
    make_runner(tmp_path, "stages=[latents]").run()
    assert weights.read_bytes() == original
    assert len(list((tmp_path / "artifacts/vae").glob("*.damaged-*"))) == 1


def test_stages_run_alone_with_what_they_need(tmp_path: Path, make_runner: Callable[..., Any]) -> None:
    assert list(make_runner(tmp_path, "stages=[latents]").run()) == ["vae", "latents"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["quantizer.K=100000"], r"quantizer\.K=100000: there are"),
        (["vae.grid=7"], r"vae\.grid=7: images of 8x8 allow 1, 2, 4"),
        (["geo.k=50000"], r"geo\.k=50000"),
        (["data.validation=299", "data.limit=299"], r"data\.validation=299"),
        (["evaluation.lpips_weights=/nowhere.pth"], r"lpips_weights=/nowhere\.pth: no such file"),
    ],
)
def test_what_does_not_fit_the_images_is_refused_before_compute(
    tmp_path: Path, make_runner: Callable[..., Any], overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_runner(tmp_path, *overrides)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "overrides",
    [
        ["vae=flat"],
        ["geo=exact"],
        ["geo=posterior"],
        ["geo=euclidean"],
        ["geo.search=whitened", "geo.length=chord", "quantizer=geodesic_barycenter"],
        ["quantizer=posterior"],
        # Their parts run in tests of their own, and among the methods without a prior.
        *(
            pytest.param([words], marks=pytest.mark.slow)
            for words in (
                *("geo.length=simpson", "quantizer=random", "quantizer=whitened", "quantizer=pullback"),
                *("vae.loss=bce", "quantizer=euclidean_medoids", "geo.context=own"),
            )
        ),
    ],
)
def test_variants_run_to_the_report(
    tmp_path: Path, begin: Callable[[Path], Path], make_runner: Callable[..., Any], overrides: list[str]
) -> None:
    results = make_runner(begin(tmp_path), *overrides, drawn=True).run()
    metrics = results["report"].artifact.json("metrics")
    assert np.isfinite(list(metrics.values())).all()
    assert 0 < metrics["psnr"] <= 60
