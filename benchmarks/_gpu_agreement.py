"""Whether a device gives what the CPU gives: to rounding in float32, to the last bit where integers are coded.

Each row is the largest difference that was found beside the largest that is accepted. Float32 has seven digits; sums of
many terms and networks in a row leave five or four. Where a choice is taken, near ties may fall the other way: there
the row tells the share of choices that differ, and what they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from _gpu_problem import Problem, Row, Rows, normal

ROUNDING = 1e-4
CHOICES = 2e-3
"""Share of choices that may differ by near ties."""


def row(name: str, difference: float, limit: float, work: str = "relative to the largest value") -> Row:
    found = Row(name=name, work=work, difference=float(difference), limit=limit)
    return found if difference <= limit else found | Row(failed=f"{difference:.3g} is above {limit:g}")


def apart(here: Tensor | np.ndarray, there: Tensor | np.ndarray) -> float:
    """Largest difference of two arrays, as a share of the largest value."""
    first, second = (torch.as_tensor(each).detach().cpu().double() for each in (here, there))
    assert first.shape == second.shape
    return float((first - second).abs().max() / first.abs().max().clamp(min=1e-30))


def differing(here: Tensor | np.ndarray, there: Tensor | np.ndarray) -> float:
    """Share of entries that differ."""
    return float((torch.as_tensor(here).cpu() != torch.as_tensor(there).cpu()).double().mean())


@torch.no_grad()
def networks(problem: Problem) -> Rows:
    from geovq.pipeline.stages.classifier import predict
    from geovq.pipeline.stages.latents import decode, encode

    cpu, n = torch.device("cpu"), problem.sizes.compared
    images, latents = (255 * problem.images(n)).byte(), problem.latents(n)
    vae, classifier = problem.there(problem.vae), problem.there(problem.classifier)
    here, there = encode(problem.vae, images, cpu), encode(vae, images, problem.device)
    for name in here:
        yield row(f"encoder, {name.replace('_', ' ')}", apart(here[name], there[name]), ROUNDING)
    pair = decode(problem.vae.decoder, latents, cpu), decode(vae.decoder, latents, problem.device)
    yield row("decoder", apart(*pair), ROUNDING)
    pair = (
        predict(problem.classifier.embedding, images, cpu),
        predict(classifier.embedding, images, problem.device),
    )
    yield row("evaluation classifier", apart(*pair), ROUNDING)


def gradients(problem: Problem) -> Rows:
    """Of the losses that are trained, without the noise that each device draws for itself."""
    images, latents = problem.images(problem.sizes.compared), problem.latents(problem.sizes.compared)
    ids = problem.prior.layout.encode(problem.codes(problem.sizes.compared))

    def of_decoder(device: torch.device | str) -> Tensor:
        decoder = problem.there(problem.vae.decoder).to(device).requires_grad_(True)
        (decoder(latents.to(device)) - images.to(device)).square().sum().backward()
        return torch.cat([each.grad.flatten() for each in decoder.parameters() if each.grad is not None])

    def of_prior(device: torch.device | str) -> Tensor:
        prior = problem.there(problem.prior).to(device).requires_grad_(True)
        prior.loss(ids.to(device)).mean().backward()
        return torch.cat([each.grad.flatten() for each in prior.parameters() if each.grad is not None])

    for name, of in (("decoder", of_decoder), ("prior", of_prior)):
        yield row(f"gradient of the {name}", apart(of("cpu"), of(problem.device)), 10 * ROUNDING)


def metric_tensors(problem: Problem) -> Rows:
    from geovq.assignment.sequential import sequential_codes
    from geovq.geometry.metric import token_metrics

    latents, decoder = problem.latents(problem.sizes.compared), problem.there(problem.vae.decoder)
    for method in ("sketch", "exact"):
        few = latents if method == "sketch" else latents[:8]
        here = token_metrics(problem.vae.decoder, few, method, precision="32")
        there = token_metrics(decoder, few, method, precision="32", device=problem.device)
        yield row(f"metric tensors, {method}", apart(here, there), 10 * ROUNDING)
    pair = (
        sequential_codes(problem.vae.decoder, latents, problem.codewords),
        sequential_codes(decoder, latents, problem.codewords, device=problem.device),
    )
    yield row("sequential assignment", differing(*pair), 5 * CHOICES, "share of codes that differ")


def tokens_and_metrics(problem: Problem, n: int = 4000) -> tuple[np.ndarray, Tensor]:
    from geovq.geometry.symmetric import pack_symmetric

    factor = normal(n, 6, 6, seed=8) * torch.linspace(0.3, 2, 6)
    return normal(n, 6, seed=9).numpy(), pack_symmetric(factor @ factor.mT)


def graphs(problem: Problem) -> Rows:
    from geovq.geometry.graph import build_graph

    tokens, metrics = tokens_and_metrics(problem)
    here, there = (build_graph(tokens, metrics, k=10, device=device) for device in ("cpu", problem.device))
    links = abs(here.adjacency.astype(bool).astype(int) - there.adjacency.astype(bool).astype(int)).sum()
    yield row("graph, links", links / here.adjacency.nnz, CHOICES, "share of links that differ")
    both = here.adjacency.multiply(there.adjacency > 0) - there.adjacency.multiply(here.adjacency > 0)
    yield row("graph, lengths", abs(both).max() / here.adjacency.max(), ROUNDING)
    others = tokens[:500] + 0.05
    (nodes, lengths), (nodes_there, lengths_there) = (
        here.attach(others, metrics[:500], device=device) for device in ("cpu", problem.device)
    )
    same = nodes == nodes_there
    yield row("links of new tokens", 1 - same.mean(), CHOICES, "share of links that differ")
    yield row("lengths of these", apart(lengths[same], lengths_there[same]), ROUNDING)


def codebooks(problem: Problem) -> Rows:
    """Codebooks fitted on both devices by their cost, and codes of one codebook on both."""
    from geovq import quantizers

    tokens, metrics = tokens_and_metrics(problem)
    settings = {"random_state": 0}
    made: Mapping[str, Callable[[str], quantizers.CodebookEstimator]] = {
        "euclidean": lambda device: quantizers.EuclideanKMeans(32, device=device, **settings),
        "whitened": lambda device: quantizers.WhitenedKMeans(32, device=device, **settings),
        "pullback": lambda device: quantizers.PullbackKMeans(32, device=device, **settings),
        "product": lambda device: quantizers.ProductKMeans(64, device=device, **settings),
        "residual": lambda device: quantizers.ResidualKMeans(64, device=device, **settings),
        "scalar": lambda device: quantizers.ScalarLevels(64, device=device),
        "conditional": lambda device: quantizers.ConditionalCodebook(
            16, grid=(2, 2), steps=30, width=16, n_moves=8, device=device, **settings
        ),
    }
    for name, make in made.items():
        here, there = (make(device).fit(tokens, metrics=metrics) for device in ("cpu", str(problem.device)))
        yield row(f"{name}, cost", abs(there.inertia_ / here.inertia_ - 1), 0.02, "relative, each fitted by itself")
        codes = here.predict(tokens, metrics)
        here.set_params(device=str(problem.device))
        yield row(f"{name}, codes", differing(codes, here.predict(tokens, metrics)), CHOICES, "share that differ")


@torch.no_grad()
def joint(problem: Problem) -> Rows:
    """Codes that autoencoders trained with their quantizers give, untrained, and what these decode to."""
    from geovq.pipeline.stages.joint import make_joint

    images = problem.images(problem.sizes.compared)
    for name in problem.sizes.joint:
        here = make_joint(problem.configured(f"quantizer={name}"), problem.info).eval()
        there, z = problem.there(here), here.encode(images)
        codes, codes_there = here.codes(z), there.codes(z.to(problem.device))
        yield row(f"{name}, codes", differing(codes, codes_there), 5 * CHOICES, "share that differ")
        pair = here.codec().embed(codes), there.codec().embed(codes.to(problem.device))
        yield row(f"{name}, latents of codes", apart(*pair), ROUNDING)


def search(problem: Problem) -> Rows:
    from geovq.assignment.search import search_codes
    from geovq.geometry.metric import token_metrics

    n = problem.sizes.compared
    images, start = problem.decoded(n), problem.codes(n, seed=7)
    metrics = token_metrics(problem.vae.decoder, problem.codec.embed(start), precision="32")
    here, there = (
        search_codes(decoder, images, start, problem.codewords, metrics, precision="32", device=device)
        for decoder, device in ((problem.vae.decoder, "cpu"), (problem.there(problem.vae.decoder), problem.device))
    )
    worse = (there.cost_after > there.cost_before).double().mean()
    yield row("search, images worse than their start", float(worse), 0.0, "share")
    yield row("search, cost at the start", apart(here.cost_before, there.cost_before), ROUNDING)
    gap = abs(float(there.cost_after.mean() / here.cost_after.mean()) - 1)
    yield row("search, mean cost at the end", gap, 0.01, "relative")


def priced_search(problem: Problem) -> Rows:
    """The same where codes cost their length under a prior."""
    from geovq.assignment.prices import PriorPrices
    from geovq.assignment.search import search_codes
    from geovq.geometry.metric import token_metrics

    n = problem.sizes.compared
    images, start = problem.decoded(n), problem.codes(n, seed=7)
    metrics = token_metrics(problem.vae.decoder, problem.codec.embed(start), precision="32")
    ends = []
    for device in (torch.device("cpu"), problem.device):
        prior, decoder = (problem.there(each).to(device) for each in (problem.prior, problem.vae.decoder))
        prices = PriorPrices(prior, prior.layout.start_ids(None, n).to(device), 0.01)
        how = {"penalty": prices, "precision": "32", "device": device}
        found = search_codes(decoder, images, start, problem.codewords, metrics, **how)
        ends.append(float(found.cost_after.mean()))
    yield row("search under a prior, mean cost", abs(ends[1] / ends[0] - 1), 0.01, "relative")


def priors(problem: Problem) -> Rows:
    from geovq.pipeline.stages.prior import make_prior

    n = problem.sizes.compared
    labels = torch.arange(n) % 10
    for name in ("autoregressive", "masked", "pixelcnn"):
        here = problem.prior
        if name != "autoregressive":
            here = make_prior(problem.configured(f"prior={name}"), problem.info, problem.codec).eval()
        there = problem.there(here)
        ids, start = here.layout.encode(problem.codes(n), labels), here.layout.start_ids(labels, n)
        yield row(f"{name}, code lengths", apart(here.bits_per_image(ids), there.bits_per_image(ids)), ROUNDING)
        pair = here.sample(start, temperature=0), there.sample(start, temperature=0)
        yield row(f"{name}, most likely codes", differing(*pair), 0.02, "share of codes that differ")
        pair = there.sample(start, seed=1), there.sample(start, seed=1)
        yield row(f"{name}, drawn twice from one seed", differing(*pair), 0.0, "share that differ, on the device")


def coding(problem: Problem) -> Rows:
    """Files are made of integers: products on the device, in float64, must not differ by a bit."""
    from geovq.coding.file import decode, encode, images_per_block
    from geovq.coding.format import Header
    from geovq.coding.integer_prior import IntegerPrior

    def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (torch.from_numpy(a).to(problem.device) @ torch.from_numpy(b).to(problem.device)).cpu().numpy()

    codes = problem.codes(problem.sizes.compared).flatten(1).numpy()
    here, there = IntegerPrior(problem.prior), IntegerPrior(problem.there(problem.prior), multiply)
    yield row("coder, digest of the prior", float(here.digest != there.digest), 0.0, "1 where it differs")
    written, again = encode(here, codes), encode(there, codes)
    bytes_differ = [a.payload != b.payload for a, b in zip(written.blocks, again.blocks, strict=True)]
    yield row("coder, blocks of a file", float(np.mean(bytes_differ)), 0.0, "share that differ, CPU and device")
    shape, block, n_codes = (1, 28, 28), images_per_block(here, False), codes.shape[1]
    head = Header(False, False, False, "autoregressive", *shape, len(codes), block, n_codes, *[""] * 4, here.digest)
    read, _ = decode(there, head, written.blocks)
    yield row("coder, codes read on the device", differing(codes, read), 0.0, "share that differ")


def scores(problem: Problem) -> Rows:
    from geovq.evaluation.frechet import frechet
    from geovq.evaluation.kernel_distance import KernelDistance
    from geovq.evaluation.neighbourhoods import Neighbourhoods, nearest_squared
    from geovq.evaluation.perceptual import perceptual_distances
    from geovq.evaluation.reconstruction import image_errors

    images, device = problem.images(problem.sizes.compared), problem.device
    output = (0.9 * images + 0.03 * normal(*images.shape, seed=10)).clamp(0, 1)
    here, there = image_errors(images, output), image_errors(images, output, device)
    for name in here:
        yield row(name.upper(), apart(here[name], there[name]), 10 * ROUNDING if name == "ssim" else ROUNDING)
    pair = (
        perceptual_distances(problem.classifier, images, output),
        perceptual_distances(problem.there(problem.classifier), images, output, device),
    )
    yield row("perceptual distance", apart(*pair), 10 * ROUNDING)
    real, drawn = normal(600, 32, seed=11), normal(500, 32, seed=12) + 0.1
    pairs = {
        "Fréchet distance": (frechet(real, drawn), frechet(real, drawn, device)),
        "kernel distance": (KernelDistance(real)(drawn), KernelDistance(real, device)(drawn)),
    }
    for name, (first, second) in pairs.items():
        yield row(name, abs(first - second) / abs(first), 10 * ROUNDING, "relative")
    pair = nearest_squared(drawn, real), nearest_squared(drawn, real, device)
    yield row("nearest training image", apart(*pair), ROUNDING)
    of = [Neighbourhoods(real, device=each).scores(drawn) for each in (None, device)]
    yield row("precision, recall, density, coverage", max(abs(of[0][n] - of[1][n]) for n in of[0]), 0.01, "absolute")


COMPARISONS = (
    *(networks, gradients, metric_tensors, graphs, codebooks, joint),
    *(search, priced_search, priors, coding, scores),
)
