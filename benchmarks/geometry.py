"""Claims of speed of the geometry engine, each beside its peer in one run, as medians.

    python benchmarks/geometry.py [whole] [growth] [dense] [neighbours] [sketch] [edges] [assignment] [codes]

Without arguments: all of them, about an hour on two cores. They need real Fashion-MNIST (GEOVQ_DATA or data/) and the
default VAE for it: trained first where GEOVQ_ROOT or experiments/ does not hold it yet, and the ``bench`` extra
(``pip install -e .[bench]``).
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "src"))

from geovq.geometry.graph import build_graph
from geovq.geometry.metric import posterior_metrics, token_metrics
from geovq.models.tokens import tokens_of
from geovq.quantizers import GeodesicKMedoids

Lines = list[str]


def main() -> None:
    chosen = sys.argv[1:] or list(BENCHMARKS)
    cores = len(os.sched_getaffinity(0))
    print(f"machine: {platform.processor() or platform.machine()}, {cores} cores; {time.strftime('%Y-%m-%d')}; seed 0")
    for name in chosen:
        for line in BENCHMARKS[name]():
            print(f"{name:<10} {line}", flush=True)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = function()
    return time.perf_counter() - begun, result


def medians(ours: Callable[[], Any], peer: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Seconds of the two, taken in turn so that drift of the machine hits both."""
    pairs = [(timed(ours)[0], timed(peer)[0]) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


@lru_cache(maxsize=1)
def fashion() -> dict[str, Any]:
    """The default VAE and the latents of all 60,000 training images, 960,000 tokens, in the order of the splits."""
    from hydra import compose, initialize_config_dir

    from geovq.commands.train import open_data, read_config
    from geovq.pipeline.runner import Runner, to_standard_error
    from geovq.pipeline.stage import Context
    from geovq.pipeline.stages.vae import load_vae

    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        config = read_config(compose("train", ["data=fashion", "quantizer=geodesic"]))
    context = Context(config, *open_data(config))
    artifacts = Runner(context, to_standard_error).obtain(("vae", "latents"))
    objective = load_vae(context, artifacts).cpu()
    splits = [artifacts["latents"].tensors(split) for split in ("train", "validation")]
    latents = {name: torch.cat([split[name] for split in splits]) for name in splits[0]}
    return {
        "vae": objective.vae,
        "beta": float(objective.controller.beta),
        "validation": splits[1]["mean"],
        "validation_images": context.data.validation.images.float() / 255,
        "test": artifacts["latents"].tensors("test")["mean"],
        "test_images": context.data.test.images.float() / 255,
        **latents,
    }


def codebook_of(n_images: int, metric: str) -> tuple[float, dict[str, float]]:
    """From latents to codebook and codes of their tokens: seconds in all, and by step."""
    prepared = fashion()
    mean, log_variance = prepared["mean"][:n_images], prepared["log_variance"][:n_images]
    steps: dict[str, float] = {}
    if metric == "posterior":
        steps["metrics"], metrics = timed(lambda: posterior_metrics(log_variance, scale=prepared["beta"] / 2))
    else:
        steps["metrics"], metrics = timed(lambda: token_metrics(prepared["vae"].decoder, mean))
    tokens = tokens_of(mean).numpy()
    steps["graph"], graph = timed(partial(build_graph, tokens, metrics, k=20, context="neighbours"))
    del metrics
    steps["codebook"], fitted = timed(lambda: GeodesicKMedoids(512).fit(tokens, graph=graph))
    steps["codes"], codes = timed(lambda: fitted.encode_training(tokens))
    assert len(codes) == len(tokens)
    return sum(steps.values()), steps


def in_fresh_process(n_images: int, metric: str) -> tuple[float, float, str]:
    """``codebook_of`` in a process of its own: seconds, peak resident GB, the steps in words."""
    fashion()  # trains what is missing, outside the measurement
    command = [sys.executable, __file__, "_codebook", str(n_images), metric]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    seconds, peak, words = answer.split("|")
    return float(seconds), float(peak), words


def answer_codebook(n_images: int, metric: str) -> None:
    """The other side of ``in_fresh_process``; a small run first, so that nothing is compiled in the measured one."""
    codebook_of(300, metric)
    seconds, steps = codebook_of(n_images, metric)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    print(f"{seconds}|{peak}|{', '.join(f'{name} {value:.0f} s' for name, value in steps.items())}")


def whole() -> Lines:
    lines = []
    for metric, goal in (("sketch", "<= 300 s, <= 6 GB"), ("posterior", "<= 150 s")):
        seconds, peak, words = in_fresh_process(60_000, metric)
        lines.append(f"960,000 tokens, K = 512, {metric}: {seconds:.0f} s ({words}), peak {peak:.1f} GB (goal {goal})")
    return lines


def growth() -> Lines:
    sizes = (3_750, 15_000, 60_000)
    seconds = [in_fresh_process(size, "sketch")[0] for size in sizes]
    exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    listed = ", ".join(f"{size * 16:,}: {value:.1f} s" for size, value in zip(sizes, seconds, strict=True))
    return [f"tokens: seconds {listed}; exponent {exponent:.2f} (goal <= 1.15)"]


def dense() -> Lines:
    """All pairs and FasterPAM against ours, on the same graph of 10,000 tokens."""
    import kmedoids
    from scipy.sparse.csgraph import dijkstra

    prepared = fashion()
    mean = prepared["mean"][:625]
    tokens = tokens_of(mean).numpy()
    graph = build_graph(tokens, token_metrics(prepared["vae"].decoder, mean), k=20, context="neighbours")
    GeodesicKMedoids(10, max_iter=1).fit(tokens, graph=graph)  # compiles
    lines = []
    for n_codes in (64, 512):

        def ours(n_codes: int = n_codes) -> Any:
            return GeodesicKMedoids(n_codes).fit(tokens, graph=graph)

        def peer(n_codes: int = n_codes) -> Any:
            table = dijkstra(graph.adjacency, directed=False) ** 2
            # FasterPAM knows no weights: a token that occurs twice stands in the table twice.
            per_token = table[graph.token_node][:, graph.token_node]
            return kmedoids.fasterpam(per_token, n_codes, init="random", random_state=0)

        a, b, costs = [], [], []
        for _ in range(3):
            seconds, fitted = timed(ours)
            a.append(seconds)
            seconds, found = timed(peer)
            b.append(seconds)
            costs.append(fitted.inertia_ / found.loss)
        fast, slow = statistics.median(a), statistics.median(b)
        lines.append(
            f"10,000 tokens, K = {n_codes}: ours {fast:.2f} s, all pairs + FasterPAM {slow:.1f} s, "
            f"{slow / fast:.0f} times faster (goal >= 20), cost {statistics.median(costs):.4f} of theirs (goal <= 1.02)"
        )
    return lines


def neighbours() -> Lines:
    """Whole neighbour lists of 960,000 tokens; scikit-learn's tree on a sample of queries, scaled up."""
    import pynndescent
    from sklearn.neighbors import NearestNeighbors

    from geovq.geometry.neighbors import NeighborIndex, distinct

    nodes, _, _ = distinct(tokens_of(fashion()["mean"]))
    rng = np.random.default_rng(0)
    sample = np.sort(rng.choice(len(nodes), 1_000, replace=False))
    truth = NeighborIndex(nodes, recall=1.0).search(nodes[sample], 21).squared_distances[:, -1:] * (1 + 1e-5)

    def recall(indices: np.ndarray) -> float:
        distance = np.square(nodes[indices[sample][:, -20:]] - nodes[sample][:, None]).sum(axis=2)
        return float((distance <= truth).mean())

    seconds, found = timed(lambda: NeighborIndex(nodes, recall=0.99).neighbors(20))
    lines = [f"{len(nodes):,} distinct tokens, k = 20: ours {seconds:.0f} s at recall {recall(found.indices):.4f}"]
    pynndescent.NNDescent(nodes[:5_000], n_neighbors=21)  # compiles
    for n_neighbors in (21, 30, 40):
        took, peer = timed(
            lambda n=n_neighbors: pynndescent.NNDescent(nodes, n_neighbors=n, random_state=0).neighbor_graph
        )
        reached = recall(peer[0][:, :21])
        lines.append(f"pynndescent, {n_neighbors} neighbours: {took:.0f} s at recall {reached:.4f}, "
                     f"{took / seconds:.1f} times ours (goal >= 3 at 0.99)")  # fmt: skip
        if reached >= 0.99:
            break
    for algorithm, n_queries in (("kd_tree", 2_000), ("brute", 2_000)):
        took, tree = timed(lambda a=algorithm: NearestNeighbors(n_neighbors=21, algorithm=a, n_jobs=-1).fit(nodes))
        query, _ = timed(lambda t=tree, n=n_queries: t.kneighbors(nodes[rng.choice(len(nodes), n, replace=False)]))
        total = took + query * len(nodes) / n_queries
        lines.append(f"scikit-learn, {algorithm}: {total:.0f} s (scaled up from {n_queries:,} queries), exact, "
                     f"{total / seconds:.1f} times ours (goal >= 3)")  # fmt: skip
    return lines


def sketch() -> Lines:
    """16 probes against exact blocks: time per image, and what the codebooks fitted with either reconstruct."""
    from geovq.evaluation.reconstruction import image_errors
    from geovq.models.tokens import grids_of

    prepared = fashion()
    decoder, mean = prepared["vae"].decoder, prepared["mean"][:3_000]
    a, b = medians(
        lambda: token_metrics(decoder, mean[:32]), lambda: token_metrics(decoder, mean[:32], "exact"), rounds=3
    )
    lines = [f"metrics of 32 images: 16 probes {a:.2f} s, exact {b:.1f} s, {b / a:.0f} times faster (goal >= 8)"]
    tokens, test = tokens_of(mean).numpy(), prepared["test"][:2_000]
    images = prepared["test_images"][: len(test)]
    psnrs = {}
    for method in ("sketch", "exact"):
        metrics = token_metrics(decoder, mean, method)
        graph = build_graph(tokens, metrics, k=20, context="neighbours")
        psnrs[method] = []
        for seed in range(3):
            fitted = GeodesicKMedoids(512, random_state=seed).fit(tokens, graph=graph)
            codes = fitted.predict(tokens_of(test))
            with torch.no_grad():
                quantized = decoder(grids_of(torch.from_numpy(fitted.cluster_centers_[codes]), test.shape[2:]))
            psnrs[method].append(float(image_errors(images, quantized)["psnr"].mean()))
    gap = statistics.mean(psnrs["exact"]) - statistics.mean(psnrs["sketch"])
    lines.append(
        f"geodesic codebooks of {len(tokens):,} tokens, {len(test):,} test images, three seeds: 16 probes "
        f"{statistics.mean(psnrs['sketch']):.2f} dB, exact {statistics.mean(psnrs['exact']):.2f} dB, gap {gap:+.3f} dB "
        "(goal within 0.05)"
    )
    return lines


def edges() -> Lines:
    """Lengths of all edges from the metrics of their ends, against one Jacobian-vector product per edge."""
    from torch.func import jvp

    from geovq.geometry.lengths import edge_lengths

    prepared = fashion()
    mean = prepared["mean"][:30_000]
    tokens = tokens_of(mean).numpy()
    metrics = posterior_metrics(prepared["log_variance"][:30_000], scale=prepared["beta"] / 2)
    graph = build_graph(tokens, metrics, k=32)
    ours = statistics.median(
        timed(lambda: edge_lengths(graph.adjacency, graph.nodes, graph.node_metrics))[0] for _ in range(3)
    )
    decoder, batch = prepared["vae"].decoder, mean[:512]
    direction = torch.zeros_like(batch)
    direction[:, :, 1, 2] = 1.0

    def peer() -> Any:
        with torch.no_grad():
            return jvp(decoder, (batch,), (direction,))

    peer()
    per_edge = statistics.median(timed(peer)[0] for _ in range(5)) / len(batch)
    theirs = per_edge * graph.n_edges
    return [
        f"{graph.n_edges / 1e6:.1f} M edges: ours {ours:.1f} s; one product per edge {theirs:.0f} s (scaled up from "
        f"{len(batch)} in a batch), {theirs / ours:.0f} times slower (goal >= 50)"
    ]


def assignment() -> Lines:
    """One pass of PullbackKMeans over 960,000 tokens against the bare matrix product."""
    from geovq.quantizers.metric_features import MetricFeatures

    prepared = fashion()
    tokens = tokens_of(prepared["mean"]).numpy()
    metrics = posterior_metrics(prepared["log_variance"], scale=prepared["beta"] / 2)
    features = MetricFeatures(tokens, metrics, shift=0.0, origin=tokens.mean(axis=0))
    codewords = tokens[:: len(tokens) // 512][:512]
    width = features.rows.shape[1]
    block, other = features.rows[:65_536].clone(), torch.randn(width, 512)
    out = torch.empty(len(block), 512)
    product = lambda: [torch.mm(block, other, out=out) for _ in range(len(tokens) // len(block))]  # noqa: E731
    product()
    a, b = medians(lambda: features.nearest(codewords), product, rounds=5)
    scale = len(tokens) / (len(block) * (len(tokens) // len(block)))
    rate = 2e-9 * len(tokens) * width * 512
    return [
        f"960,000 tokens, K = 512: assignment {a:.2f} s = {rate / a:.0f} GFLOP/s, bare product "
        f"{rate / (b * scale):.0f} GFLOP/s, share {b * scale / a:.2f} (goal >= 0.60)"
    ]


def codes() -> Lines:
    """K from 128 to 4,096 on one graph."""
    prepared = fashion()
    tokens = tokens_of(prepared["mean"]).numpy()
    metrics = posterior_metrics(prepared["log_variance"], scale=prepared["beta"] / 2)
    graph = build_graph(tokens, metrics, k=20, context="neighbours")
    del metrics
    GeodesicKMedoids(2, max_iter=1, n_candidates=1).fit(tokens, graph=graph)  # compiles
    lines, seconds = [], []
    for n_codes in (128, 512, 2_048, 4_096):
        took, fitted = timed(lambda n=n_codes: GeodesicKMedoids(n).fit(tokens, graph=graph))
        seconds.append(took)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        lines.append(f"K = {n_codes}: {took:.0f} s, {fitted.n_iter_} rounds, peak so far {peak:.2f} GB")
    lines.append(f"4,096 against 128: {seconds[-1] / seconds[0]:.2f} times the time (goal <= 3, memory flat)")
    return lines


BENCHMARKS: dict[str, Callable[[], Lines]] = {
    "whole": whole,
    "growth": growth,
    "dense": dense,
    "neighbours": neighbours,
    "sketch": sketch,
    "edges": edges,
    "assignment": assignment,
    "codes": codes,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["_codebook"]:
        answer_codebook(int(sys.argv[2]), sys.argv[3])
    else:
        main()
