"""Codebooks of more tokens than there are images for: seconds, memory and their growth, stage by stage.

    python src/train.py data=fashion quantizer=pullback stages=[metric_tensors]      # the tokens that are repeated
    python benchmarks/scale.py [whitened] [pullback] [geodesic] [0.25] [1] [4] [10] [passes=1] [memory_gb=1] [parts]

Words are quantizers (K = 512), numbers are millions of tokens; by default all three and 0.25 and 1 million. ``passes``
is ``quantizer.max_iter``, by default that of the quantizer: memory and growth show in one pass; ``memory_gb`` is
``trainer.memory_gb``, by default the shipped one; ``parts`` tells the seconds of the parts of a stage too. Tokens are
those of the latents and metric tensors found in GEOVQ_ROOT or experiments/, repeated with Gaussian noise of a tenth of
each dimension's deviation, about as far as their nearest neighbours lie; a copy has the metric tensor of its original.
Every stage runs as a training runs it, from artifacts to an artifact, in a process of its own with one thread, below
GEOVQ_BENCHMARK_ROOT (or a temporary folder): up to 45 GB there for 10 million tokens.

"seconds" are those of the processor, which for one thread are those of a quiet core; "wall" those of the clock.
"exponent" is that of the seconds since the size before. "held" is the largest anonymous memory of the process, "mapped"
the largest resident part of files, which the system drops where it needs the room; both are read ten times a second.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "src"))

TOKENS_PER_IMAGE = 16
NOISE = 0.1
STAGES = {
    "whitened": ("codebook", "codes"),
    "pullback": ("codebook", "codes"),
    "geodesic": ("graph", "codebook", "codes"),
}
PARTS = {
    "geovq.geometry.graph": ("distinct", "symmetric_links", "joining_edges", "node_metrics", "edge_lengths"),
    "geovq.geometry.neighbors": ("InvertedLists", "NeighborIndex.neighbors"),  # up to a million, one holds the other
    "geovq.quantizers.medoids": ("geodesic_seeds", "cells_of", "swap_candidates", "nearest_labels"),
}
Row = tuple[float, float, float, float]


def main() -> None:
    chosen = [word for word in sys.argv[1:] if word in STAGES] or list(STAGES)
    settings = ",".join(word for word in sys.argv[1:] if "=" in word or word == "parts")
    numbers = [word for word in sys.argv[1:] if word not in (*STAGES, "parts") and "=" not in word]
    sizes = [round(1e6 * float(word)) for word in numbers] or [250_000, 1_000_000]
    root = os.environ.get("GEOVQ_BENCHMARK_ROOT")
    folder = Path(root) if root else Path(tempfile.mkdtemp(prefix="geovq-scale-"))
    print(f"{len(os.sched_getaffinity(0))} cores, one thread; {time.strftime('%Y-%m-%d')}; seed 0; {folder}")
    print("quantizer  stage          tokens   seconds exponent     wall  held GB mapped GB")
    for quantizer in chosen:
        for stage in ("tokens", *STAGES[quantizer]):  # nothing is compiled in what is measured
            in_fresh_process(stage, quantizer, 24_000, folder, settings)
        before: dict[str, tuple[int, float]] = {}
        for n_tokens in sizes:
            in_fresh_process("tokens", quantizer, n_tokens, folder, settings)
            rows = []
            for stage in STAGES[quantizer]:
                rows.append(in_fresh_process(stage, quantizer, n_tokens, folder, settings))
                print_row(quantizer, stage, n_tokens, rows[-1], before)
            seconds, wall, held, mapped = zip(*rows, strict=True)
            print_row(quantizer, "all", n_tokens, (sum(seconds), sum(wall), max(held), max(mapped)), before)
    if root is None:
        shutil.rmtree(folder)


def print_row(quantizer: str, stage: str, n_tokens: int, row: Row, before: dict[str, tuple[int, float]]) -> None:
    """One line, with the growth since ``before``: tokens and seconds of this stage's last line."""
    seconds, wall, held, mapped = row
    tokens, took = before.get(stage, (n_tokens, seconds))
    exponent = f"{np.log(seconds / took) / np.log(n_tokens / tokens):.2f}" if tokens != n_tokens else ""
    before[stage] = (n_tokens, seconds)
    line = f"{quantizer:<10} {stage:<10} {n_tokens:>10,} {seconds:>9.1f} {exponent:>8} {wall:>8.0f}"
    print(f"{line} {held:>8.2f} {mapped:>9.2f}", flush=True)


def in_fresh_process(stage: str, quantizer: str, n_tokens: int, folder: Path, settings: str) -> Row:
    """Seconds of the processor and of the clock without imports, peaks of anonymous memory and resident files in GB."""
    command = [sys.executable, __file__, "_stage", stage, quantizer, str(n_tokens), str(folder), settings]
    held = mapped = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            numbers = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
            held = max(held, numbers.get("RssAnon", 0))
            mapped = max(mapped, numbers.get("RssFile", 0) + numbers.get("RssShmem", 0))
            time.sleep(0.1)
        assert process.stdout is not None
        answer = process.stdout.read().split()
    if process.returncode:
        raise SystemExit(f"{stage} of {n_tokens:,} tokens failed")
    return float(answer[-2]), float(answer[-1]), held * 1024 / 1e9, mapped * 1024 / 1e9


def answer_stage(stage: str, quantizer: str, n_tokens: int, folder: Path, settings: str) -> None:
    """The other side of ``in_fresh_process``: build one stage, or the tokens that all of them start from."""
    from hydra import compose, initialize_config_dir

    from geovq.commands.train import read_config
    from geovq.pipeline.artifacts import ArtifactStore
    from geovq.pipeline.stage import Context
    from geovq.pipeline.stages import STAGES as KNOWN

    keys = {"passes": "quantizer.max_iter", "memory_gb": "trainer.memory_gb"}
    chosen = [word.partition("=") for word in settings.split(",") if "=" in word]
    overrides = ["data=fashion", f"quantizer={quantizer}", "trainer.threads=1", "trainer.device=cpu"]
    overrides += [f"{keys[word]}={value}" for word, _, value in chosen]
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        config = read_config(compose("train", overrides))
    none: Any = None
    context, store, key = Context(config, none, none), ArtifactStore(folder), f"{n_tokens:016d}"
    keys = {"latents": key, "metric_tensors": key, "metric_tensors_held_out": key, "graph": key}
    keys["codebook"] = keys["codes"] = f"{n_tokens:015d}{'wpg'[list(STAGES).index(quantizer)]}"
    if stage == "tokens":
        make_tokens(store, key, n_tokens)
        return print(0.0, 0.0)
    known = next(each for each in KNOWN if each.name == stage)
    inputs: Any = {name: store.find(name, keys[name]) for name in known.inputs(context.config)}
    shutil.rmtree(store.directory(stage, keys[stage]), ignore_errors=True)
    parts = timed_parts() if "parts" in settings.split(",") else {}
    begun, used = time.perf_counter(), time.process_time()
    store.build(stage, keys[stage], {}, {}, lambda out: known.build(context, inputs, out))
    print(time.process_time() - used, time.perf_counter() - begun)
    for name, seconds in parts.items():
        print(f"           {name:24} {seconds:8.1f}", file=sys.stderr)


def timed_parts() -> dict[str, float]:
    """Seconds of the processor in each of ``PARTS``, which are added up from now on."""
    seconds: dict[str, float] = {}

    def timed(part: Any, name: str) -> Any:
        def call(*arguments: Any, **settings: Any) -> Any:
            used = time.process_time()
            result = part(*arguments, **settings)
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - used
            return result

        return call

    for module, names in PARTS.items():
        for name in names:
            *owner, last = name.split(".")
            place = reduce(getattr, owner, import_module(module))
            setattr(place, last, timed(getattr(place, last), name))
    return seconds


def make_tokens(store: Any, key: str, n_tokens: int) -> None:
    """Latents and metric tensors of ``n_tokens`` tokens, and of a few held-out ones, as artifacts of ``key``."""
    import torch

    from geovq.pipeline.manifest import read_manifest

    root = Path(os.environ.get("GEOVQ_ROOT", REPOSITORY / "experiments")) / "artifacts"
    found = sorted(root.glob("metric_tensors/*/train.safetensors"))
    if not found:
        raise SystemExit(f"no metric tensors below {root}; run: python src/train.py data=fashion quantizer=pullback "
                         "stages=[metric_tensors]")  # fmt: skip
    from safetensors.torch import load_file

    metrics = load_file(found[0])["packed"]
    latents = root / "latents" / read_manifest(found[0].parent)["inputs"]["latents"]
    mean = load_file(latents / "train.safetensors")["mean"]
    noise = NOISE * mean.std(dim=(0, 2, 3), keepdim=True)
    counts = {"train": n_tokens // TOKENS_PER_IMAGE, "validation": 500, "test": 500}

    def repeated(n_images: int, seed: int) -> Any:
        """Blocks of images: first and last place, and the originals' places."""
        generator = torch.Generator().manual_seed(seed)
        for first in range(0, n_images, 5_000):
            last = min(first + 5_000, n_images)
            yield first, last, torch.arange(first, last) % len(mean), generator

    def write_latents(out: Any) -> None:
        for seed, (split, n_images) in enumerate(counts.items()):
            with out.written(split, {"mean": (n_images, *mean.shape[1:])}, torch.float32) as tensors:
                for first, last, rows, generator in repeated(n_images, seed):
                    drawn = torch.randn(len(rows), *mean.shape[1:], generator=generator)
                    drawn[: max(0, len(mean) - first)] *= split != "train"  # the originals themselves come first
                    tensors["mean"][first:last] = mean[rows] + noise * drawn

    def write_metrics(out: Any, *splits: str) -> None:
        per_image = metrics.view(len(mean), -1)
        for split in splits:
            n_images = counts[split]
            shape = (n_images * TOKENS_PER_IMAGE, metrics.shape[1])
            with out.written(split, {"packed": shape}, metrics.dtype) as tensors:
                for first, last, rows, _ in repeated(n_images, 0):
                    tensors["packed"].view(n_images, -1)[first:last] = per_image[rows]

    store.build("latents", key, {}, {}, write_latents)
    store.build("metric_tensors", key, {}, {}, lambda out: write_metrics(out, "train"))
    store.build("metric_tensors_held_out", key, {}, {}, lambda out: write_metrics(out, "validation", "test"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["_stage"]:
        answer_stage(sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]), sys.argv[6])
    else:
        main()
