"""Claims of speed of encoding, each beside its peer in one run, as medians.

    python benchmarks/quantizers.py [lookup] [large] [search] [sequential] [settings]

``settings`` is no claim of speed: it shows, on validation images, why the settings of search and sequential are what
they are. ``lookup`` needs nothing; the others take the default VAE of Fashion-MNIST, trained first where GEOVQ_ROOT or
experiments/ does not hold it yet.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from geometry import Lines, fashion, timed
from geovq.quantizers.nearest import nearest_codes


def main() -> None:
    chosen = sys.argv[1:] or list(BENCHMARKS)
    cores = len(os.sched_getaffinity(0))
    print(f"machine: {platform.processor() or platform.machine()}, {cores} cores; {time.strftime('%Y-%m-%d')}; seed 0")
    for name in chosen:
        for line in BENCHMARKS[name]():
            print(f"{name:<10} {line}", flush=True)


def lookup() -> Lines:
    """Nearest of 512 codewords for 960,000 tokens of 16 numbers."""
    from vector_quantize_pytorch import VectorQuantize

    generator = torch.Generator().manual_seed(0)
    n, d, n_codes = 960_000, 16, 512
    points, codewords = torch.randn(n, d, generator=generator), torch.randn(n_codes, d, generator=generator)
    peer = VectorQuantize(dim=d, codebook_size=n_codes).eval()
    peer._codebook.embed.data.copy_(codewords[None])
    block = 8_192  # rows of the bare product at a time, so that its result stays in the cache
    result = torch.empty(block, n_codes)

    def product() -> None:
        for start in range(0, n - block + 1, block):
            torch.mm(points[start : start + block], codewords.T, out=result)

    @torch.no_grad()
    def their_codes() -> torch.Tensor:
        return torch.cat([peer(part[None])[1][0] for part in points.split(65_536)])

    square = torch.randn(4_096, 4_096, generator=generator)
    seconds: dict[str, list[float]] = {"ours": [], "product": [], "square": [], "theirs": []}
    ours = theirs = None
    for _ in range(5):
        elapsed, ours = timed(lambda: nearest_codes(points.numpy(), codewords.numpy()))
        seconds["ours"].append(elapsed)
        seconds["product"].append(timed(product)[0])
        seconds["square"].append(timed(lambda: square @ square)[0])
        elapsed, theirs = timed(their_codes)
        seconds["theirs"].append(elapsed)
    a, b, c, e = (statistics.median(seconds[name]) for name in ("ours", "product", "theirs", "square"))
    agree = float((torch.from_numpy(np.asarray(ours)) == theirs).float().mean())
    rate = 2 * n * d * n_codes / 1e9
    return [
        f"{n:,} tokens: ours {a:.2f} s = {rate / a:.0f} GFLOP/s, bare product {b:.2f} s = {rate / b:.0f} "
        f"GFLOP/s, share "
        f"{b / a:.2f} (goal >= 0.60); square product of 4,096: {2 * 4.096**3 / e:.0f} GFLOP/s",
        f"vector-quantize-pytorch {c:.2f} s, ours is {c / a:.1f} times as fast (goal >= 1); same code for {agree:.2%}",
    ]


def large() -> Lines:
    """A pull-back codebook of 4,096 codewords for 960,000 tokens, and one whose passes all look at all codewords."""
    from unittest import mock

    from geovq.geometry.metric import token_metrics
    from geovq.models.tokens import tokens_of
    from geovq.quantizers import PullbackKMeans

    prepared = fashion()
    tokens, metrics = tokens_of(prepared["mean"]), token_metrics(prepared["vae"].decoder, prepared["mean"])
    PullbackKMeans(8, max_iter=1).fit(tokens[:1_000], metrics=metrics[:1_000])  # compiles
    seconds, fitted = timed(lambda: PullbackKMeans(4_096).fit(tokens, metrics=metrics))
    with mock.patch("geovq.quantizers.metric_features._ALL", len(tokens)):
        slow, exact = timed(lambda: PullbackKMeans(4_096).fit(tokens, metrics=metrics))
    return [
        f"{len(tokens):,} tokens, K = 4,096: {seconds:.0f} s (goal <= 300 s)",
        f"all codewords in every pass: {slow:.0f} s, {slow / seconds:.1f} times; "
        f"ours costs {fitted.inertia_ / exact.inertia_:.5f} of it",
    ]


def search() -> Lines:
    """Search on the decoded error, from metric assignment, on 2,000 test images."""
    from geovq.assignment.search import search_codes
    from geovq.geometry.metric import token_metrics

    decoder, images, mean, metrics, codewords, start = _encoded(2_000)
    seconds = statistics.median(timed(lambda: token_metrics(decoder, mean, seed=1))[0] for _ in range(3))
    lines = [
        f"metrics that search reads, once for all codebooks of a VAE: {1000 * seconds / len(images):.2f} ms per image"
    ]
    for n_rounds in (4, 5, 9, 20):
        runs = [
            timed(lambda n=n_rounds: search_codes(decoder, images, start, codewords, metrics, n_rounds=n))
            for _ in range(3)
        ]
        seconds, found = statistics.median(each for each, _ in runs), runs[0][1]
        before, after = (_psnr(cost, images) for cost in (found.cost_before, found.cost_after))
        lines.append(
            f"n_rounds = {n_rounds}: {1000 * seconds / len(images):.2f} ms per image, {found.decodings_per_image:.0f} "
            f"decodings; {before:.2f} -> {after:.2f} dB" + (" (goal <= 5 ms)" if n_rounds == 5 else "")
        )
    return lines


def sequential() -> Lines:
    """The nearest-plane rule on 2,000 test images, beside metric assignment."""
    from geovq.assignment.sequential import sequential_codes
    from geovq.models.codec import flat_codec

    decoder, images, mean, _, codewords, start = _encoded(2_000)
    codec = flat_codec(codewords, tuple(mean.shape[2:]))

    @torch.no_grad()
    def psnr(codes: torch.Tensor) -> float:
        return _psnr((decoder(codec.embed(codes)) - images).square().flatten(1).sum(1), images)

    lines = [f"metric assignment: {psnr(start):.2f} dB"]
    for n_probes, shrinkage in ((16, 0.5), (64, 0.5), (64, 0.0), (64, 0.8)):
        seconds, codes = timed(
            lambda m=n_probes, s=shrinkage: sequential_codes(decoder, mean, codewords, n_probes=m, shrinkage=s)
        )
        lines.append(
            f"{n_probes} probes, shrinkage {shrinkage}: {1000 * seconds / len(images):.2f} ms per image, "
            f"{psnr(codes):.2f} dB"
        )
    return lines


def settings() -> Lines:
    """Damping and sizes of moves of the search, shrinkage of the sequential rule, on 1,000 validation images."""
    from unittest import mock

    from geovq.assignment.search import search_codes
    from geovq.assignment.sequential import sequential_codes
    from geovq.models.codec import flat_codec

    decoder, images, mean, metrics, codewords, start = _encoded(1_000, "validation")
    lines = []
    for damping in (1.0, 1.25, 1.5, 1.75, 2.0, 3.0):
        found = search_codes(decoder, images, start, codewords, metrics, damping=damping)
        lines.append(
            f"search, damping {damping:g}: {_psnr(found.cost_before, images):.2f} -> "
            f"{_psnr(found.cost_after, images):.2f} dB, {found.decodings_per_image:.0f} decodings"
        )
    for counts in ([1], [1, 2], [1, 3], [1, 4], [1, 2, 4], [1, 3, 6]):
        with mock.patch("geovq.assignment.search.move_counts", lambda n_tokens, counts=counts: counts):
            elapsed, found = timed(lambda: search_codes(decoder, images, start, codewords, metrics))
        lines.append(
            f"search, {' and '.join(map(str, counts))} tokens moved at once: {_psnr(found.cost_before, images):.2f} -> "
            f"{_psnr(found.cost_after, images):.2f} dB, {found.decodings_per_image:.0f} decodings, "
            f"{1000 * elapsed / len(images):.1f} ms per image"
        )
    codec = flat_codec(codewords, tuple(mean.shape[2:]))
    for shrinkage in (0.0, 0.3, 0.5, 0.7, 0.9):
        codes = sequential_codes(decoder, mean, codewords, shrinkage=shrinkage)
        with torch.no_grad():
            error = (decoder(codec.embed(codes)) - images).square().flatten(1).sum(1)
        lines.append(f"sequential, 64 probes, shrinkage {shrinkage:g}: {_psnr(error, images):.2f} dB")
    return lines


def _encoded(
    n: int, part: str = "test"
) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Decoder, held-out images, latents, metrics, codewords of a pull-back codebook (20,000 images), and its codes."""
    from geovq.geometry.metric import token_metrics
    from geovq.models.tokens import tokens_of
    from geovq.quantizers import PullbackKMeans

    prepared = fashion()
    decoder, train = prepared["vae"].decoder, prepared["mean"][:20_000]
    fitted = PullbackKMeans(512, max_iter=12).fit(tokens_of(train), metrics=token_metrics(decoder, train))
    mean, images = prepared[part][:n], prepared[f"{part}_images"][:n]
    metrics = token_metrics(decoder, mean, seed=1)
    codes = torch.from_numpy(fitted.predict(tokens_of(mean), metrics)).long().view(n, *mean.shape[2:])
    return decoder, images, mean, metrics, torch.from_numpy(fitted.cluster_centers_), codes


def _psnr(squared_error: torch.Tensor, images: torch.Tensor) -> float:
    """Mean over images, dB, of squared errors summed over each."""
    return float((-10 * torch.log10(squared_error.double() / images[0].numel())).mean())


BENCHMARKS = {"lookup": lookup, "large": large, "search": search, "sequential": sequential, "settings": settings}

if __name__ == "__main__":
    main()
