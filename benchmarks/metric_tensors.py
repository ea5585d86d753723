"""Time and error of the ways to a metric tensor, on a trained Fashion-MNIST VAE; trains nothing.

    python benchmarks/metric_tensors.py [folder of artifacts] [times] [errors] [rounding] [neighbourhood]

Prints milliseconds per image, the error of sketches by number and kind of probes, what bf16 does to them on the same
probes, and how much of it is left in a mean over neighbours as the graph takes it. Artifacts as for
validity_radius.py beside it. About four minutes on two cores.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "src"))

import torch
from torch import nn

from geovq.geometry.metric import token_metrics
from geovq.geometry.symmetric import unpack_symmetric
from geovq.models.tokens import tokens_of
from sketch_error import probes_for_error, sketch_error
from validity_radius import SEED, default_artifacts, generator, load_fashion, machine

TIMED, ROUNDS, EXACT_IMAGES, MEAN_IMAGES, NEIGHBOURS = 512, 5, 128, 3000, 30


def main() -> None:
    sections = {section.__name__: section for section in (times, errors, rounding, neighbourhood)}
    chosen = [name for name in sys.argv[1:] if name in sections]
    folders = [Path(name) for name in sys.argv[1:] if name not in sections]
    folder = folders[0] if folders else default_artifacts()
    decoder, latents = load_fashion(folder)
    print(f"machine: {machine()}, {torch.get_num_threads()} threads; seed {SEED}; {time.strftime('%Y-%m-%d')}")
    train = latents["train"][torch.randperm(len(latents["train"]), generator=generator())]
    for name in chosen or sections:
        print()
        for line in sections[name](decoder, train):
            print(line, flush=True)


def times(decoder: nn.Module, latents: torch.Tensor) -> list[str]:
    """Variants in turn, so that drift of the machine hits all; medians."""
    sketches = (
        ("independent", 16, "32"),
        ("independent", 16, "bf16"),
        ("lattice", 16, "bf16"),
        ("lattice", 12, "bf16"),
        ("lattice", 8, "bf16"),
    )
    calls: dict[str, Callable[[], object]] = {
        f"sketch, {m} {kind} probes, {precision}": lambda m=m, kind=kind, precision=precision: token_metrics(
            decoder, latents[:TIMED], n_probes=m, probes=kind, precision=precision
        )
        for kind, m, precision in sketches
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(ROUNDS + 1):
        for name, call in calls.items():
            elapsed = _seconds(call)
            if turn:  # the first round warms up
                seconds[name].append(elapsed)
    token_metrics(decoder, latents[:1], "exact")
    exact = _seconds(lambda: token_metrics(decoder, latents[:EXACT_IMAGES], "exact")) / EXACT_IMAGES
    lines = ["| way | ms per image | 60,000 images |", "|---|---|---|"]
    for name, each in seconds.items():
        one = statistics.median(each) / TIMED
        lines.append(f"| {name} | {1e3 * one:.2f} | {6e4 * one:.0f} s |")
    return [*lines, f"| exact | {1e3 * exact:.1f} | {6e4 * exact:.0f} s |"]


def errors(decoder: nn.Module, latents: torch.Tensor) -> list[str]:
    """Against exact metrics, and as estimated without them."""
    part = latents[:EXACT_IMAGES]
    exact = _dense(token_metrics(decoder, part, "exact"))
    lines = ["| probes | m | relative error | median of tokens | estimated |", "|---|---|---|---|---|"]
    for kind in ("independent", "lattice"):
        for m in (4, 8, 12, 16, 32, 64):
            difference = _dense(token_metrics(decoder, part, n_probes=m, probes=kind, seed=SEED)) - exact
            pooled = float(difference.norm() / exact.norm())
            median = float((difference.flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).median())
            estimated = sketch_error(decoder, part, m, seed=SEED + 1, probes=kind)
            lines.append(f"| {kind} | {m} | {pooled:.3f} | {median:.3f} | {estimated:.3f} |")
    for target in (0.6, 0.4, 0.3, 0.2):
        chosen = {
            kind: probes_for_error(decoder, latents, target, SEED, probes=kind) for kind in ("independent", "lattice")
        }
        lines.append(f"probes_for_error, target {target}: {chosen}")
    return lines


def rounding(decoder: nn.Module, latents: torch.Tensor) -> list[str]:
    """bf16 against fp32 on the same probes: noise of one token, bias of the mean."""
    part = latents[: 4 * EXACT_IMAGES]
    full = _dense(token_metrics(decoder, part, precision="32"))
    half = _dense(token_metrics(decoder, part, precision="bf16"))
    each = (half - full).flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1)
    trace = half.diagonal(dim1=1, dim2=2).sum() / full.diagonal(dim1=1, dim2=2).sum()
    mean = (half.mean(dim=0) - full.mean(dim=0)).norm() / full.mean(dim=0).norm()
    return [
        "bf16 against fp32 on the same 16 lattice probes, relative difference:",
        f"a token's tensor {float(each.median()):.4f} (median), {float(each.quantile(0.99)):.4f} (99 %), "
        f"the mean tensor {float(mean):.5f}, the summed trace {float(trace) - 1:+.5f}",
    ]


def neighbourhood(decoder: nn.Module, latents: torch.Tensor) -> list[str]:
    """Sketch error of means over nearest neighbours, beside the spread of the metrics that are averaged."""
    part = latents[:MEAN_IMAGES]
    tokens = tokens_of(part)
    indices = _nearest(tokens)
    lines = [f"| m | error of a token | of a mean over {NEIGHBOURS} | spread of its members |", "|---|---|---|---|"]
    for m in (4, 8, 16):
        one, other = (_dense(token_metrics(decoder, part, n_probes=m, seed=SEED + s)) for s in range(2))
        token = _disagreement(one, other)
        means = [torch.stack([sketch[near].mean(dim=0) for near in indices]) for sketch in (one, other)]
        # Members of two sketches with independent probes: half their squared distance is the variance of G
        # around the mean, plus that of the sketch, which is taken off.
        first, second = one[indices[:, 0]], other[indices[:, 1]]
        both = float((first - second).square().sum() / 2 / (means[0] * means[1]).sum())
        scale = float((one * other).sum(dim=(1, 2)).mean() / (means[0] * means[1]).sum(dim=(1, 2)).mean())
        spread = max(0.0, both - token**2 * scale) ** 0.5
        lines.append(f"| {m} | {token:.3f} | {_disagreement(*means):.3f} | {spread:.2f} |")
    return lines


def _nearest(tokens: torch.Tensor) -> torch.Tensor:
    """The NEIGHBOURS tokens around each of 2,000 tokens drawn at random."""
    centres = torch.randperm(len(tokens), generator=generator())[:2000]
    return torch.cdist(tokens[centres], tokens).topk(NEIGHBOURS, dim=1, largest=False).indices


def _disagreement(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(((one - other).square().sum() / 2 / (one * other).sum()).sqrt())


def _dense(packed: torch.Tensor) -> torch.Tensor:
    return unpack_symmetric(packed, 16)


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
