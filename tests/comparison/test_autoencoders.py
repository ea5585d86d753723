from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from geovq.comparison.figures import rate_distortion
from geovq.comparison.methods import autoencoders, group_seeds
from geovq.comparison.runs import ComparedRun
from geovq.comparison.summary import compare_methods
from geovq.tracking import RunRecord


def run(quantizer: str, n_codes: int = 512, vae: str = "v", seed: int = 0, joint: bool = False, **params: Any) -> Any:
    values = {"quantizer.name": quantizer, "quantizer.K": n_codes, "assign.name": "own", "vae.free_bits": "0.0"}
    values |= {"vae.grid": 4, "seed": seed} | params
    latents = f"{quantizer if joint else ''}{vae}{values['vae.free_bits']}{seed}"
    bits = 16.0 * (n_codes.bit_length() - 1)
    measured = {"psnr": 20.0, "psnr_pooled": 19.0, "psnr_continuous": 24.0 + bits / 100, "n_test_images": 2.0}
    measured |= {"psnr_pooled_continuous": 23.0, "rate_nominal_bits_per_image": bits}
    record = RunRecord(
        "-".join(map(str, values.values())),
        "run",
        "FINISHED",
        {"data": "digits"},
        {key: str(value) for key, value in values.items()},
        measured,
        "sqlite:///",
        None,  # type: ignore[arg-type]
    )
    inputs = {"latents": latents} | ({"joint": latents} if joint else {"vae": latents})
    report = SimpleNamespace(
        manifest={"inputs": inputs}, key="k", tensors=lambda name: {"psnr": torch.full((2,), 20.0)}
    )
    return ComparedRun(record, report, None)  # type: ignore[arg-type]


def labels(*runs: ComparedRun) -> list[str]:
    return [each.label for each in autoencoders(group_seeds(runs)[0])]


def test_an_autoencoder_is_named_by_what_distinguishes_it() -> None:
    """Not by the assignment and fine-tuning of the methods on it, and a joint one by its quantizer."""
    runs = [
        run("euclidean"),
        run("whitened", **{"assign.name": "search"}),
        run("pullback", **{"vae.free_bits": "rate", "assign.name": "search"}),
        run("pullback", **{"vae.free_bits": "rate", "finetune.name": "both"}),
        run("vqvae", joint=True),
        run("vqvae", joint=True, **{"assign.name": "search"}),
        run("fsq", joint=True),
    ]
    assert labels(*runs) == [
        "continuous VAE, vae.free_bits=0.0",
        "continuous VAE, vae.free_bits=rate",
        "continuous autoencoder of vqvae",
        "continuous autoencoder of fsq",
    ]


def test_one_autoencoder_needs_no_name_and_seeds_make_no_other() -> None:
    assert labels(run("euclidean"), run("random", 64)) == ["continuous autoencoder"]
    assert labels(run("euclidean"), run("euclidean", seed=1)) == ["continuous autoencoder"]


def test_a_method_without_an_unquantized_reconstruction_is_named() -> None:
    scores = run("gumbel", joint=True)
    del scores.record.metrics["psnr_continuous"]
    scores.record.tags["omitted.psnr_continuous"] = "scores are no points"
    comparison = compare_methods(group_seeds([run("euclidean"), scores])[0], ["psnr"])
    assert comparison.rows[0].of.label == "continuous VAE"
    assert "gumbel, K=512 has no unquantized reconstruction: scores are no points." in comparison.remarks
    assert not [line for line in comparison.remarks if line.startswith("euclidean")]


def test_settings_of_the_autoencoder_go_before_those_of_the_codebook() -> None:
    runs = [run("euclidean"), run("pullback", 64, **{"vae.free_bits": "rate"})]
    assert labels(*runs) == ["continuous VAE, vae.free_bits=0.0", "continuous VAE, vae.free_bits=rate"]


def test_where_no_setting_distinguishes_autoencoders_their_methods_do() -> None:
    """Such as after a change of the program."""
    runs = [run("euclidean", 16), run("random", 32), run("euclidean", 32, vae="w"), run("random", 16, vae="w")]
    assert labels(*runs) == [
        "continuous VAE of euclidean, K=16; random, K=32",
        "continuous VAE of euclidean, K=32; random, K=16",
    ]


def test_autoencoders_for_the_rate_of_each_k_are_one_curve_of_the_plot() -> None:
    runs = [run(quantizer, k, vae=f"for {k}") for k in (64, 512, 256) for quantizer in ("euclidean", "whitened")]
    runs += [run("vqvae", k, vae=f"for {k}", joint=True) for k in (64, 512, 256)]
    found = autoencoders(group_seeds(runs)[0])
    assert {each.series for each in found} == {"continuous VAE", "continuous autoencoder of vqvae"}
    assert "continuous VAE, K=256" in {each.label for each in found}
    comparison = compare_methods(group_seeds(runs)[0], ["psnr"], resamplings=10)
    panel = rate_distortion(comparison, "nominal", None).axes[0]
    curves = {each.get_label(): each.lines[0] for each in panel.containers}
    assert list(curves["continuous VAE"].get_xdata()) == [96.0, 128.0, 144.0]
    assert list(curves["continuous VAE"].get_ydata()) == [24.96, 25.28, 25.44]
    assert not [line for line in panel.lines if str(line.get_label()).startswith("continuous")]
