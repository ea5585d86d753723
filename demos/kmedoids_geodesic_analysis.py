"""k-medoids along shortest paths: how the cost falls, what the cells are, how many codewords are worth it.

    python demos/kmedoids_geodesic_analysis.py                   # scikit-learn's digits, a minute the first time
    python demos/kmedoids_geodesic_analysis.py quantizer.K=32    # other cells in the figures
    python demos/kmedoids_geodesic_analysis.py vae=spatial       # a grid of tokens per image in place of one
    python demos/kmedoids_geodesic_analysis.py data=fashion      # Fashion-MNIST; with debug=fast a first look

A VAE with one latent per image (vae=flat) is trained, its latents are linked into the neighbour graph, and codebooks of
16, 32, … codewords are fitted to it. Printed are, each with its unit:

1. cost: what seeding leaves, and what every round of swaps takes off;
2. codewords: the cost per token over K, of training and of test tokens, and whether it has an elbow;
3. classes: how well codes tell the class of an image, though no fit saw one: purity, normalised mutual information and
   adjusted Rand index (scikit-learn), with the purity of shuffled codes beside it, and the share of test images whose
   code is mostly of their class in training. With several tokens per image each token counts as one, with the class of
   its image: what images of all classes share, such as background, then has codes that tell no class.

Two figures are written to <output folder>/demos/ (the output folder is GEOVQ_ROOT or experiments/):
kmedoids_geodesic_analysis.png with cost, elbow, scores and the cells of quantizer.K codewords on the two principal
axes; kmedoids_geodesic_medoids.png with these medoids decoded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from _pipeline import labels_of, run_demo, runner_of, save
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

from geovq.errors import ConfigError
from geovq.models.tokens import tokens_of
from geovq.pipeline.runner import Runner
from geovq.pipeline.stages.codebook import load_quantizer
from geovq.pipeline.stages.graph import load_graph
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.vae import load_vae
from geovq.quantizers import GeodesicKMedoids
from geovq.viz import codebook_figure
from geovq.viz.style import COLORS, FAINT, INK, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from geovq.geometry.graph import TokenGraph
    from geovq.pipeline.artifacts import Artifact

SIZES = (16, 32, 64, 128, 256, 512)
"""Codewords of the codebooks; those above half the number of distinct tokens are left out."""
ELBOW = 0.1
"""An elbow is where doubling K lowers the logarithm of the cost by so much less than the doubling before."""
MOST_POINTS = 3_000
"""Tokens on the map."""


class Scores(NamedTuple):
    """How well codes tell the classes."""

    purity: float
    shuffled: float
    test: float
    nmi: float
    ari: float


def main(overrides: list[str]) -> None:
    runner = runner_of("data=digits", "vae=flat", "quantizer=geodesic", "quantizer.K=64", *overrides)
    config = runner.context.config
    if not issubclass(type(config.quantizer).owner, GeodesicKMedoids):
        raise ConfigError(f"quantizer={config.quantizer.name}: this demo is about quantizer=geodesic; leave it out")
    if config.vae.rate_bits_per_token == "log2_K":
        raise ConfigError(
            "vae.rate_bits_per_token=log2_K: every K would have a VAE of its own here; give a number or null"
        )
    labels = {split: labels_of(runner, split).numpy().repeat(config.n_tokens) for split in ("train", "test")}
    artifacts = runner.obtain(("vae", "latents", "graph", "codebook"))
    tokens = {split: tokens_of(artifacts["latents"].tensors(split)["mean"]).numpy() for split in labels}
    shown = load_quantizer(runner.context, artifacts)
    assert isinstance(shown, GeodesicKMedoids)
    graph = load_graph(artifacts["graph"])
    sizes = [n_codes for n_codes in SIZES if n_codes <= graph.n_nodes // 2]
    codebooks = {n_codes: codebook_of(runner, n_codes) for n_codes in sizes} | {config.quantizer.K: shown}
    codebooks = dict(sorted(codebooks.items()))
    print(f"{len(labels['train']):,} training tokens, {config.n_tokens} per image, {graph.n_nodes:,} of them distinct")

    unit = f"{graph.unit}²" if shown.exponent == 2 else graph.unit
    tell_rounds(codebooks, unit)
    held_out = {n_codes: codebook.encode(tokens["test"]) for n_codes, codebook in codebooks.items()}
    costs = {
        "training": np.array([each.inertia_ / len(labels["train"]) for each in codebooks.values()]),
        "test": np.array([(distance**shown.exponent).mean() for _, distance in held_out.values()]),
    }
    elbow = tell_elbow([*codebooks], costs, unit, shown.exponent)
    scores = {
        n_codes: scores_of(each.labels_, labels["train"], held_out[n_codes][0], labels["test"], config.seed)
        for n_codes, each in codebooks.items()
    }
    tell_scores(scores, config.n_tokens)

    pictures, title = decoded(runner, artifacts, shown), f"{config.data.name}, vae={config.vae.name}"
    drawn, axes, maps = panels(f"Geodesic k-medoids: {title}")
    draw_rounds(axes[0], codebooks)
    draw_elbow(axes[1], [*codebooks], costs, elbow, unit)
    draw_scores(axes[2], scores)
    draw_maps(maps, graph, shown, labels["train"], pictures, runner)
    save(drawn, runner, "kmedoids_geodesic_analysis")
    counts = torch.from_numpy(np.bincount(shown.encode_training(tokens["train"]), minlength=shown.n_codes))
    save(codebook_figure(pictures, counts, f"Medoids, decoded: {title}"), runner, "kmedoids_geodesic_medoids")


def codebook_of(runner: Runner, n_codes: int) -> GeodesicKMedoids:
    """The codebook of another size on the same graph, which the artifacts hold from the second time on."""
    config = runner.context.config
    quantizer = config.quantizer.model_copy(update={"K": n_codes})
    context = replace(runner.context, config=config.model_copy(update={"quantizer": quantizer}))
    found = load_quantizer(context, Runner(context, runner.announce).obtain(("graph", "codebook")))
    assert isinstance(found, GeodesicKMedoids)
    return found


def tell_rounds(codebooks: dict[int, GeodesicKMedoids], unit: str) -> None:
    print(f"\n1. Cost, {unit} summed over training tokens: after seeding, and after each round of swaps")
    firsts = []
    for n_codes, codebook in codebooks.items():
        history = codebook.cost_history_
        print(f"   K = {n_codes:>3}: " + " → ".join(f"{cost:.4g}" for cost in history))
        if history[0] > history[-1]:
            firsts.append((history[0] - history[1]) / (history[0] - history[-1]))
    if firsts:
        print(f"   Of all that swaps gain, the first round brings {min(firsts):.0%} to {max(firsts):.0%}.")


def tell_elbow(sizes: list[int], costs: dict[str, np.ndarray], unit: str, exponent: int = 2) -> int | None:
    """Print the cost over K; returns the K of the elbow, None where there is none.

    Of points that fill d dimensions evenly, the best codebooks cost ``∝ K^(−exponent/d)`` (Gersho 1979).
    """
    print(f"\n2. Codewords: cost per token, {unit}")
    print(f"{'K':>9}" + "".join(f"{name:>14}" for name in costs) + f"{'test/training':>16}")
    for place, n_codes in enumerate(sizes):
        train, test = (values[place] for values in costs.values())
        print(f"{n_codes:>9}{train:>14.4g}{test:>14.4g}{test / train:>16.2f}")
    if len(sizes) < 3:
        return None
    slope = np.diff(np.log(costs["test"])) / np.diff(np.log2(sizes))
    saved = 1 - np.exp(slope)
    print(f"   Each doubling of K takes {saved.min():.0%} to {saved.max():.0%} off the test cost.")
    power = np.polyfit(np.log(sizes), np.log(costs["test"]), 1)[0]
    print(f"   It falls like K^{power:.2f}, as for points that fill {-exponent / power:.1f} dimensions.")
    place = int(np.diff(slope).argmax())
    elbow = sizes[place + 1] if np.diff(slope)[place] > ELBOW else None
    if elbow is None:
        print("   No elbow: no doubling brings much less than the one before.")
    else:
        print(f"   Elbow at K = {elbow}: {saved[place]:.0%} per doubling before it, {saved[place + 1]:.0%} after it.")
    return elbow


def scores_of(
    codes: np.ndarray, labels: np.ndarray, test_codes: np.ndarray, test_labels: np.ndarray, seed: int
) -> Scores:
    """Of training codes and classes, all (N,); ``test``: the share of test tokens whose code is mostly of their class.

    A code is of the class that most of its training tokens have.
    """
    majority = _counts(codes, labels).argmax(axis=1)
    shuffled = np.random.default_rng(seed).permutation(codes)
    return Scores(
        purity(codes, labels),
        purity(shuffled, labels),
        float((majority[test_codes] == test_labels).mean()),
        float(normalized_mutual_info_score(labels, codes)),
        float(adjusted_rand_score(labels, codes)),
    )


def purity(codes: np.ndarray, labels: np.ndarray) -> float:
    """Share of tokens whose class is the most frequent one of their code: ``Σ_k max_c n_kc / N``."""
    return float(_counts(codes, labels).max(axis=1).sum() / len(codes))


def _counts(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Tokens of each code and class (K, C)."""
    table = np.zeros((codes.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(table, (codes, labels), 1)
    return table


def tell_scores(scores: dict[int, Scores], n_tokens: int) -> None:
    print("\n3. Classes: what codes tell of them, though no fit saw one")
    print(f"{'K':>9}{'purity':>10}{'shuffled':>10}{'test':>10}{'NMI':>10}{'ARI':>10}")
    for n_codes, each in scores.items():
        print(f"{n_codes:>9}" + "".join(f"{value:>10.3f}" for value in each))
    best = {name: max(scores, key=lambda k: getattr(scores[k], name)) for name in ("test", "nmi", "ari")}
    of = "images" if n_tokens == 1 else "tokens"
    print(
        f"   Codes name the class of {scores[best['test']].test:.0%} of the test {of} at K = {best['test']}.", end=" "
    )
    print("Purity alone")
    print(f"   rises with K even for shuffled codes; NMI is highest at K = {best['nmi']}, ARI at K = {best['ari']}.")
    if n_tokens > 1:
        print(f"   With {n_tokens} tokens per image a code is a part of a picture, which classes share.")


def panels(title: str) -> tuple[Figure, list[Axes], list[Axes]]:
    """A figure with three axes above, and two larger ones below."""
    drawn = new_figure(13.2, 9.6, title)
    parts = drawn.add_gridspec(2, 6, height_ratios=(1, 1.6))
    above = [drawn.add_subplot(parts[0, 2 * place : 2 * place + 2]) for place in range(3)]
    return drawn, above, [drawn.add_subplot(parts[1, :3]), drawn.add_subplot(parts[1, 3:])]


def draw_rounds(axes: Axes, codebooks: dict[int, GeodesicKMedoids]) -> None:
    plain(axes, "Cost of training tokens", "round of swaps", "share of the cost after seeding")
    for color, (n_codes, codebook) in zip(COLORS, codebooks.items(), strict=False):
        history = codebook.cost_history_
        axes.plot(history / history[0], marker="o", markersize=3, linewidth=1.5, color=color, label=f"K = {n_codes}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False)


def draw_elbow(axes: Axes, sizes: list[int], costs: dict[str, np.ndarray], elbow: int | None, unit: str) -> None:
    found = "no elbow" if elbow is None else f"elbow at {elbow}"
    plain(axes, f"Cost per token, {found}", "codewords, K", unit)
    for color, (name, values) in zip(COLORS, costs.items(), strict=False):
        axes.plot(sizes, values, marker="o", markersize=4, linewidth=1.5, color=color, label=name)
    if elbow is not None:
        axes.axvline(elbow, color=FAINT, linewidth=1, linestyle="--")
    _ticks_of_sizes(axes, sizes)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)


def draw_scores(axes: Axes, scores: dict[int, Scores]) -> None:
    plain(axes, "What codes tell of classes", "codewords, K", "score")
    names = ("purity", "purity, shuffled codes", "test tokens named", "NMI", "ARI")
    for color, name, values in zip(COLORS, names, zip(*scores.values(), strict=True), strict=False):
        style = "--" if "shuffled" in name else "-"
        axes.plot([*scores], values, style, marker="o", markersize=3, linewidth=1.5, color=color, label=name)
    _ticks_of_sizes(axes, [*scores])
    axes.set_ylim(0, 1.45)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)


def _ticks_of_sizes(axes: Axes, sizes: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n_codes) for n_codes in sizes])
    axes.minorticks_off()


def draw_maps(
    maps: list[Axes],
    graph: TokenGraph,
    codebook: GeodesicKMedoids,
    labels: np.ndarray,
    pictures: Tensor,
    runner: Runner,
) -> None:
    """On the two principal axes of the coordinates that neighbours are searched in: tokens, linked to their medoids and
    coloured by class; and what the medoids decode to, those left out that would cover another.
    """
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    names = runner.context.info.class_names
    points = graph.coordinates(graph.nodes).astype(np.float64)
    centred = points - points.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    flat = centred @ vectors[:, :-3:-1]  # largest eigenvalue first
    medoids = flat[codebook.medoid_nodes_]
    unit = "root-summed pixel error" if graph.search_transform is not None else "latent L2"
    kept = values[-2:].sum() / values.sum()
    extent = np.ptp(flat, axis=0)
    limits = np.stack((flat.min(axis=0) - 0.03 * extent, flat.max(axis=0) + 0.03 * extent))
    for axes, title in zip(
        maps, (f"{len(medoids)} cells; the two axes hold {kept:.0%} of the variance", "Medoids, decoded"), strict=True
    ):
        plain(axes, title, f"first principal axis, {unit}", f"second principal axis, {unit}")
        axes.set_aspect("equal")
        axes.set(xlim=limits[:, 0], ylim=limits[:, 1])

    chosen = np.random.default_rng(runner.context.config.seed).permutation(graph.n_nodes)[:MOST_POINTS]
    label = labels[np.unique(graph.token_node, return_index=True)[1]]
    majority = _counts(codebook.node_codes_, label).argmax(axis=1)
    palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
    spokes = np.stack((flat[chosen], medoids[codebook.node_codes_[chosen]]), axis=1)
    colors = [palette(majority[code] % palette.N) for code in codebook.node_codes_[chosen]]
    maps[0].add_collection(LineCollection(list(spokes), colors=colors, linewidths=0.5, alpha=0.35, rasterized=True))
    for place, name in enumerate(names):
        own = chosen[label[chosen] == place]
        maps[0].plot(*flat[own].T, ".", color=palette(place % palette.N), markersize=4, label=name)
    maps[0].plot(*medoids.T, "o", color=INK, markersize=4, markerfacecolor="white", label="medoid")
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1), "title": "class", "title_fontsize": 8}
    maps[0].legend(fontsize=8, frameon=False, **beside)

    side = 0.055 * extent.max()
    drawn: list[np.ndarray] = []
    for at, picture in zip(medoids, pictures, strict=True):
        if any(np.abs(at - other).max() < side for other in drawn):
            continue
        drawn.append(at)
        tile = picture.movedim(0, -1).clamp(0, 1).expand(-1, -1, 3).numpy()
        box = OffsetImage(tile, zoom=22 / tile.shape[0], interpolation="nearest")
        maps[1].add_artist(AnnotationBbox(box, at, frameon=False, pad=0))


def decoded(runner: Runner, artifacts: dict[str, Artifact], codebook: GeodesicKMedoids) -> Tensor:
    """Every codeword decoded, (K, C, H, W): alone, or filling a grid."""
    grid = runner.context.config.vae.grid
    filled = torch.from_numpy(codebook.cluster_centers_)[:, :, None, None].expand(-1, -1, grid, grid)
    return decode(load_vae(runner.context, artifacts).decoder, filled, runner.context.device)


if __name__ == "__main__":
    run_demo(main, __doc__)
