"""Four codebooks at one rate on one VAE: which is better, by which distortion, and in which images.

    python demos/codebook_comparison.py                    # scikit-learn's digits, a minute the first time
    python demos/codebook_comparison.py quantizer.K=128    # another rate, on the same VAE
    python demos/codebook_comparison.py assign=search      # codes searched on the decoded error, for all codebooks
    python demos/codebook_comparison.py data=fashion       # Fashion-MNIST; with debug=fast a first look

A VAE with a grid of tokens (vae=spatial) is trained, and K codewords are fitted to its latents by k-means (Euclidean),
by k-means in the mean metric of the decoder (whitened), by k-means in the metric of every token (pull-back) and by
k-medoids along shortest paths (geodesic). Random tokens are the control, the unquantized reconstruction the floor. Test
images are coded by each, and printed are

1. all four distortions, none of which says anything about another (docs/metrics.md), with the error to the original;
2. the share of images in which each has the smallest pixel error, and paired differences to the Euclidean codebook.

Two figures are written to <output folder>/demos/ (the output folder is GEOVQ_ROOT or experiments/):
codebook_comparison.png has the images in which the best and the Euclidean codebook differ most,
codebook_comparison_scores.png the distortions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from _pipeline import run_demo, runner_of, save
from torch import Tensor

from geovq.errors import ConfigError
from geovq.evaluation.codebook import decoded_distortion, latent_distortion, metric_distortion
from geovq.evaluation.geodesic import geodesic_distortion
from geovq.evaluation.reconstruction import image_errors
from geovq.evaluation.statistics import paired_difference
from geovq.models.tokens import tokens_of
from geovq.pipeline.stages.evaluated_run import EvaluatedRun
from geovq.pipeline.stages.networks import codes_stage, final_networks
from geovq.viz import image_grid
from geovq.viz.style import COLORS, FAINT, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CODEBOOKS = {"Euclidean": "euclidean", "whitened": "whitened", "pull-back": "pullback", "geodesic": "geodesic"}
CONTROL = {"random tokens": "random"}
FITTED_TO = {"Euclidean": "a", "pull-back": "b", "geodesic": "c"}
"""The column of the table that a codebook makes small; the cost of the whitened one is none of them."""
N_SHOWN = 6
"""Images of each kind."""


@dataclass
class Coded:
    """Test images as one codebook has them: the image that its codes decode to, and what that costs."""

    images: Tensor
    distortions: dict[str, float]
    """By title and unit: the four, and the error to the original."""
    mse: Tensor
    """(N,) to the original, in pixel² as the mean over pixels."""
    psnr: Tensor
    """(N,) dB."""


def main(overrides: list[str]) -> None:
    for word in overrides:
        if word.startswith(("quantizer=", "+quantizer=")):
            raise ConfigError(
                f"{word}: this demo compares codebooks of its own; leave it out, quantizer.K=… is welcome"
            )
    words = ("data=digits", "vae=spatial", *overrides)
    coded: dict[str, Coded] = {}
    first = None
    for name, quantizer in (CODEBOOKS | CONTROL).items():
        runner = runner_of(*words, f"quantizer={quantizer}")
        config = runner.context.config
        if config.geo.metric == "none":
            raise ConfigError("geo.metric=none: two of the codebooks need the decoder's metric; take geo=sketch")
        stages = (*final_networks(config), codes_stage(config), "latents", "graph")
        run = EvaluatedRun(runner.context, runner.obtain(stages))
        first = first or run
        coded[name] = measured(run, first)
    assert first is not None
    floor = image_errors(first.images, first.unquantized)

    n_tokens, bits = config.n_tokens, run.codec.nominal_bits
    print(f"{len(first.images):,} test images, {n_tokens} tokens each,", end=" ")
    print(f"K = {config.quantizer.K}: {bits:.0f} bits per image\n")
    tell_distortions(coded, floor)
    best = tell_images(coded)

    gain = coded[best].psnr - coded["Euclidean"].psnr
    order = gain.argsort(descending=True)
    n_shown = min(N_SHOWN, len(order) // 2)
    shown = torch.cat((order[:n_shown], order[-n_shown:]))
    rows = {"original": first.images, "unquantized": first.unquantized} | {
        name: each.images for name, each in coded.items()
    }
    figure = strips_figure(
        {name: images[shown] for name, images in rows.items()},
        f"{config.data.name}: {bits:.0f} bits per image by each codebook",
        f"Test images in which {best} gains most over Euclidean, left, and loses most, right. Numbers: PSNR to the "
        "original, in dB.",
    )
    save(figure, runner, "codebook_comparison")
    title = f"{config.data.name}: {bits:.0f} bits per image, {len(first.images):,} test images"
    save(scores_figure(coded, floor, title), runner, "codebook_comparison_scores")


def measured(run: EvaluatedRun, first: EvaluatedRun) -> Coded:
    """Distortions over all test tokens; metric tensors and the graph are those of the first run for all."""
    tokens, quantized = run.tokens, tokens_of(run.codec.embed(run.codes))
    errors = image_errors(first.images, run.quantized)
    codewords = run.codec.whole_codewords()
    assert codewords is not None
    own = first.metric_tensors if run.config.geo.context == "own" else None
    codes = run.codec.streams(run.codes)[0][0]
    geodesic = geodesic_distortion(
        first.graph, codewords, codes.reshape(-1), tokens, own, seed=run.config.evaluation.seed
    )
    distortions = {
        "latent L2², latent²": float(latent_distortion(tokens, quantized).mean()),
        "eᵀGe, pixel² per token": float(metric_distortion(tokens, quantized, first.metric_tensors).mean()),
        "geodesic², pixel² per token": geodesic["distortion_geodesic_pixel2"],
        "D(μ)↔D(q), pixel² MSE": float(decoded_distortion(first.unquantized, run.quantized).mean()),
        "x↔D(q), pixel² MSE": float(errors["mse"].mean()),
    }
    return Coded(run.quantized, distortions, errors["mse"], errors["psnr"])


def tell_distortions(coded: dict[str, Coded], floor: dict[str, Tensor]) -> None:
    titles = list(coded["Euclidean"].distortions)
    print("1. Distortions, means over test tokens or images")
    for letter, title in zip("abcde", titles, strict=True):
        print(f"   {letter}: {title}")
    print(f"{'':<16}" + "".join(f"{letter:>11}" for letter in "abcde") + f"{'PSNR, dB':>11}")
    zeros = "".join(f"{0:>11}" for _ in titles[:-1])
    print(f"{'unquantized':<16}{zeros}{float(floor['mse'].mean()):>11.5f}{float(floor['psnr'].mean()):>11.2f}")
    for name, each in coded.items():
        values = "".join(
            f"{value:>11.5f}" if "MSE" in title else f"{value:>11.4g}" for title, value in each.distortions.items()
        )
        print(f"{name:<16}{values}{float(each.psnr.mean()):>11.2f}")
    orders, own = set(), []
    for letter, title in zip("abcde", titles, strict=True):
        ranked = sorted(CODEBOOKS, key=lambda name: coded[name].distortions[title])
        print(f"   {letter}: {' < '.join(ranked)}")
        orders.add(tuple(ranked))
        own += [f"{ranked[0]} ({letter})"] if FITTED_TO.get(ranked[0]) == letter else []
    ways = "alike" if len(orders) == 1 else f"in {len(orders)} different ways: each distortion speaks for itself alone"
    print(f"   The five columns rank the four {ways}.")
    print(f"   Best of the four by the very cost that it was fitted to: {', '.join(own) or 'none'}.")
    worse = [name for name in CODEBOOKS if coded[name].mse.mean() >= coded["random tokens"].mse.mean()]
    print(f"   No better than random tokens to the original (e): {', '.join(worse) or 'none'}.")


def tell_images(coded: dict[str, Coded]) -> str:
    """Who wins where; returns the codebook with the highest mean PSNR beside the Euclidean one."""
    winners = torch.stack([coded[name].mse for name in CODEBOOKS]).argmin(0)
    shares = {name: float((winners == index).float().mean()) for index, name in enumerate(CODEBOOKS)}
    print("\n2. Smallest pixel error to the original, share of test images:")
    print("   " + ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda item: -item[1])))
    for name in (*CODEBOOKS, *CONTROL):
        if name == "Euclidean":
            continue
        found = paired_difference(coded[name].psnr, coded["Euclidean"].psnr)
        wins = float((coded[name].mse < coded["Euclidean"].mse).float().mean())
        print(f"   {name} against Euclidean: better in {wins:.0%} of the images,", end=" ")
        print(f"{found.mean:+.2f} dB ({found.low:+.2f} to {found.high:+.2f}, 95 % over images)")
    ranked = sorted(CODEBOOKS, key=lambda name: float(coded[name].psnr.mean()), reverse=True)
    found = paired_difference(coded[ranked[0]].psnr, coded[ranked[1]].psnr)
    sure = "more than chance over images" if found.low > 0 else "which other test images could turn"
    print(f"   Highest PSNR: {ranked[0]}, {found.mean:.2f} dB above {ranked[1]}, {sure}.")
    print("   One VAE and one seed: intervals are for other images, not for other trainings.")
    return ranked[0] if ranked[0] != "Euclidean" else ranked[1]


def strips_figure(rows: dict[str, Tensor], title: str, caption: str) -> Figure:
    """A row per source of (N, C, H, W), originals first, the two halves of the images with a gap between them."""
    original = rows["original"]
    half, gap = len(original) // 2, torch.ones_like(original[:1])
    tiles, titles = [], []
    for name, images in rows.items():
        psnr = image_errors(original, images)["psnr"].tolist()
        told = ["" if name == "original" else f"{value:.1f}" for value in psnr]
        tiles += [images[:half], gap, images[half:]]
        titles += [*told[:half], "", *told[half:]]
    return image_grid(torch.cat(tiles), len(rows), len(original) + 1, titles, list(rows), title, caption)


def scores_figure(coded: dict[str, Coded], floor: dict[str, Tensor], title: str) -> Figure:
    """A panel per distortion, and the paired differences to the Euclidean codebook."""
    figure = new_figure(13.2, 6.6, title)
    axes = figure.subplots(2, 3).flat
    for panel, name in zip(axes, coded["Euclidean"].distortions, strict=False):
        what, unit = name.split(", ")
        plain(panel, what, "", unit)
        values = [each.distortions[name] for each in coded.values()]
        panel.bar(range(len(coded)), values, color=[*COLORS[: len(CODEBOOKS)], FAINT])
        panel.set_xticks(range(len(coded)), [each.replace(" ", "\n") for each in coded])
        panel.grid(False, axis="x")
    panel.axhline(float(floor["mse"].mean()), color="black", linewidth=1, linestyle="--", label="unquantized")
    panel.set_ylim(top=1.2 * max(values))
    panel.legend(fontsize=8, frameon=False, loc="upper left")
    plain(axes[5], "Against Euclidean, image by image", "difference in PSNR, dB", "share of images at or below")
    for color, name in zip(COLORS[1:], [name for name in CODEBOOKS if name != "Euclidean"], strict=False):
        gain = (coded[name].psnr - coded["Euclidean"].psnr).sort().values
        axes[5].plot(gain, torch.arange(1, len(gain) + 1) / len(gain), color=color, linewidth=1.5, label=name)
    axes[5].axvline(0, color=FAINT, linewidth=1, linestyle="--")
    axes[5].legend(fontsize=8, frameon=False, loc="lower right")
    return figure


if __name__ == "__main__":
    run_demo(main, __doc__)
