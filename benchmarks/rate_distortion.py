"""Search under the prior's code length against plain search at other K: PSNR, coded bits, and the BD-rate between them.

    python benchmarks/rate_distortion.py [images=8000] [held_out=1000] [steps=300] [rounds=2] [at=512] \
        [K=256,512,1024,2048] [lambda=0.01,0.02,0.04]

Pull-back codebooks of Fashion-MNIST's default VAE, seed 0, fitted to all training images. Priors learn the codes of the
first ``images`` of these in ``steps`` steps; ``held_out`` validation and test images are encoded. What the pipeline has
below GEOVQ_ROOT is read there and else built; so are the points, in ``rate_distortion/``.
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
from geovq.models.codec import Codec, stacked_codec
from geovq.models.prior import OrderedPrior
from geovq.models.tokens import tokens_of
from geovq.pipeline.fit import fit
from geovq.pipeline.stages.latents import SPLITS

DEFAULTS = "images=8000 held_out=1000 steps=300 rounds=2 at=512 K=256,512,1024,2048 lambda=0.01,0.02,0.04"


@dataclass
class Codebook:
    """A codebook of K codewords and the images that are encoded by it."""

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
        from geovq.pipeline.stages.metric_tensors import load_metric_tensors
        from geovq.pipeline.stages.vae import load_vae

        words = ["data=fashion", "quantizer=pullback", f"quantizer.K={self.K}", "assign=search", "trainer.threads=1"]
        with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
            config = read_config(compose("train", [*words, f"transformer.steps={self.steps}", "stale=ignore"]))
        self.context = Context(config, *open_data(config))
        runner = Runner(self.context, to_standard_error)
        needed = ("vae", "latents", "metric_tensors", "metric_tensors_held_out", "codebook")
        artifacts = runner.obtain(needed)
        quantizer = load_quantizer(self.context, artifacts)
        self.decoder = load_vae(self.context, artifacts).decoder
        grid = (config.vae.grid, config.vae.grid)
        self.codec: Codec = stacked_codec([torch.from_numpy(table) for table in quantizer.tables_], grid)
        self.key, self.parts, self.starts = runner.keys["codebook"], {}, {}
        for split in SPLITS:
            n = self.images if split == "train" else self.held_out
            data = getattr(self.context.data, split)
            mean = artifacts["latents"].tensors(split)["mean"][:n]
            metrics = load_metric_tensors(artifacts, split)[: n * config.n_tokens]
            codes = torch.from_numpy(quantizer.predict(tokens_of(mean).numpy(), metrics)).long()
            self.parts[split] = (data.images[:n], data.labels[:n], metrics)
            self.starts[split] = codes.view(n, *grid)

    @cached_property
    def codewords(self) -> Tensor:
        """(K, d)."""
        codewords = self.codec.whole_codewords()
        assert codewords is not None
        return codewords.detach().float()

    def search(self, prior: OrderedPrior | None, rate_lambda: float, known: dict[str, Tensor] | None) -> Codes:
        """Codes of all splits, from those by the tokens' metrics and those known."""
        found, begun, n = {}, time.perf_counter(), 0
        for split, (images, labels, metrics) in self.parts.items():
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

    def prior(self, codes: Codes) -> OrderedPrior:
        """One trained on codes from scratch."""
        from geovq.pipeline.stages.prior import PriorTask, make_prior

        config, begun = self.context.config, time.perf_counter()
        prior = make_prior(config, self.context.info, self.codec)
        assert isinstance(prior, OrderedPrior)
        train, validation = (prior.layout.encode(codes[split], self.parts[split][1]) for split in SPLITS[:2])
        task = PriorTask(prior, train, validation, config.transformer.class_dropout)
        with tempfile.TemporaryDirectory() as scratch:
            fit(task, config.transformer, config.trainer, self.context.device, Path(scratch), lambda record, step: None)
        print(f"  prior: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        return prior.eval().requires_grad_(False)

    @torch.no_grad()
    def point(self, codes: Codes, prior: OrderedPrior, split: str) -> dict[str, float]:
        """Mean PSNR of a split, and its bits per image by training counts and under the prior, the class given."""
        images, labels, _ = self.parts[split]
        errors = [
            (self.decoder(self.codec.embed(part)) - goal.float() / 255).square().mean((1, 2, 3))
            for part, goal in zip(codes[split].split(500), images.split(500), strict=True)
        ]
        return {
            "psnr": float((-10 * torch.log10(torch.cat(errors).double())).mean()),
            "unigram": float(rate(codes["train"], codes[split], self.K)["unigram"].mean()),
            "prior": float(prior.bits_per_image(prior.layout.encode(codes[split], labels)).mean()),
        }


Codes = dict[str, Tensor]


def main() -> None:
    words = dict(word.split("=") for word in (*DEFAULTS.split(), *sys.argv[1:]))
    images, held_out, steps, rounds = (int(words[name]) for name in ("images", "held_out", "steps", "rounds"))
    cores = len(os.sched_getaffinity(0))
    print(f"machine: {platform.processor() or platform.machine()}, {cores} cores; {time.strftime('%Y-%m-%d')}; seed 0")
    print(" ".join(f"{name}={value}" for name, value in words.items()), flush=True)
    curves: dict[str, list[dict[str, float]]] = {}
    for K in map(int, words["K"].split(",")):
        book = Codebook(K, images, held_out, steps)
        store = Store(book)
        codes = store.kept("plain", partial(book.search, None, 0.0, None))
        prior = store.kept_prior("plain", codes)
        _tell(curves, "plain", f"plain, K={K}", book, codes, prior)
        if str(K) not in words["at"].split(","):
            continue
        first = store.kept_prior("metric", book.starts)
        _tell(curves, "metric", f"nearest by metric, K={K}", book, book.starts, first)
        for rate_lambda in map(float, words["lambda"].split(",")):
            found, learnt = None, first
            for turn in range(1, rounds + 1):
                name = f"lambda{rate_lambda:g}-{turn}"
                found = store.kept(name, partial(book.search, learnt, rate_lambda, found))
                learnt = store.kept_prior(name, found)
                _tell(
                    curves, f"K={K}, round {turn}", f"lambda={rate_lambda:g}, K={K}, round {turn}", book, found, learnt
                )
    for split in ("validation", "test"):
        for name in [name for name, points in curves.items() if len(points) > 1 and name != "plain"]:
            found, low, high = bd_rate(*_columns(curves[name], split), *_columns(curves["plain"], split))
            print(f"BD-rate, {split}, {name} against plain: {found:.1f} % ({low:.2f} to {high:.2f} dB)", flush=True)


class Store:
    """Codes and priors of a codebook on the disk, by what they were made with."""

    def __init__(self, book: Codebook) -> None:
        root = book.context.config.root / "rate_distortion"
        self.book, self.folder = book, root / f"{book.key}-{book.images}-{book.held_out}-{book.steps}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def kept(self, name: str, make: Any) -> Codes:
        path = self.folder / f"{name}.pt"
        if not path.exists():
            torch.save(make(), path)
        return torch.load(path)

    def kept_prior(self, name: str, codes: Codes) -> OrderedPrior:
        from geovq.pipeline.stages.prior import make_prior

        weights = self.kept(f"{name}-prior", lambda: self.book.prior(codes).state_dict())
        prior = make_prior(self.book.context.config, self.book.context.info, self.book.codec)
        prior.load_state_dict(weights)
        assert isinstance(prior, OrderedPrior)
        return prior.eval().requires_grad_(False)


def _tell(curves: Any, name: str, told: str, book: Codebook, codes: Codes, prior: OrderedPrior) -> None:
    found = {split: book.point(codes, prior, split) for split in ("validation", "test")}
    curves.setdefault(name, []).append(found)
    for split, point in found.items():
        print(
            f"{told}, {split}: {point['psnr']:.2f} dB, {point['unigram']:.1f} bits by counts, "
            f"{point['prior']:.1f} under the prior given the class",
            flush=True,
        )


def _columns(points: list[Any], split: str) -> tuple[list[float], list[float]]:
    return [point[split]["psnr"] for point in points], [point[split]["prior"] for point in points]


if __name__ == "__main__":
    main()
