"""Claims of speed of the pipeline, each beside its peer in one run, as medians.

    python benchmarks/pipeline.py [fit] [help] [cached] [job] [digits] [fast]

Without arguments: fit, help, digits, fast. ``job`` is the default Fashion-MNIST job from raw images in a fresh
folder (minutes), ``cached`` the same command again. Real Fashion-MNIST is read from GEOVQ_DATA or data/.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
STEPS, BATCH = 40, 256


def main() -> None:
    chosen = sys.argv[1:] or ["fit", "help", "digits", "fast"]
    print(f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores; {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(os.environ.get("GEOVQ_BENCHMARK_ROOT", folder))
        for name in chosen:
            for line in BENCHMARKS[name](root):
                print(f"{name:<7} {line}", flush=True)


def alternating(ours: Callable[[], float], peer: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Medians of seconds, the two taken in turn so that drift of the machine hits both."""
    pairs = [(ours(), peer()) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def fit_overhead(root: Path) -> list[str]:
    """The shared loop against a bare one, and against torchvision transforms through a DataLoader."""
    sys.path.insert(0, str(REPOSITORY / "src"))
    import torch
    from hydra import compose, initialize_config_dir
    from torch.utils.data import DataLoader
    from torchvision.datasets import FashionMNIST
    from torchvision.transforms import ToTensor

    from geovq.commands.train import open_data, read_config
    from geovq.models.objective import VaeObjective
    from geovq.models.vae import VAE
    from geovq.pipeline.fit import fit
    from geovq.pipeline.stage import Context
    from geovq.pipeline.stages.vae import VaeTask

    words = ["data=fashion", f"vae.steps={STEPS}", f"vae.batch_size={BATCH}", "trainer.device=cpu"]
    words += ["trainer.precision=32-true", "trainer.validations=1", "trainer.checkpoint_seconds=1e9"]
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        config = read_config(compose("train", words))
    images = Context(config, *open_data(config)).data.train.images
    cpu = torch.device("cpu")

    def objective() -> VaeObjective:
        torch.manual_seed(0)
        vae = VAE((1, 28, 28), 4, dim=16, width=32, max_width=128, blocks=1, norm="group")
        return VaeObjective(vae, "mse", 0.02, "rate", 9.0)

    def ours() -> float:
        task = VaeTask(objective(), images, images[:1], warmup_steps=1, n_tokens=16, settings=config.vae)
        with tempfile.TemporaryDirectory() as scratch:
            begun = time.perf_counter()
            fit(task, config.vae, config.trainer, cpu, Path(scratch), lambda metrics, step: None)
            return time.perf_counter() - begun

    def bare() -> float:
        model = objective().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        order = torch.randperm(len(images))
        begun = time.perf_counter()
        for step in range(STEPS):
            loss, _ = model(images[order[step * BATCH : (step + 1) * BATCH]].float() / 255, 1.0)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - begun

    ours()  # warm-up: imports, allocator, kernels
    a, b = alternating(ours, bare, rounds=5)
    lines = [f"step of the default VAE: shared fit {1000 * a / STEPS:.1f} ms, bare loop {1000 * b / STEPS:.1f} ms, "
             f"ratio {a / b:.3f} (goal <= 1.05)"]  # fmt: skip

    def feed_ours() -> float:
        order = torch.randperm(len(images))
        begun = time.perf_counter()
        for batch in order.split(BATCH):
            images[batch].float().div_(255)
        return time.perf_counter() - begun

    loader = DataLoader(
        FashionMNIST(config.data.root, transform=ToTensor()), batch_size=BATCH, shuffle=True, num_workers=2
    )

    def feed_loader() -> float:
        begun = time.perf_counter()
        for _ in loader:
            pass
        return (time.perf_counter() - begun) * len(images) / 60_000

    a, b = alternating(feed_ours, feed_loader, rounds=3)
    lines.append(f"feeding one epoch of {len(images)} images: index selection {a:.2f} s, torchvision transforms "
                 f"through a DataLoader with 2 workers {b:.2f} s, ratio {b / a:.1f} (goal >= 3)")  # fmt: skip
    return lines


def help_time(root: Path) -> list[str]:
    """``--help`` against importing torch alone."""
    ours, peer = alternating(
        lambda: seconds([sys.executable, "src/train.py", "--help"])[0],
        lambda: seconds([sys.executable, "-c", "import torch"])[0],
        rounds=5,
    )
    return [f"src/train.py --help {ours:.2f} s, import torch {peer:.2f} s, ratio {ours / peer:.2f} (goal <= 2)"]


def run_job(root: Path, label: str, goal: str, *arguments: str) -> list[str]:
    """Whole command: wall seconds and peak memory of the process."""
    took, peak = seconds([sys.executable, "src/train.py", f"paths.root={root}", *arguments])
    command = " ".join(("src/train.py", *arguments))
    return [f"{label}: {command}: {took:.0f} s, peak {peak:.1f} GB (goal {goal})"]


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident GB of a command that must succeed."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(errors.decode())
    return time.perf_counter() - begun, _gigabytes(usage)


def _gigabytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / 2**20  # Linux counts in KiB


def cached(root: Path) -> list[str]:
    """The finished Fashion job again: median of three."""
    arguments = ["data=fashion", "quantizer=geodesic"]
    seconds([sys.executable, "src/train.py", f"paths.root={root}", *arguments])
    times = [seconds([sys.executable, "src/train.py", f"paths.root={root}", *arguments])[0] for _ in range(3)]
    return [f"all-cached second run of the Fashion job: median {statistics.median(times):.1f} s (goal < 15 s)"]


BENCHMARKS: dict[str, Callable[[Path], list[str]]] = {
    "fit": fit_overhead,
    "help": help_time,
    "digits": lambda root: run_job(root, "digits default", "< 60 s"),
    "fast": lambda root: run_job(root, "debug", "< 120 s", "data=fashion", "debug=fast"),
    "job": lambda root: run_job(root, "default job", "< 1200 s, < 8 GB", "data=fashion", "quantizer=geodesic"),
    "cached": cached,
}

if __name__ == "__main__":
    main()
