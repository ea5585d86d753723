"""What the latents of a VAE are like before any codebook, and what the neighbour graph makes of them.

    python demos/vae_knn_analysis.py                    # scikit-learn's digits, a minute the first time
    python demos/vae_knn_analysis.py vae=spatial        # a grid of tokens per image in place of one
    python demos/vae_knn_analysis.py data=fashion       # Fashion-MNIST; with debug=fast a first look

A VAE with one latent per image (vae=flat) is trained, and its training latents are linked into the neighbour graph.
Printed and drawn are, each with its unit:

1. latents: mean, variance and KL divergence of each dimension, and how many the posterior uses at all;
2. graph: links per token, lengths of edges, and how many components there were before they were joined;
3. intrinsic dimension, by the two nearest neighbours (Facco et al. 2017) and by maximum likelihood over all neighbours
   (Levina, Bickel 2004), beside Gaussian clouds of as many points, of the same covariance and of unit variance;
4. classes: how many neighbours are of the same class, beside chance;
5. metric: how the length of an edge by the decoder's metric goes with its length in latent space.

The figure is written to <output folder>/demos/vae_knn_analysis.png (the output folder is GEOVQ_ROOT or experiments/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from _intrinsic_dimension import TwoNearest, levina_bickel, two_nearest
from _pipeline import labels_of, run_demo, runner_of, save
from scipy.stats import spearmanr

from geovq.errors import ConfigError
from geovq.geometry.graph import TokenGraph
from geovq.geometry.neighbors import NeighborIndex
from geovq.models.tokens import tokens_of
from geovq.pipeline.stages.graph import load_graph
from geovq.pipeline.stages.latents import ACTIVE_BITS, rate_summary
from geovq.viz.style import COLORS, FAINT, new_figure, plain, write_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 20_000
"""Tokens that intrinsic dimension and classes are measured on, and edges that are drawn; more are drawn at random."""


def main(overrides: list[str]) -> None:
    runner = runner_of("data=digits", "vae=flat", *overrides)
    config = runner.context.config
    if config.geo.metric == "none":
        raise ConfigError("geo.metric=none: the demo sets the decoder's metric beside latent space; take geo=sketch")
    labels = labels_of(runner, "train").numpy()
    artifacts = runner.obtain(("latents", "graph"))
    posterior, graph = artifacts["latents"].tensors("train"), load_graph(artifacts["graph"])
    rng = np.random.default_rng(config.seed)
    print(f"{len(labels):,} training images, {config.n_tokens} token(s) of {config.vae.dim} dimensions each")

    bits = tell_latents(posterior)
    tell_graph(graph)
    chosen = rng.permutation(graph.n_nodes)[:MOST_POINTS]
    fits = tell_dimension(graph, chosen, rng)
    image = np.unique(graph.token_node, return_index=True)[1] // config.n_tokens  # that a node occurs in first
    names = runner.context.info.class_names
    shares = tell_classes(graph, labels, image, chosen, names)
    lengths = tell_lengths(graph)
    title = f"Latents and neighbours: {config.data.name}, vae={config.vae.name}"
    save(figure(title, bits, graph, fits, shares, names, lengths, rng), runner, "vae_knn_analysis")


def tell_latents(posterior: dict) -> np.ndarray:
    """Statistics over all training tokens; returns the KL divergence of each dimension in bits per token, (d,)."""
    summary = rate_summary(posterior["mean"], posterior["log_variance"])
    bits = np.array(summary["kl_bits_per_dimension"])
    tokens = tokens_of(posterior["mean"]).double().numpy()
    mean, spread = tokens.mean(axis=0), tokens.var(axis=0)
    noise = tokens_of(posterior["log_variance"]).double().exp().mean(dim=0).numpy()
    active = bits > ACTIVE_BITS
    print(f"\n1. Latents: {bits.sum():.1f} bits per token, {active.sum()} of {len(bits)} dimensions active", end=" ")
    print(f"(above {ACTIVE_BITS} bits)")
    print(f"{'':<12}{'mean of μ':>20}{'variance of μ':>20}{'mean of σ²':>20}{'KL, bits per token':>22}")
    for name, part in (("active", active), ("dead", ~active)):
        if part.any():
            cells = (f"{values[part].min():.3g} to {values[part].max():.3g}" for values in (mean, spread, noise, bits))
            print(
                f"{name:<12}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, (20, 20, 20, 22), strict=True))
            )
    total = spread[active] + noise[active]
    print(f"   variance of μ plus mean σ² is {total.min():.2f} to {total.max():.2f} where active; N(0, 1) has 1.")
    half = np.searchsorted(np.cumsum(np.sort(bits)[::-1]), bits.sum() / 2) + 1
    print(f"   The {half} dimensions with most bits carry half of all.")
    return bits


def tell_graph(graph: TokenGraph) -> None:
    degrees, lengths = np.diff(graph.adjacency.indptr), graph.adjacency.data
    low, middle, high = np.percentile(lengths, (5, 50, 95))
    print(
        f"\n2. Graph: {graph.n_nodes:,} distinct tokens, {graph.n_edges:,} edges; {graph.k} neighbours asked for each"
    )
    print(f"   links per token: {degrees.min()} to {degrees.max()}, median {np.median(degrees):.0f}", end="; ")
    print(f"a tenth of the tokens holds {_share_of_tenth(degrees):.0%} of all link ends")
    print(f"   length of an edge: median {middle:.3g}, 5 to 95 % {low:.3g} to {high:.3g} root-summed pixel error")
    if graph.n_components == 1:
        print("   It is one component as it is: no edge had to be added.")
    else:
        print(f"   It had {graph.n_components} components, joined by {graph.n_joined} edges.")


def _share_of_tenth(degrees: np.ndarray) -> float:
    ranked = np.sort(degrees)[::-1]
    return float(ranked[: max(1, len(ranked) // 10)].sum() / ranked.sum())


def tell_dimension(graph: TokenGraph, chosen: np.ndarray, rng: np.random.Generator) -> dict[str, TwoNearest]:
    """Both estimates in latent space, in the coordinates that neighbours are searched in, and of Gaussian clouds."""
    same = "Gaussian, same covariance"
    latents = graph.nodes[chosen]
    clouds = {"latent space": latents}
    if graph.search_transform is not None:
        clouds["pixel error"] = graph.coordinates(latents)
    covariance = np.atleast_2d(np.cov(latents, rowvar=False))
    clouds[same] = rng.multivariate_normal(latents.mean(axis=0), covariance, len(latents)).astype(np.float32)
    clouds[f"Gaussian in {latents.shape[1]}"] = rng.standard_normal(latents.shape).astype(np.float32)
    print(f"\n3. Intrinsic dimension by {len(chosen):,} tokens")
    print(f"{'':<28}{'two nearest':>14}{'likelihood':>14}")
    fits = {}
    for name, points in clouds.items():
        near = np.sqrt(NeighborIndex(points).neighbors(graph.k).squared_distances)
        fits[name] = two_nearest(near)
        print(f"   {name:<25}{fits[name].dimension:>14.1f}{levina_bickel(near):>14.1f}")
    own, control = fits["latent space"].dimension, fits[same].dimension
    verdict = "as much" if own > 0.95 * control else f"{own / control:.0%} of that"
    print(f"   So few points of a Gaussian with their covariance look like {control:.1f}: the latents fill {verdict}.")
    return fits


def tell_classes(
    graph: TokenGraph, labels: np.ndarray, image: np.ndarray, chosen: np.ndarray, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Shares of neighbours of the same class, per class (C,): near in latent space, near in pixel error, by chance.

    Neighbours in the same image are left out, since they share its class whatever the latents are.
    """
    label = labels[image]
    counts = np.bincount(label, minlength=len(names))
    found = {"latent space": graph.nodes}
    if graph.search_transform is not None:
        found["pixel error"] = graph.coordinates(graph.nodes)
    shares = {}
    for name, points in found.items():
        near = NeighborIndex(points).search(points[chosen], graph.k + 1).indices
        others = image[near] != image[chosen, None]
        same = others & (label[near] == label[chosen, None])
        per_class = [(same[label[chosen] == c].sum(), others[label[chosen] == c].sum()) for c in range(len(names))]
        shares[name] = np.array([hits / max(1, total) for hits, total in per_class])
    shares["chance"] = (counts - 1).clip(min=0) / max(1, len(label) - 1)
    weight = np.bincount(label[chosen], minlength=len(names)) / len(chosen)
    mean = {name: float(share @ weight) for name, share in shares.items()}
    best = max(found, key=lambda name: mean[name])
    print(f"\n4. Classes: of {graph.k} neighbours in other images, the same class have")
    print("   " + ", ".join(f"{mean[name]:.1%} by nearness in {name}" for name in found), end="; ")
    print(f"by chance {mean['chance']:.1%}")
    order = np.argsort(shares[best])
    print(f"   Purest by {best}: {names[order[-1]]} ({shares[best][order[-1]]:.0%}),", end=" ")
    print(f"most mixed: {names[order[0]]} ({shares[best][order[0]]:.0%}).")
    return shares


def tell_lengths(graph: TokenGraph) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of all edges: Euclidean in latent space, and by the metric, both (E,)."""
    rows = np.repeat(np.arange(graph.n_nodes), np.diff(graph.adjacency.indptr))
    upper = rows < graph.adjacency.indices
    a, b = rows[upper], graph.adjacency.indices[upper]
    euclidean = np.linalg.norm(graph.nodes[a] - graph.nodes[b], axis=1)
    riemannian = graph.adjacency.data[upper]
    ratio = riemannian / euclidean
    low, middle, high = np.percentile(ratio, (5, 50, 95))
    rank = spearmanr(euclidean, riemannian).statistic
    print(f"\n5. Metric: {len(ratio):,} edges by the decoder's metric (pixel) and in latent space (latent)")
    print(f"   rank correlation (Spearman) of the two lengths: {rank:.2f}")
    print(f"   ratio: median {middle:.3g} pixel per latent, 5 to 95 % {low:.3g} to {high:.3g}")
    print(
        f"   A latent step changes the image up to {high / low:.1f} times as much as another of the same length (95 to"
    )
    print(f"   5 %): latent distance tells {rank**2:.0%} of the variance of the ranks of edges.")
    return euclidean, riemannian


def figure(
    title: str,
    bits: np.ndarray,
    graph: TokenGraph,
    fits: dict[str, TwoNearest],
    shares: dict[str, np.ndarray],
    names: tuple[str, ...],
    lengths: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> Figure:
    """A panel for each of the five, and one for the ratio of lengths."""
    drawn = new_figure(13.2, 7.2, title)
    axes = drawn.subplots(2, 3).flat
    draw_rate(axes[0], bits)
    draw_degrees(axes[1], graph)
    draw_two_nearest(axes[2], fits)
    draw_classes(axes[3], shares, names)
    draw_lengths(axes[4], *lengths, rng)
    draw_ratios(axes[5], *lengths)
    return drawn


def draw_rate(axes: Axes, bits: np.ndarray) -> None:
    ranked = np.sort(bits)[::-1]
    plain(axes, f"KL: {bits.sum():.1f} bits per token", "dimension, by rank", "bits per token")
    colors = [COLORS[0] if value > ACTIVE_BITS else FAINT for value in ranked]
    axes.bar(np.arange(1, len(ranked) + 1), ranked, color=colors)


def draw_degrees(axes: Axes, graph: TokenGraph) -> None:
    degrees = np.diff(graph.adjacency.indptr)
    plain(axes, f"Links per token, median {np.median(degrees):.0f}", "links", "tokens")
    axes.hist(degrees, bins=min(40, int(np.ptp(degrees)) + 1), color=COLORS[0])
    axes.axvline(graph.k, color=FAINT, linewidth=1, linestyle="--")
    axes.set_ylim(top=1.1 * axes.get_ylim()[1])
    write_beside(axes, f"{graph.k} asked for", (graph.k, axes.get_ylim()[1]), (3, -9))


def draw_two_nearest(axes: Axes, fits: dict[str, TwoNearest]) -> None:
    plain(axes, "Intrinsic dimension: slope of the line", "log(r₂ / r₁)", "−log(1 − share of tokens)")
    for color, (name, fit) in zip(COLORS, fits.items(), strict=False):
        shown = slice(0, len(fit.log_ratio) - 1)
        axes.plot(fit.log_ratio[shown], fit.log_share[shown], ".", color=color, markersize=2)
        end = fit.log_ratio[fit.n_fitted - 1]
        axes.plot([0, end], [0, fit.dimension * end], color=color, linewidth=1.5, label=f"{name}: {fit.dimension:.1f}")
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def draw_classes(axes: Axes, shares: dict[str, np.ndarray], names: tuple[str, ...]) -> None:
    plain(axes, "Neighbours of the same class", "", "share")
    places, width = np.arange(len(names)), 0.8 / (len(shares) - 1)
    for number, (name, share) in enumerate((name, share) for name, share in shares.items() if name != "chance"):
        axes.bar(places + (number - (len(shares) - 2) / 2) * width, share, width, color=COLORS[number], label=name)
    for place, chance in zip(places, shares["chance"], strict=True):
        axes.plot([place - 0.4, place + 0.4], [chance, chance], color="black", linewidth=1.5)
    axes.plot([], [], color="black", linewidth=1.5, label="chance")
    axes.set_ylim(0, 1.18)
    is_long = max(map(len, names)) > 3
    axes.set_xticks(places, names, rotation=40 if is_long else 0, ha="right" if is_long else "center")
    axes.grid(False, axis="x")
    axes.legend(fontsize=8, frameon=False, loc="upper center", ncols=3)


def draw_lengths(axes: Axes, euclidean: np.ndarray, riemannian: np.ndarray, rng: np.random.Generator) -> None:
    rank = spearmanr(euclidean, riemannian).statistic
    plain(axes, f"Edges: rank correlation {rank:.2f}", "length, latent L2", "length, root-summed pixel error")
    shown = rng.permutation(len(euclidean))[:MOST_POINTS]
    axes.plot(euclidean[shown], riemannian[shown], ".", color=COLORS[0], markersize=1, alpha=0.3, rasterized=True)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def draw_ratios(axes: Axes, euclidean: np.ndarray, riemannian: np.ndarray) -> None:
    ratio = riemannian / euclidean
    plain(axes, f"Stretch: median {np.median(ratio):.2g} pixel per latent", "pixel per latent unit", "edges")
    axes.hist(ratio, bins=60, range=(0, float(np.percentile(ratio, 99.5))), color=COLORS[0])


if __name__ == "__main__":
    run_demo(main, __doc__)
