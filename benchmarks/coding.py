"""What a file takes beyond its prior's code length, whether it is read alike everywhere, and how fast.

python benchmarks/coding.py bits|machines|speed [run] [images]
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _coded_run import CodedRun
from geovq.coding.file import decode, encode, images_per_block
from geovq.coding.format import Header, read_body, read_header, split
from geovq.coding.integer_prior import IntegerPrior

THREADS = "OMP_NUM_THREADS"
MACHINES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "1 thread, batches of 500": ({}, {}),
    "2 threads, batches of 500": ({"threads": 2}, {THREADS: "2"}),
    "2 threads, batches of 7": ({"threads": 2, "batch_size": 7}, {THREADS: "2"}),
    "batches of 1 *": ({"batch_size": 1}, {}),
    "torch (MKL) multiplies": ({"torch": True}, {}),
    "torch, 2 threads, batches of 7": ({"torch": True, "threads": 2, "batch_size": 7}, {THREADS: "2"}),
    "torch, bf16 products allowed, autocast": ({"torch": True, "bf16": True}, {}),
    "torch, MKL_CBWR=COMPATIBLE": ({"torch": True}, {"MKL_CBWR": "COMPATIBLE"}),
    "torch, MKL_ENABLE_INSTRUCTIONS=SSE4_2": ({"torch": True}, {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}),
    "torch, ATEN_CPU_CAPABILITY=default": ({"torch": True}, {"ATEN_CPU_CAPABILITY": "default"}),
    "torch, ATEN_CPU_CAPABILITY=avx2": ({"torch": True}, {"ATEN_CPU_CAPABILITY": "avx2"}),
    "OpenBLAS for Haswell (AVX2)": ({}, {"OPENBLAS_CORETYPE": "Haswell"}),
    "OpenBLAS for Nehalem (SSE)": ({}, {"OPENBLAS_CORETYPE": "Nehalem"}),
    "kernels compiled for any x86-64": ({}, {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}),
}
"""How a file is read, and the environment it is read in; * the first 300 images."""
FEW = 300


def through_torch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same product by torch's library."""
    return torch.matmul(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def file_of(prior: IntegerPrior, codes: np.ndarray, per_image: bool = False, with_classes: bool = True) -> bytes:
    """A whole file without names, of a run that has no id."""
    coded = encode(prior, codes, per_image=per_image, with_classes=with_classes, batch_size=256)
    shape = 1, 28, 28, len(codes), images_per_block(prior, per_image), codes.shape[1]
    header = Header(per_image, with_classes, False, "autoregressive", *shape, "0" * 32, *("1" * 16,) * 3, prior.digest)
    return header.to_bytes() + b"".join(block.to_bytes() for block in coded.blocks)


def read(data: bytes, prior: IntegerPrior, **how: Any) -> tuple[np.ndarray, np.ndarray]:
    """Codes and classes of a file."""
    header = read_header(data, "file")
    return decode(prior, header, read_body(data, header, "file")[1], **how)


def machines(run: CodedRun, n: int) -> None:
    """Files of n test images, read in each way; every code is compared."""
    codes = run.codes[:n].flatten(1).numpy()
    prior = IntegerPrior(run.prior)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.save(place / "codes.npy", codes)
        (place / "all.gvq").write_bytes(file_of(prior, codes))
        (place / "few.gvq").write_bytes(file_of(prior, codes[:FEW]))
        for name, (how, environment) in MACHINES.items():
            child = [sys.executable, __file__, "child", run.record.run_id, json.dumps({"folder": folder, **how})]
            child[-1] = json.dumps({"folder": folder, "file": "few.gvq" if "*" in name else "all.gvq", **how})
            done = subprocess.run(child, env=os.environ | {THREADS: "1"} | environment, capture_output=True, text=True)
            said = done.stdout.strip() or done.stderr.strip().splitlines()[-1]
            print(f"{name:42s} {said}", flush=True)


def child(run: CodedRun, how: dict[str, Any]) -> None:
    """Read one file in the environment that this process has."""
    folder, name = Path(how.pop("folder")), how.pop("file")
    threads = how.get("threads", 1)
    torch.set_num_threads(threads)
    bf16 = how.pop("bf16", False)
    if bf16:
        torch.set_float32_matmul_precision("medium")
    prior = IntegerPrior(run.prior, through_torch if how.pop("torch", False) else np.matmul)
    codes, begun = np.load(folder / "codes.npy"), time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found, _ = read((folder / name).read_bytes(), prior, threads=threads, batch_size=how.get("batch_size", 500))
    seconds = time.perf_counter() - begun
    wrong = (found != codes[: len(found)]).any(1).sum()
    print(f"{wrong} of {len(found):,} images differ; {seconds:.1f} s")


def bits(run: CodedRun, n: int) -> None:
    """Bytes of files beside the code length that the prior has in floating point, of the same images and classes."""
    codes = run.codes[:n]
    flat, prior, layout = codes.flatten(1).numpy(), IntegerPrior(run.prior), run.prior.layout
    for with_classes in sorted({False, layout.n_classes > 0}):
        for per_image in (False, True):
            data = file_of(prior, flat, per_image, with_classes)
            _, labels = read(data, prior)
            lengths = run.prior.bits_per_image(layout.encode(codes, torch.from_numpy(labels))).double().numpy()
            lengths += math.log2(layout.n_classes) if with_classes else 0
            total = lengths.sum() / 8
            told = "a class each" if with_classes else "no class"
            print(
                f"{told}, {'a stream each' if per_image else 'one stream'}: {len(data):,} bytes, "
                f"{8 * len(data) / n:.3f} bits per image; code length {lengths.mean():.3f}; "
                f"{len(data) - total:+.0f} bytes, {100 * (len(data) / total - 1):+.2f} %"
            )
            if per_image:
                header = read_header(data, "file")
                blocks = read_body(data, header, "file")[1]
                streams = [s for i, block in enumerate(blocks) for s in split(block.payload, header.images_of(i))]
                beyond = np.array([8 * len(stream) + 8 for stream in streams]) - lengths
                print(
                    f"  each stream with its length: {beyond.mean():+.1f} bits on average, {beyond.max():+.1f} at most"
                )


def speed(run: CodedRun, n: int) -> None:
    """Images per second of processor time on one thread, and of the clock on two."""
    flat, prior = run.codes[:n].flatten(1).numpy(), IntegerPrior(run.prior)
    read(file_of(prior, flat[:50]), prior)  # compiles
    for with_classes in sorted({False, run.prior.layout.n_classes > 0}):
        data = file_of(prior, flat, with_classes=with_classes)
        for threads in (1, 2):
            times = []
            for clock in (time.process_time, time.perf_counter):
                begun = clock()
                coded = encode(prior, flat, with_classes=with_classes, threads=threads)
                middle = clock()
                read(data, prior, threads=threads, batch_size=256)
                times += [n / (middle - begun), n / (clock() - middle)]
            told = "a class each" if with_classes else "no class"
            print(
                f"{told}, {threads} threads, images per second: processor time {times[0]:.0f} coded, {times[1]:.0f} "
                f"read; clock {times[2]:.0f} coded, {times[3]:.0f} read ({len(coded.blocks)} blocks)",
                flush=True,
            )


def main() -> None:
    """The parts by name; ``child`` is what ``machines`` starts."""
    part, which, last = (*sys.argv[1:], *("bits", "latest", "10000")[len(sys.argv) - 1 :])
    run = CodedRun(which)
    if part == "child":
        child(run, json.loads(last))
    else:
        {"bits": bits, "machines": machines, "speed": speed}[part](run, int(last))


if __name__ == "__main__":
    main()
