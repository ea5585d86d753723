"""From one image to another: straight through latent space, along the graph, and along a geodesic.

    python demos/geodesic_paths.py                    # scikit-learn's digits, a minute the first time
    python demos/geodesic_paths.py data=fashion       # Fashion-MNIST; with debug=fast a first look
    python demos/geodesic_paths.py data=fashion seed=3

A VAE with one latent per image (vae=flat) is trained, its latents are linked into the re-weighted neighbour graph, and
three curves are drawn between images of different classes:

1. straight: the latents are mixed in equal steps;
2. graph: the shortest path, whose stops are latents of real images;
3. geodesic: that path with its energy minimised, so that pixels change least: it fades where the graph path turns.

Their decoded lengths are printed: how far the picture travels, in root-summed pixel error. The figure is written to
<output folder>/demos/geodesic_paths.png (the output folder is GEOVQ_ROOT or experiments/).
"""

from __future__ import annotations

import numpy as np
import torch
from _pipeline import labels_of, run_demo, runner_of, save
from torch import Tensor

from geovq.errors import ConfigError
from geovq.geometry.curves import curve_length, path_images, refine_paths
from geovq.geometry.paths import shortest_path
from geovq.pipeline.stages.graph import load_graph
from geovq.pipeline.stages.vae import load_vae

N_PAIRS, N_FRAMES = 4, 11
ROWS = ("straight", "graph", "geodesic")


def main(overrides: list[str]) -> None:
    runner = runner_of("data=digits", "vae=flat", *overrides)
    if runner.context.config.n_tokens > 1:
        raise ConfigError(f"vae={runner.context.config.vae.name}: paths are drawn between whole images; leave it out")
    artifacts = runner.obtain(("vae", "latents", "graph"))
    decoder = load_vae(runner.context, artifacts).cpu().decoder
    graph = load_graph(artifacts["graph"])

    def decode(points: Tensor) -> Tensor:
        return decoder(points[:, :, None, None])

    nodes = torch.from_numpy(graph.nodes)
    pairs = pairs_of_classes(labels_of(runner, "train"), np.random.default_rng(runner.context.config.seed))
    paths = []
    for a, b in pairs:
        stops, _ = shortest_path(graph.adjacency, graph.token_node[a], graph.token_node[b])
        paths.append(nodes[stops])
    curves = refine_paths(decode, paths, n_points=33)
    images: list[list[Tensor]] = []
    print(f"{'pair':<16}{'straight':>10}{'graph':>10}{'geodesic':>10}   decoded length, root-summed pixel error")
    for path, geodesic, (a, b) in zip(paths, curves.points, pairs, strict=True):
        ends = torch.stack((path[0], path[-1]))
        shown = [torch.lerp(ends[0], ends[1], share) for share in torch.linspace(0, 1, N_FRAMES)]
        images.append(
            [
                path_images(decode, torch.stack(shown)),
                path_images(decode, path, n_images=N_FRAMES),
                path_images(decode, geodesic, n_images=N_FRAMES),
            ]
        )
        lengths = [float(curve_length(decode, points)) for points in (torch.stack(shown), path, geodesic)]
        print(f"{f'images {a}, {b}':<16}" + "".join(f"{length:>10.2f}" for length in lengths))
    n_open = int((~curves.converged).sum())
    if n_open:
        print(f"After {int(curves.n_iter.max())} iterations {n_open} of {N_PAIRS} had not converged: ", end="")
        print("shorter ones may exist")
    save(figure(images), runner, "geodesic_paths")


def pairs_of_classes(labels: Tensor, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Random training images of different classes."""
    pairs: list[tuple[int, int]] = []
    while len(pairs) < N_PAIRS:
        a, b = rng.choice(len(labels), 2, replace=False)
        if labels[a] != labels[b]:
            pairs.append((int(a), int(b)))
    return pairs


def figure(images: list[list[Tensor]]):  # type: ignore[no-untyped-def]
    """Three strips of images per pair."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(N_FRAMES * 0.75, len(images) * len(ROWS) * 0.8), layout="constrained")
    axes = drawn.subplots(len(images) * len(ROWS), 1)
    for axis, strip, name in zip(
        axes, [strip for strips in images for strip in strips], ROWS * len(images), strict=True
    ):
        canvas = torch.cat([frame.movedim(0, -1) for frame in strip], dim=1).clamp(0, 1)
        axis.imshow(canvas.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    return drawn


if __name__ == "__main__":
    run_demo(main, __doc__)
