"""Search under the prior's code length against plain search at other K: PSNR, coded bits, and the BD-rate between them.

    python benchmarks/rate_distortion.py [quantizer=pullback] [K=256,512,1024,2048] [at=512] [lambda=0.01,0.02,0.05] \
        [rounds=2] [images=8000] [held_out=1000] [steps=300] [first=images]

Codebooks of Fashion-MNIST's default VAE, seed 0, fitted to all training images. Priors learn the codes of the first
``images`` of these in ``steps`` steps; ``held_out`` validation and test images are encoded. ``rounds=0`` searches under
the first prior alone, which learnt the nearest codes by metric; with ``first=all`` that is the pipeline's, which learnt
the codebook's own codes of all training images, and all others are trained on from it. What the pipeline has below
GEOVQ_ROOT is read there and else built; so are the points, in ``rate_distortion/``.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "src"))

from geovq.assignment.prices import PriorPrices
from geovq.assignment.search import search_codes
from geovq.evaluation.bjontegaard import bd_rate
from geovq.evaluation.codebook import rate
from geovq.models.codec import stacked_codec
from geovq.models.prior import OrderedPrior
from geovq.models.tokens import tokens_of
from geovq.pipeline.fit import fit
from geovq.pipeline.stages.latents import SPLITS
from geovq.quantizers.metric_assignment import nearest_by_metric

DEFAULTS = (
    "quantizer=pullback K=256,512,1024,2048 at=512 lambda=0.01,0.02,0.05 "
    "rounds=2 images=8000 held_out=1000 steps=300 first=images"
)


@dataclass
class Codebook:
    """A codebook of K codewords and the images that are encoded by it."""

    quantizer: str
    K: int
    images: int
    held_out: int
    steps: int

    def __post_init__(self) -> None:
        from hydra import compose, initialize_config_dir

        from geovq.commands.train import open_data, read_config
        from geovq.pipeline.runner import Runner, to_standard_error
        from geovq.pipeline.stage import Context
        from geovq.pipeline.stages.codebook import load_quantizer
        from geovq.pipeline.stages.codes import load_codec
        from geovq.pipeline.stages.metric_tensors import load_metric_tensors
        from geovq.pipeline.stages.vae import load_vae

        words = [
            "data=fashion",
            f"quantizer={self.quantizer}",
            f"quantizer.K={self.K}",
            "trainer.threads=1",
            "stale=ignore",
        ]
        with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
            # That of assign=own, whose prior learns all training images, and that of the search and its priors.
            whole, config = (
                read_config(compose("train", [*words, *more]))
                for more in ([], ["assign=search", f"transformer.steps={self.steps}"])
            )
        self.whole, self.context = (Context(each, *open_data(each)) for each in (whole, config))
        runner = Runner(self.context, to_standard_error)
        needed = ("vae", "latents", "metric_tensors", "metric_tensors_held_out", "codebook")
        artifacts = runner.obtain(needed)
        self.decoder, grid = load_vae(self.context, artifacts).decoder, (config.vae.grid, config.vae.grid)
        if config.reads_graph:  # which is large, and loaded for the quantizer alone
            self.codec = load_codec(Runner(self.whole, to_standard_error).obtain(("codes",))["codes"])
        else:
            tables = load_quantizer(self.context, artifacts).tables_
            self.codec = stacked_codec([torch.from_numpy(table) for table in tables], grid)
        self.key, self.parts, self.starts = runner.keys["codebook"], {}, {}
        for split in SPLITS:
            n = self.images if split == "train" else self.held_out
            data = getattr(self.context.data, split)
            mean = artifacts["latents"].tensors(split)["mean"][:n]
            metrics = load_metric_tensors(artifacts, split)[: n * config.n_tokens]
            codes = nearest_by_metric(tokens_of(mean), metrics, self.codewords)
            self.parts[split] = (data.images[:n], data.labels[:n], metrics)
            self.starts[split] = torch.from_numpy(codes).long().view(n, *grid)

    @cached_property
    def codewords(self) -> Tensor:
        """(K, d)."""
        codewords = self.codec.whole_codewords()
        assert codewords is not None
        return codewords.detach().float()

    def search(
        self, prior: OrderedPrior | None, rate_lambda: float, known: dict[str, Tensor] | None, splits: tuple[str, ...]
    ) -> Codes:
        """Codes of some splits, from those by the tokens' metrics and those known."""
        found, begun, n = {}, time.perf_counter(), 0
        for split in splits:
            images, labels, metrics = self.parts[split]
            prices = None
            if prior is not None:
                prices = PriorPrices(prior, prior.layout.start_ids(labels, len(labels)), rate_lambda)
            also = () if known is None else (known[split],)
            result = search_codes(
                self.decoder, images, self.starts[split], self.codewords, metrics, alternatives=also, penalty=prices
            )
            found[split], n = result.codes, n + len(images)
        print(f"  search: {1000 * (time.perf_counter() - begun) / n:.1f} ms per image", file=sys.stderr, flush=True)
        return found

    def prior_of_all(self) -> OrderedPrior:
        """The pipeline's, which learns the codebook's own codes of all training images."""
        from geovq.pipeline.runner import Runner, to_standard_error
        from geovq.pipeline.stages.prior import load_prior

        prior = load_prior(self.whole, Runner(self.whole, to_standard_error).obtain(("codes", "prior")))
        assert isinstance(prior, OrderedPrior)
        return prior

    def prior(self, codes: Codes, begun: OrderedPrior | None) -> OrderedPrior:
        """One trained on codes from the weights of another, or from scratch."""
        from geovq.pipeline.stages.prior import PriorTask, make_prior

        config, started = self.context.config, time.perf_counter()
        prior = make_prior(config, self.context.info, self.codec)
        assert isinstance(prior, OrderedPrior)
        if begun is not None:
            prior.load_state_dict(begun.state_dict())
        train, validation = (prior.layout.encode(codes[split], self.parts[split][1]) for split in SPLITS[:2])
        task = PriorTask(prior, train, validation, config.transformer.class_dropout)
        with tempfile.TemporaryDirectory() as scratch:
            fit(task, config.transformer, config.trainer, self.context.device, Path(scratch), lambda record, step: None)
        print(f"  prior: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        return prior.eval().requires_grad_(False)

    @torch.no_grad()
    def point(self, codes: Codes, prior: OrderedPrior, split: str) -> dict[str, float]:
        """Mean PSNR of a split, and its bits per image under the prior, the class given, and by training counts."""
        images, labels, _ = self.parts[split]
        errors = [
            (self.decoder(self.codec.embed(part)) - goal.float() / 255).square().mean((1, 2, 3))
            for part, goal in zip(codes[split].split(500), images.split(500), strict=True)
        ]
        counted = rate(codes["train"], codes[split], self.K)["unigram"] if "train" in codes else None
        return {
            "psnr": float((-10 * torch.log10(torch.cat(errors).double())).mean()),
            "prior": float(prior.bits_per_image(prior.layout.encode(codes[split], labels)).mean()),
        } | ({} if counted is None else {"unigram": float(counted.mean())})


Codes = dict[str, Tensor]


def main() -> None:
    words = dict(word.split("=") for word in (*DEFAULTS.split(), *sys.argv[1:]))
    images, held_out, steps, rounds = (int(words[name]) for name in ("images", "held_out", "steps", "rounds"))
    retrain = rounds > 0
    cores = len(os.sched_getaffinity(0))
    print(f"machine: {platform.processor() or platform.machine()}, {cores} cores; {time.strftime('%Y-%m-%d')}; seed 0")
    print(" ".join(f"{name}={value}" for name, value in words.items()), flush=True)
    curves: dict[str, list[dict[str, float]]] = {}
    for K in map(int, words["K"].split(",")):
        book = Codebook(words["quantizer"], K, images, held_out, steps)
        whole = words["first"] == "all"
        store = Store(book, "-all" if whole else "")
        first = book.prior_of_all() if whole else store.kept_prior("metric", book.starts, None)
        begun = first if whole else None  # from which later ones are trained on
        codes = store.kept("plain", partial(book.search, None, 0.0, None, SPLITS))
        prior = store.kept_prior("plain", codes, begun)
        _tell(curves, "metric", f"nearest by metric, K={K}", book, book.starts, first)
        _tell(curves, "plain", f"plain, K={K}", book, codes, prior)
        if str(K) not in words["at"].split(","):
            continue
        for rate_lambda in map(float, words["lambda"].split(",")):
            found, learnt = None, first
            for turn in range(1, max(rounds, 1) + 1):
                name, told = f"lambda{rate_lambda:g}-{turn}", f"lambda={rate_lambda:g}, K={K}, round {turn}"
                search = partial(book.search, learnt, rate_lambda, found)
                others = store.kept(f"{name}-held-out", partial(search, SPLITS[1:]))
                curve = f"K={K}, search under prior {turn}"
                _tell(curves, curve, f"{told}, under the prior that was asked", book, others, learnt)
                if retrain:
                    found = others | store.kept(f"{name}-train", partial(search, SPLITS[:1]))
                    learnt = store.kept_prior(name, found, begun)
                    _tell(curves, f"{curve}, trained anew", f"{told}, under the next", book, found, learnt)
    for split in ("validation", "test"):
        if len(curves["plain"]) < 2:
            continue
        for name in [name for name, points in curves.items() if len(points) > 1 and name != "plain"]:
            found, low, high = bd_rate(*_columns(curves[name], split), *_columns(curves["plain"], split))
            print(f"BD-rate, {split}, {name} against plain: {found:.1f} % ({low:.2f} to {high:.2f} dB)", flush=True)


class Store:
    """Codes and priors of a codebook on the disk, by what they were made with."""

    def __init__(self, book: Codebook, ending: str) -> None:
        root = book.context.config.root / "rate_distortion"
        self.book, self.folder = book, root / f"{book.key}-{book.images}-{book.held_out}-{book.steps}{ending}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def kept(self, name: str, make: Any) -> Codes:
        path = self.folder / f"{name}.pt"
        if not path.exists():
            torch.save(make(), path)
        return torch.load(path)

    def kept_prior(self, name: str, codes: Codes, begun: OrderedPrior | None) -> OrderedPrior:
        from geovq.pipeline.stages.prior import make_prior

        weights = self.kept(f"{name}-prior", lambda: self.book.prior(codes, begun).state_dict())
        prior = make_prior(self.book.context.config, self.book.context.info, self.book.codec)
        prior.load_state_dict(weights)
        assert isinstance(prior, OrderedPrior)
        return prior.eval().requires_grad_(False)


def _tell(curves: Any, name: str, told: str, book: Codebook, codes: Codes, prior: OrderedPrior) -> None:
    found = {split: book.point(codes, prior, split) for split in ("validation", "test")}
    curves.setdefault(name, []).append(found)
    for split, point in found.items():
        print(
            f"{told}, {split}: {point['psnr']:.2f} dB, {point['prior']:.1f} bits under the prior given the class"
            + (f", {point['unigram']:.1f} by counts" if "unigram" in point else ""),
            flush=True,
        )


def _columns(points: list[Any], split: str) -> tuple[list[float], list[float]]:
    return [point[split]["psnr"] for point in points], [point[split]["prior"] for point in points]


if __name__ == "__main__":
    main()
