"""Speed on a device beside bare torch there: the same work without the framework around it, with the same digits."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _gpu_problem import Problem, Row, Rows, normal


def beside(problem: Problem, ours: Callable[[], object], bare: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of both, taken in turn, after one of each."""
    ours(), bare()
    pairs = [(problem.seconds(ours), problem.seconds(bare)) for _ in range(problem.sizes.rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def rate(name: str, work: str, unit: str, amount: float, ours: float, bare: float, remark: str = "") -> Row:
    """A row of what is done in a second."""
    row = Row(name=name, work=work, unit=unit, ours=amount / ours, bare=amount / bare, share=bare / ours)
    return row | Row(remark=remark) if remark else row


def vae_step(problem: Problem) -> Rows:
    """A step of the default VAE by the shared ``fit``, and by a loop."""
    from geovq.pipeline.stages.vae import VaeTask, make_objective

    config, batch = problem.config, problem.config.vae.batch_size
    data = (255 * problem.images(max(problem.sizes.images, batch))).byte().to(problem.device)

    def task() -> VaeTask:
        objective = make_objective(config, problem.info).to(problem.device)
        return VaeTask(objective, data, data[:batch], 1, config.n_tokens, config.vae)

    yield from _step(problem, "VAE step", f"{batch} images of 28×28", task, config.vae)


def prior_step(problem: Problem) -> Rows:
    """A step of the default prior, likewise."""
    from geovq.pipeline.stages.prior import PriorTask, make_prior

    config, batch = problem.config, problem.config.transformer.batch_size
    n = max(problem.sizes.images, batch)

    def task() -> PriorTask:
        prior = make_prior(config, problem.info, problem.codec).to(problem.device)
        ids = prior.layout.encode(problem.codes(n), torch.arange(n) % 10).to(problem.device)
        return PriorTask(prior, ids, ids[:batch], config.transformer.class_dropout)

    yield from _step(problem, "prior step", f"{batch} sequences of {config.n_tokens} codes", task, config.transformer)


def _step(problem: Problem, name: str, work: str, task: Callable[[], Any], settings: Any) -> Rows:
    """Slope between two numbers of steps, so that validation, checkpoint and setting up do not count."""
    from geovq.geometry.computing import bf16_autocast
    from geovq.pipeline.device import choose_precision
    from geovq.pipeline.fit import fit

    trainer = problem.config.trainer.model_copy(update={"validations": 1, "checkpoint_seconds": 1e9, "threads": None})
    precision = choose_precision(trainer, problem.device)
    few, many = problem.sizes.steps

    def ours(steps: int) -> float:
        made, chosen = task(), settings.model_copy(update={"steps": steps})
        with tempfile.TemporaryDirectory() as scratch:
            return problem.seconds(
                lambda: fit(made, chosen, trainer, problem.device, Path(scratch), lambda metrics, step: None)
            )

    def bare(steps: int) -> float:
        made = task()
        model = made.model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, fused=True)

        def loop() -> None:
            order = torch.randint(made.n_examples, (steps, settings.batch_size), device=problem.device)
            for step in range(steps):
                with bf16_autocast(precision == "bf16-mixed", problem.device):
                    loss, _ = made.loss(model, order[step], step)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.gradient_clip)
                optimizer.step()
                optimizer.zero_grad()

        return problem.seconds(loop)

    ours(few), bare(few)
    slopes = [[(run(many) - run(few)) / (many - few) for run in (ours, bare)] for _ in range(problem.sizes.rounds)]
    a, b = (1000 * max(1e-6, statistics.median(each)) for each in zip(*slopes, strict=True))
    yield Row(name=name, work=work, unit="ms", ours=a, bare=b, share=b / a, remark=precision)


def metric_tensors(problem: Problem) -> Rows:
    """Sketches of 16 probes, and as many backward passes with random signs in a loop."""
    from geovq.geometry.computing import bf16_autocast, has_bf16_hardware
    from geovq.geometry.metric import token_metrics

    decoder, latents, n = problem.there(problem.vae.decoder), problem.latents(problem.sizes.images), 16
    on_device, bf16 = latents.to(problem.device), has_bf16_hardware(problem.device)

    def bare() -> None:
        for part in on_device.split(128):
            z = part.clone().requires_grad_(True)
            with bf16_autocast(bf16, problem.device):
                images = decoder(z)
            pulled = []
            for _ in range(n):
                probe = torch.randint(0, 2, images.shape, device=problem.device).to(images.dtype).mul_(2).sub_(1)
                (gradient,) = torch.autograd.grad(images, z, probe, retain_graph=True)
                pulled.append(gradient.flatten(2).mT)
            stacked = torch.stack(pulled, -1).flatten(0, 1)
            torch.bmm(stacked, stacked.mT)

    a, b = beside(problem, lambda: token_metrics(decoder, latents, n_probes=n, device=problem.device), bare)
    tokens = len(latents) * problem.config.n_tokens
    work = f"{n} probes, {len(latents):,} images of {problem.config.n_tokens} tokens"
    yield rate("metric tensors", work, "tensors/s", tokens, a, b, "bf16" if bf16 else "fp32")


def neighbours(problem: Problem) -> Rows:
    """20 neighbours of all tokens; ``cdist`` and ``topk`` of some of them, scaled up."""
    from geovq.geometry.computing import full_precision
    from geovq.geometry.neighbors import NeighborIndex

    sizes, k = problem.sizes, 20
    points = normal(sizes.neighbours, 16, seed=5) * torch.linspace(0.2, 1.5, 16)
    on_device = points.to(problem.device)
    block = max(1, 2**28 // sizes.neighbours)
    found, lists = [], []

    def bare() -> None:
        lists.clear()
        with full_precision():
            for part in on_device[: sizes.queries].split(block):
                lists.append(torch.cdist(part, on_device).topk(k + 1, largest=False).indices[:, 1:])

    NeighborIndex(points[:1000].numpy(), device=problem.device).neighbors(k)  # compiles
    index = NeighborIndex(points.numpy(), device=problem.device)
    bare()
    b = problem.seconds(bare) * sizes.neighbours / sizes.queries
    a = problem.seconds(lambda: found.append(index.neighbors(k).indices))
    here, there = torch.from_numpy(found[0][: sizes.queries]).long(), torch.cat(lists).cpu()
    same = float((here[:, :, None] == there[:, None]).any(2).float().mean())
    work = f"k = {k}, {sizes.neighbours:,} tokens of 16 numbers"
    remark = f"bare: cdist and topk of {sizes.queries:,} tokens, scaled up; {same:.2%} of neighbours are the same"
    yield Row(name="neighbours", work=work, unit="s", ours=a, bare=b, share=b / a, remark=remark)


def assignment(problem: Problem) -> Rows:
    """A pass of ``PullbackKMeans``, and the matrix product in it alone."""
    from geovq.quantizers.nearest import lowest_products

    sizes, width = problem.sizes, 16 * 17 // 2 + 16
    rows, weights = (normal(n, width, seed=n).to(problem.device) for n in (sizes.assigned, sizes.codes))
    block = min(sizes.assigned, 1 << 17)
    out = torch.empty(block, sizes.codes, device=problem.device)

    def product() -> None:
        for start in range(0, sizes.assigned - block + 1, block):
            torch.mm(rows[start : start + block], weights.T, out=out)

    a, b = beside(problem, lambda: lowest_products(rows, weights), product)
    b *= sizes.assigned / (sizes.assigned // block * block)
    square = normal(sizes.square, sizes.square, seed=6).to(problem.device)
    torch.mm(square, square)
    whole = 2e-12 * sizes.square**3 / problem.seconds(lambda: torch.mm(square, square))
    work = f"{sizes.assigned:,} tokens, K = {sizes.codes}, metric tensors of 16 dimensions"
    remark = f"fp32; square product of {sizes.square:,}: {whole:.3g} TFLOP/s"
    yield rate("assignment", work, "TFLOP/s", 2e-12 * sizes.assigned * width * sizes.codes, a, b, remark)


def search(problem: Problem) -> Rows:
    """Search on the decoded error, and as many passes of the decoder without choosing anything."""
    from geovq.assignment.search import search_codes
    from geovq.geometry.computing import bf16_autocast, has_bf16_hardware
    from geovq.geometry.metric import token_metrics

    n, rounds = problem.sizes.searched, 5
    decoder, images, start = problem.there(problem.vae.decoder), problem.decoded(n), problem.codes(n, seed=7)
    bf16 = has_bf16_hardware(problem.device)
    metrics = token_metrics(decoder, problem.codec.embed(start), device=problem.device)
    found: list[Any] = []

    def ours() -> None:
        found.append(
            search_codes(decoder, images, start, problem.codewords, metrics, n_rounds=rounds, device=problem.device)
        )

    ours()
    passes = found[0].decodings_per_image  # a backward pass counts as one more
    parts = [part.to(problem.device) for part in problem.codec.embed(start).split(256)]

    def bare() -> None:
        for z in parts:
            for turn in range(round(passes) - rounds):
                if turn < rounds:
                    leaf = z.clone().requires_grad_(True)
                    with bf16_autocast(bf16, problem.device):
                        error = decoder(leaf).float().square().sum()
                    torch.autograd.grad(error, leaf)
                else:
                    with torch.no_grad(), bf16_autocast(bf16, problem.device):
                        decoder(z)

    a, b = beside(problem, ours, bare)
    work = f"{problem.config.n_tokens} tokens, {rounds} rounds, {n:,} images"
    remark = f"{passes:.1f} decodings per image; bare: these alone"
    yield Row(name="search", work=work, unit="ms/image", ours=1e3 * a / n, bare=1e3 * b / n, share=b / a, remark=remark)


def sampling(problem: Problem) -> Rows:
    """Codes from the prior, and the same network with its cache in a loop."""
    prior, n = problem.there(problem.prior), problem.sizes.drawn
    layout, seeds = prior.layout, count()
    start = layout.start_ids(torch.arange(n) % 10, n)

    @torch.no_grad()
    def bare() -> None:
        for part in start.split(500):
            ids, cache = part.to(problem.device)[:, None], None
            drawn: list[Tensor] = []
            for _ in range(layout.length):
                found = prior.transformer(input_ids=ids, past_key_values=cache, use_cache=True)
                cache = found.past_key_values
                ids = torch.multinomial(found.logits[:, -1, : layout.n_codes].float().softmax(-1), 1)
                drawn.append(ids)
            torch.cat(drawn, 1).cpu()

    a, b = beside(problem, lambda: prior.sample(start, seed=next(seeds)), bare)
    yield rate("sampling", f"{layout.length} codes, 500 images at a time", "images/s", n, a, b)


def scores(problem: Problem) -> Rows:
    """PSNR and SSIM of images on the CPU, as evaluators have them, and torchmetrics' on the device."""
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    from geovq.evaluation.reconstruction import image_errors

    images = problem.images(problem.sizes.scored)
    output = (0.9 * images + 0.05).clamp(0, 1)
    pairs = list(zip(images.to(problem.device).split(1000), output.to(problem.device).split(1000), strict=True))

    def bare() -> None:
        for first, second in pairs:
            peak_signal_noise_ratio(second, first, data_range=1.0, reduction="none", dim=(1, 2, 3)).cpu()
            structural_similarity_index_measure(second, first, data_range=1.0, reduction="none").cpu()

    a, b = beside(problem, lambda: image_errors(images, output, problem.device), bare)
    yield rate("PSNR and SSIM", f"{len(images):,} images of 28×28", "images/s", len(images), a, b)


TIMINGS = (vae_step, metric_tensors, neighbours, assignment, search, prior_step, sampling, scores)
