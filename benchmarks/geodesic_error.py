"""Relative error of graph geodesics against exact ones on surfaces where these are known.

    python benchmarks/geodesic_error.py [FIGURE]

Latents are sampled uniformly over each surface, the graph is built from their analytic metric tensors, and shortest
paths between random nodes are compared with the exact distance, as found and after refinement. Prints tables over k
(at N = 10,000), over N (at k = 20) and over the points per refined curve, and writes the figure (default
docs/images/geodesic_error.png). Then, where latent distance and the metric disagree: a plane whose chart is drawn out
in one direction, with neighbours sought in each way, and a saddle, with the metric of a node its own or the mean of its
neighbours. Two minutes.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import torch

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "src"))

from geovq.errors import InputError
from geovq.geometry.checks import Array
from geovq.geometry.curves import refine_paths
from geovq.geometry.graph import Search, build_graph
from geovq.geometry.paths import NearestSource, nearest_sources
from surfaces import Flat, Manifold, Sphere, SwissRoll, uniform_square
from surfaces_of_revolution import Bell, Paraboloid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANIFOLDS: dict[str, Manifold] = {
    "flat": Flat(),
    "sphere": Sphere(),
    "swiss roll": SwissRoll(),
    "paraboloid": Paraboloid(),
    "bell": Bell(),
}
K, N = 20, 10_000
KS = (6, 10, 15, 20, 30, 40, 60, 80)
NS = (500, 1_000, 2_000, 5_000, 10_000, 20_000)
POINTS, POINT_COUNTS = 64, (9, 17, 33, 64, 129)
STRETCHES, SADDLE_NS = (1, 4, 16), (500, 10_000)
SEED = 0
GRAPH_GOAL, REFINED_GOAL = 0.02, 0.005


class Saddle(Manifold):
    """``D(u, v) = (u, v, u² − v²)`` over the square of side 2; its geodesics are known by refinement only."""

    def embed(self, points: torch.Tensor) -> torch.Tensor:
        u, v = points.unbind(dim=1)
        return torch.stack((u, v, u.square() - v.square()), dim=1)

    def metric(self, points: torch.Tensor) -> torch.Tensor:
        u, v = points.unbind(dim=1)
        return torch.stack((1 + 4 * u.square(), -4 * u * v, 1 + 4 * v.square()), dim=1)

    def distance(self, a: Array, b: Array) -> np.ndarray:
        raise InputError("the saddle's distances have no formula: take refined curves")

    def sample(self, n_points: int, seed: int) -> torch.Tensor:
        return torch.from_numpy(2 * uniform_square(n_points, seed) - 1)


class Errors(NamedTuple):
    """Relative errors ``|length / distance − 1|`` of the same pairs, ``(P,)`` each."""

    graph: np.ndarray
    refined: np.ndarray


def geodesic_errors(
    manifold: Manifold,
    n_tokens: int,
    k: int,
    seed: int,
    n_sources: int = 20,
    n_targets: int = 20,
    n_points: int = POINTS,
    search: Search = "latent",
    context: Literal["own", "neighbours"] = "own",
) -> Errors:
    """Errors of shortest paths between ``n_sources`` x ``n_targets`` random distinct nodes, all kept.

    Where distances have no formula the refined curve stands for them.
    """
    latents = manifold.sample(n_tokens, seed)
    graph = build_graph(latents, manifold.metric(latents), k=k, search=search, context=context)
    chosen = np.random.default_rng(seed).choice(graph.n_nodes, n_sources + n_targets, replace=False)
    lengths, paths = [], []
    nodes = torch.from_numpy(graph.nodes).double()
    for source in chosen[:n_sources]:
        nearest = nearest_sources(graph.adjacency, np.array([source]))
        for target in chosen[n_sources:]:
            lengths.append(nearest.distance[target])
            paths.append(nodes[nodes_to(nearest, int(target))])
    refined = refine_paths(manifold.embed, paths, n_points=n_points, batch_size=len(paths)).lengths.numpy()
    ends = (torch.stack([path[end] for path in paths]) for end in (0, -1))
    exact = refined if isinstance(manifold, Saddle) else manifold.distance(*ends)
    return Errors(np.abs(np.array(lengths) / exact - 1), np.abs(refined / exact - 1))


def nodes_to(nearest: NearestSource, target: int) -> list[int]:
    """Nodes from the source to ``target``."""
    nodes = [target]
    while nearest.predecessor[nodes[-1]] >= 0:
        nodes.append(int(nearest.predecessor[nodes[-1]]))
    return nodes[::-1]


def main() -> None:
    figure = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs/images/geodesic_error.png"
    print(f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores; {time.strftime('%Y-%m-%d')}")
    print(f"relative error in %, median (95th percentile) of 400 pairs of nodes, seed {SEED}")
    begun = time.perf_counter()
    by_k = sweep("k", f"over k, at N = {N:,} and {POINTS} points", KS, lambda k: (N, k, POINTS))
    by_n = sweep("N", f"over N, at k = {K} and {POINTS} points", NS, lambda n: (n, K, POINTS))
    by_points = sweep(
        "points",
        f"over points, at N = 1,000 and k = {K}",
        POINT_COUNTS,
        lambda points: (1_000, K, points),
        kinds=("refined",),
    )
    at_default = [errors[KS.index(K)] for errors in by_k.values()]
    worst_graph = max(float(np.median(errors.graph)) for errors in at_default)
    worst_refined = max(float(np.median(errors.refined)) for errors in at_default)
    print(f"\nat N = {N:,}, k = {K}: largest median {100 * worst_graph:.2f} % as found "
          f"(goal <= {100 * GRAPH_GOAL:g} %), {100 * worst_refined:.4f} % refined "
          f"(goal <= {100 * REFINED_GOAL:g} %)")  # fmt: skip
    stretched_sheet()
    saddle()
    draw(by_k, by_n, by_points, figure)
    print(f"{time.perf_counter() - begun:.0f} s; wrote {figure}")


def stretched_sheet() -> None:
    """Errors on a plane with metric diag(1, s²), over the coordinates that neighbours are sought in."""
    print(f"\nflat sheet with metric diag(1, s²), N = {N:,}, k = {K}, graph path")
    print(f"{'geo.search':<20}" + "".join(f"{f's = {s}':>16}" for s in STRETCHES))
    for search in get_args(Search):
        cells = []
        for s in STRETCHES:
            sheet = Flat(np.array([[1, 0], [0, s], [0, 0]]))
            cells.append(_cell(geodesic_errors(sheet, N, K, SEED, n_points=9, search=search).graph))
        print(f"{search:<20}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


def saddle() -> None:
    """Errors on a saddle against refined curves, over what a node's metric is, with few and with many tokens."""
    print("\nsaddle, k = 40, graph path against the refined curve")
    print(f"{'geo.context':<20}" + "".join(f"{f'N = {n:,}':>16}" for n in SADDLE_NS))
    for context in ("own", "neighbours"):
        cells = [
            _cell(geodesic_errors(Saddle(), n, 40, SEED, search="whitened", context=context).graph) for n in SADDLE_NS
        ]
        print(f"{context:<20}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


def _cell(errors: np.ndarray, digits: int = 2) -> str:
    """Median and 95th percentile in percent."""
    median, tail = 100 * np.quantile(errors, [0.5, 0.95])
    return f"{median:.{digits}f} ({tail:.{digits}f})"


def sweep(
    name: str,
    title: str,
    values: tuple[int, ...],
    settings: Callable[[int], tuple[int, int, int]],
    kinds: tuple[str, ...] = Errors._fields,
) -> dict[str, list[Errors]]:
    """Errors of every manifold at ``settings(value)`` = (N, k, points per curve), printed as they come."""
    print(f"\n{title}\n{name:<20}" + "".join(f"{value:>16,}" for value in values), flush=True)
    results: dict[str, list[Errors]] = {}
    for label, manifold in MANIFOLDS.items():
        results[label] = [
            geodesic_errors(manifold, n, k, SEED, n_points=points) for n, k, points in map(settings, values)
        ]
        for kind in kinds:
            texts = (_cell(getattr(errors, kind), 2 if kind == "graph" else 4) for errors in results[label])
            print(f"{label + ', ' + kind:<20}" + "".join(f"{text:>16}" for text in texts), flush=True)
    return results


def draw(
    by_k: dict[str, list[Errors]], by_n: dict[str, list[Errors]], by_points: dict[str, list[Errors]], path: Path
) -> None:
    """Median errors over k, N and the points per curve, refined ones dashed, with the goals."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from geovq.viz.style import COLORS, INK, LABEL_SIZE, SMALL_SIZE, TITLE_SIZE

    figure = Figure(figsize=(12.5, 4.8), dpi=120, layout="constrained", facecolor="white")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    _panel(left, KS, by_k, f"N = {N:,} tokens", "k, neighbours per token")
    _panel(middle, NS, by_n, f"k = {K} neighbours", "N, tokens")
    _panel(right, POINT_COUNTS, by_points, f"N = 1,000, k = {K}", "points per refined curve", kinds=("refined",))
    left.set_ylabel("median relative error of the length (%)", fontsize=LABEL_SIZE, color=INK)
    lines = [Line2D([], [], color=color, label=label) for label, color in zip(by_k, COLORS, strict=False)]
    lines += [Line2D([], [], color=INK, label="graph path"), Line2D([], [], color=INK, ls="--", label="refined")]
    figure.legend(handles=lines, loc="outside lower center", ncols=7, fontsize=SMALL_SIZE, frameon=False)
    figure.suptitle(
        f"Graph geodesics against exact ones: 400 pairs each, seed {SEED}, {time.strftime('%Y-%m-%d')}",
        fontsize=TITLE_SIZE, color=INK, x=0.01, ha="left",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


# Below this an error is rounding (the flat control is refined to it); a logarithmic axis needs a floor.
FLOOR_PERCENT = 1e-5


def _panel(
    axes: Axes,
    x: tuple[int, ...],
    results: dict[str, list[Errors]],
    title: str,
    label: str,
    kinds: tuple[str, ...] = Errors._fields,
) -> None:
    from geovq.viz.style import COLORS, FAINT, INK, LABEL_SIZE, SMALL_SIZE

    for color, errors in zip(COLORS, results.values(), strict=False):
        for kind in kinds:
            style = "-" if kind == "graph" else "--"
            medians = [max(100 * float(np.median(getattr(each, kind))), FLOOR_PERCENT) for each in errors]
            axes.plot(x, medians, color=color, linestyle=style, linewidth=1.5, marker="o", markersize=3.5)
    for goal, name in ((GRAPH_GOAL, "goal, graph path"), (REFINED_GOAL, "goal, refined")):
        axes.axhline(100 * goal, color=FAINT, linewidth=0.8, linestyle=":")
        axes.text(
            x[-1],
            100 * goal * 1.1,
            f"{name}: {100 * goal:g} %",
            ha="right",
            va="bottom",
            fontsize=SMALL_SIZE - 1,
            color=FAINT,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(x, [f"{value:,}" for value in x])
    ticks = [FLOOR_PERCENT * 10**power for power in range(7)]
    axes.set_yticks(ticks, [f"≤ {FLOOR_PERCENT:.5f}", *(f"{tick:g}" for tick in ticks[1:])])
    axes.minorticks_off()
    axes.set_ylim(0.6 * FLOOR_PERCENT, 20)
    axes.set_title(title, fontsize=LABEL_SIZE, color=INK, loc="left")
    axes.set_xlabel(label, fontsize=LABEL_SIZE, color=INK)
    axes.tick_params(labelsize=SMALL_SIZE, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


if __name__ == "__main__":
    main()
