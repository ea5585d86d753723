"""How far a token may move before eᵀGe stops telling its decoded error, on a trained Fashion-MNIST VAE.

    python benchmarks/validity_radius.py [folder of artifacts] [picture]

Trains nothing: takes the newest VAE of Fashion-MNIST and its latents below the folder (default:
$GEOVQ_ROOT/artifacts, else experiments/artifacts), as `python src/train.py data=fashion 'stages=[latents]'` leaves
them. Draws docs/images/validity_radius.png and prints the table. About two minutes on two cores.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "src"))

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from decoded_errors import DecodedErrors, decoded_error_against_prediction
from geovq.geometry.metric import token_metrics
from geovq.models.tokens import tokens_of
from geovq.models.vae import VAE

N_IMAGES, N_TOKENS, N_CODES, SEED = 256, 2048, 512, 0
RADII = np.geomspace(0.05, 20.0, 27)
TOLERANCES = (0.10, 0.25, 0.50)
TABLE_RADII = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default_artifacts()
    picture = Path(sys.argv[2]) if len(sys.argv) > 2 else REPOSITORY / "docs" / "images" / "validity_radius.png"
    decoder, latents = load_fashion(folder)
    print(f"machine: {machine()}; seed {SEED}; {time.strftime('%Y-%m-%d')}")
    test = latents["test"][torch.randperm(len(latents["test"]), generator=generator())[:N_IMAGES]]
    tokens = tokens_of(test)
    codewords = k_means(tokens_of(latents["train"]).numpy(), N_CODES)
    to_codeword = codewords[torch.cdist(tokens, codewords).argmin(dim=1)] - tokens
    metrics = token_metrics(decoder, test, "exact")

    directions: dict[str, Any] = {
        "at random": "random",
        "towards another token": "tokens",
        "towards its codeword": to_codeword,
    }
    errors = {
        name: decoded_error_against_prediction(
            decoder, test, metrics, RADII, directions=chosen, n_tokens=N_TOKENS, seed=SEED
        )
        for name, chosen in directions.items()
    }
    displacement = np.quantile(to_codeword.norm(dim=1).numpy(), (0.1, 0.5, 0.9))
    for line in table(errors, displacement):
        print(line)
    figure(errors, displacement).savefig(picture)
    print(f"\n{picture}")


def default_artifacts() -> Path:
    return Path(os.environ.get("GEOVQ_ROOT", REPOSITORY / "experiments")) / "artifacts"


def machine() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].split(":")[1].strip() if models else platform.machine()
    return f"{os.cpu_count()} cores {name}"


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def load_fashion(artifacts: Path) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Decoder in evaluation mode, and posterior means of the training and test images."""
    found: dict[str, list[tuple[str, Path, dict[str, Any]]]] = {"vae": [], "latents": []}
    for stage, entries in found.items():
        for path in artifacts.glob(f"{stage}/*/manifest.json"):
            manifest = json.loads(path.read_text())
            entries.append((manifest["created"], path.parent, manifest))
    fashion = {path.name: path for _, path, m in found["vae"] if m["settings"]["data"]["name"] == "fashion"}
    usable = [entry for entry in found["latents"] if entry[2]["inputs"]["vae"] in fashion]
    if not usable:
        command = "python src/train.py data=fashion 'stages=[latents]'"
        sys.exit(f"{artifacts} holds no latents of Fashion-MNIST; run {command}")
    _, latents_folder, manifest = max(usable, key=lambda entry: entry[0])
    vae_folder = fashion[manifest["inputs"]["vae"]]
    settings = json.loads((vae_folder / "manifest.json").read_text())["settings"]
    names = ("dim", "width", "max_width", "blocks", "norm")
    vae = VAE((1, 28, 28), settings["grid"], **{name: settings[name] for name in names})
    weights = load_file(vae_folder / "weights.safetensors")
    vae.load_state_dict({key.removeprefix("vae."): value for key, value in weights.items() if key.startswith("vae.")})
    print(f"vae {vae_folder.name}, latents {latents_folder.name}")
    means = {split: load_file(latents_folder / f"{split}.safetensors")["mean"] for split in ("train", "test")}
    return vae.eval().requires_grad_(False).decoder, means


def k_means(tokens: np.ndarray, n_codes: int) -> torch.Tensor:
    import faiss

    quantizer = faiss.Kmeans(tokens.shape[1], n_codes, niter=20, seed=SEED)
    quantizer.train(tokens)
    return torch.from_numpy(quantizer.centroids.copy())


def table(errors: dict[str, DecodedErrors], displacement: np.ndarray) -> list[str]:
    lines = [
        f"displacement by a k-means codebook, K = {N_CODES}: median {displacement[1]:.2f} "
        f"(10 % to 90 %: {displacement[0]:.2f} to {displacement[2]:.2f})",
        "",
        "| ratio decoded / predicted at ‖e‖ | " + " | ".join(f"{radius:g}" for radius in TABLE_RADII) + " |",
        "|---|" + "---|" * len(TABLE_RADII),
    ]
    for name, each in errors.items():
        nearest = [int(np.abs(np.log(each.radii / radius)).argmin()) for radius in TABLE_RADII]
        cells = (
            "{1:.2f} ({0:.2f} to {2:.2f})".format(*each.ratio_quantiles((0.1, 0.5, 0.9))[index]) for index in nearest
        )
        lines.append(f"| {name}: median (10 % to 90 %) | " + " | ".join(cells) + " |")
    lines += ["", "| validity radius | " + " | ".join(f"±{100 * t:.0f} %" for t in TOLERANCES) + " |"]
    lines.append("|---|" + "---|" * len(TOLERANCES))
    for name, each in errors.items():
        lines.append(f"| {name} | " + " | ".join(f"{each.validity_radius(t):.2f}" for t in TOLERANCES) + " |")
    lines += ["", "| 80 % of tokens within | " + " | ".join(f"±{100 * t:.0f} %" for t in TOLERANCES) + " |"]
    lines.append("|---|" + "---|" * len(TOLERANCES))
    for name, each in errors.items():
        lines.append(f"| {name} | " + " | ".join(f"{each.validity_radius_of_tokens(t):.2f}" for t in TOLERANCES) + " |")
    at_codeword = errors["towards its codeword"]
    index = int(np.abs(np.log(at_codeword.radii / displacement[1])).argmin())
    low, median, high = at_codeword.ratio_quantiles((0.1, 0.5, 0.9))[index]
    lines += [
        "",
        f"towards its codeword at ‖e‖ = {at_codeword.radii[index]:.2f}: {median:.2f} ({low:.2f} to {high:.2f})",
    ]
    return lines


def figure(errors: dict[str, DecodedErrors], displacement: np.ndarray) -> Any:
    from geovq.viz.style import COLORS, FAINT, INK, SMALL_SIZE, plot_axes

    picture, axes = plot_axes(
        "Decoded error of a displaced token against its prediction",
        "length of the displacement ‖e‖ (latent units, log)",
        "‖D(z+e) − D(z)‖² / eᵀGe (log)",
        width=7.2,
        height=4.4,
    )
    for tolerance in TOLERANCES:
        label = "ratio within ±10, 25, 50 %" if tolerance == TOLERANCES[-1] else None
        axes.axhspan(1 - tolerance, 1 + tolerance, color=COLORS[2], alpha=0.08, linewidth=0, label=label)
    axes.axhline(1.0, color=FAINT, linewidth=0.8)
    for (name, each), color, style in zip(errors.items(), COLORS, ("-", "--", "-."), strict=False):
        low, median, high = each.ratio_quantiles((0.1, 0.5, 0.9)).T
        axes.plot(each.radii, median, color=color, linestyle=style, linewidth=1.8, label=f"{name}: median")
        if name == "at random":
            axes.fill_between(
                each.radii, low, high, color=color, alpha=0.15, linewidth=0, label="at random: 10 % to 90 %"
            )
    axes.axvspan(displacement[0], displacement[2], color=FAINT, alpha=0.15, linewidth=0)
    axes.axvline(
        displacement[1],
        color=INK,
        linewidth=1.0,
        linestyle=":",
        label=f"k-means, K = {N_CODES}: median ‖e‖ (grey: 10 % to 90 %)",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(RADII[0], RADII[-1])
    axes.set_yticks([0.1, 0.2, 0.5, 1.0, 2.0, 5.0], ["0.1", "0.2", "0.5", "1", "2", "5"])
    axes.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20], ["0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.legend(fontsize=SMALL_SIZE, frameon=True, framealpha=1.0, edgecolor="none", loc="lower left")
    return picture


if __name__ == "__main__":
    main()
