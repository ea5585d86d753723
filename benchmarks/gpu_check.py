"""All that needs a GPU, in eight minutes: tests, agreement with the CPU, speed beside bare torch, and whole jobs.

    ./scripts/gpu_check.sh [--output build/gpu_check] [--parts tests,agreement,…]

Every part is a process with a time budget: one that fails or overruns is reported with what it had found, and the rest
goes on. The result stands in gpu_check.json and, as a section for docs/performance.md, in gpu_check.md. Exit status 0:
all is well; 1: something failed, or there is no CUDA device. Fashion-MNIST is read from GEOVQ_DATA or data/.

To try the script itself without a GPU: --device cpu --budget small compares the CPU with itself on tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _gpu_problem import REPOSITORY, SIZES, Problem, Row

LIMIT_SECONDS = 470
"""For everything; the last part gets what the others left."""
MANIFESTS = "*/*/manifest.json"
DIGITS = ("data=digits", "trainer.precision=32-true")
"""In full precision, which the CPU and any GPU have."""
TINY = (
    *("data.limit=300", "data.validation=50", "vae.steps=4", "vae.width=8", "vae.max_width=16", "transformer.steps=4"),
    *("transformer.width=16", "transformer.layers=1", "quantizer.K=16", "geo.n_probes=4", "geo.k=8"),
    *("evaluation.n_samples=20", "evaluation.classifier.steps=4"),
)


def main(arguments: list[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    if chosen.part:
        return run_part(chosen.part, chosen.device, chosen.budget)
    import torch

    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("error: this machine shows no CUDA device to PyTorch, and nothing else is checked here", file=sys.stderr)
        return 1
    names = chosen.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        print(f"error: --parts: {unknown[0]} is none of {', '.join(PARTS)}", file=sys.stderr)
        return 1
    begun, rows, output = time.perf_counter(), list[Row](), Path(chosen.output)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            left = LIMIT_SECONDS - (time.perf_counter() - begun)
            rows += in_process(name, chosen, Path(folder), min(PARTS[name][0], left), output / f"{name}.log")
            write(output, rows, chosen, time.perf_counter() - begun)
    print((output / "gpu_check.md").read_text(encoding="utf-8"))
    failed = [each for each in rows if "failed" in each]
    for each in failed:
        print(f"failed: {each['part']}: {each['name']}: {each['failed']}", file=sys.stderr)
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--output", default=str(REPOSITORY / "build" / "gpu_check"), help="folder of the results")
    made.add_argument("--parts", default=",".join(PARTS), help="those to run, with commas")
    made.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help=argparse.SUPPRESS)
    made.add_argument("--budget", default="full", choices=tuple(SIZES), help=argparse.SUPPRESS)
    made.add_argument("--part", help=argparse.SUPPRESS)
    return made


def in_process(name: str, chosen: argparse.Namespace, folder: Path, budget: float, log: Path) -> list[Row]:
    """The rows that a part prints, each as it is found, and one for how it ended."""
    begun = time.perf_counter()
    print(f"{name}: at most {budget:.0f} s", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--part", name, "--device", chosen.device, "--budget", chosen.budget]
    environment = os.environ | {"GEOVQ_GPU_CHECK_ROOT": str(folder)}
    found, ended = folder / f"{name}.rows", ""
    with found.open("w") as rows, log.open("w") as said:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=rows, stderr=said, start_new_session=True
        )
        try:
            if status := process.wait(max(1.0, budget)):
                ended = f"exit status {status}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            ended = f"overran its {budget:.0f} s; what it had found by then stands here"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with all that it started
                process.wait()
    parsed = [json.loads(line) for line in found.read_text().splitlines() if line.startswith("{")]
    seconds = time.perf_counter() - begun
    end = Row(name="whole part", unit="s", ours=round(seconds, 1)) | (Row(failed=ended) if ended else Row())
    return [Row(part=name) | each for each in (*parsed, end)]


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def run_part(name: str, device: str, budget: str) -> int:
    """Print the rows of a part as lines of JSON; 1 where something but a row failed."""
    for row in PARTS[name][1](device, budget):
        print(json.dumps(row), flush=True)
    return 0


def each_by_itself(functions: Iterable[Callable[[Problem], Iterator[Row]]], problem: Problem) -> Iterator[Row]:
    """The rows of functions; one that raises is a row that says so."""
    for function in functions:
        name = function.__name__.replace("_", " ")
        try:
            yield from function(problem)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            yield Row(name=name, failed=reason[:300])
        finally:
            forget()


def forget() -> None:
    """Give back what a row held of the device's memory."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def agreement(device: str, budget: str) -> Iterator[Row]:
    from _gpu_agreement import COMPARISONS

    return each_by_itself(COMPARISONS, Problem(device, SIZES[budget]))


def timings(device: str, budget: str) -> Iterator[Row]:
    from _gpu_timings import TIMINGS

    return each_by_itself(TIMINGS, Problem(device, SIZES[budget]))


def tests(device: str, budget: str) -> Iterator[Row]:
    """What is marked gpu; only the files that hold such tests are read."""
    files = [path for path in (REPOSITORY / "tests").rglob("test_*.py") if "mark" + ".gpu" in path.read_text()]
    report = Path(os.environ["GEOVQ_GPU_CHECK_ROOT"]) / "tests.json"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--durations=10", "-rfE"]
    command += [f"--junit-xml={report}", "-n", "4" if device == "cuda" else "0", *map(str, sorted(files))]
    process = subprocess.run(command, cwd=REPOSITORY, stdout=sys.stderr, check=False)
    import xml.etree.ElementTree as Xml

    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in Xml.parse(report).getroot().iter("testsuite"):
        counts = {name: counts[name] + int(suite.get(name, 0)) for name in counts}
    row = Row(name="tests marked gpu", unit="tests passed", ours=counts["tests"] - sum([*counts.values()][1:]))
    row["remark"] = ", ".join(f"{number} {name}" for name, number in counts.items())
    if process.returncode or (device == "cuda" and counts["skipped"]):
        row["failed"] = row["remark"]
    yield row


def digits(device: str, budget: str) -> Iterator[Row]:
    yield from job("digits", device, budget, *DIGITS)


def digits_on_cpu(device: str, budget: str) -> Iterator[Row]:
    """The networks and the codebook of ``digits`` once more on the CPU: all that is computed from them, by score."""
    root = Path(os.environ["GEOVQ_GPU_CHECK_ROOT"])
    if not (root / "digits" / "artifacts" / "report").is_dir():
        raise SystemExit("the part digits left no report to compare with")
    for stage in ("vae", "classifier", "codebook", "prior"):
        shutil.copytree(root / "digits/artifacts" / stage, root / "digits_on_cpu/artifacts" / stage)
    yield from job("digits_on_cpu", "cpu", budget, *DIGITS, "stale=ignore")
    here, there = (report_of(root / name) for name in ("digits_on_cpu", "digits"))
    for name, limit in COMPARED.items():
        difference = abs(here[name] / there[name] - 1)
        row = Row(name=name, work="digits, same networks, relative", difference=difference, limit=limit)
        yield row if difference <= limit else row | Row(failed=f"{here[name]:.6g} on the CPU, {there[name]:.6g}")


COMPARED = {"psnr": 1e-3, "psnr_continuous": 1e-4, "ssim": 1e-3, "perceptual_digits_cnn": 5e-3, "perplexity": 1e-2,
            "distortion_pullback_pixel2": 1e-2, "rate_unigram_bits_per_image": 1e-2}  # fmt: skip
"""Scores and how far they may differ: codes of near ties fall the other way."""


def fashion(device: str, budget: str) -> Iterator[Row]:
    yield from job("fashion", device, budget, "data=fashion", "debug=fast")


def main_job(device: str, budget: str) -> Iterator[Row]:
    yield from job("main", device, budget, "data=fashion", "quantizer=geodesic")


def job(name: str, device: str, budget: str, *words: str) -> Iterator[Row]:
    """Seconds of ``src/train.py`` in a fresh folder, of its stages, and the PSNR that it reached."""
    root = Path(os.environ["GEOVQ_GPU_CHECK_ROOT"]) / name
    command = [sys.executable, "src/train.py", *words, f"trainer.device={device}"]
    settings = TINY if budget == "small" else ()
    known = set((root / "artifacts").glob(MANIFESTS))
    begun = time.perf_counter()
    subprocess.run(
        [*command, *settings, f"paths.root={root}", "tracking=none"], cwd=REPOSITORY, stdout=sys.stderr, check=True
    )
    seconds = time.perf_counter() - begun
    stages = {}
    for manifest in set((root / "artifacts").glob(MANIFESTS)) - known:
        made = json.loads(manifest.read_text())
        if "seconds" in made:
            stages[made["stage"]] = made["seconds"]
    listed = ", ".join(f"{stage} {took:.1f}" for stage, took in sorted(stages.items(), key=lambda each: -each[1])[:8])
    shown = " ".join(("src/train.py", *words))
    remark = f"{listed} s; PSNR {report_of(root)['psnr']:.2f} dB"
    yield Row(name=shown, unit="s", ours=round(seconds, 1), remark=remark)


def report_of(root: Path) -> dict[str, float]:
    """The scores of the one run below a root."""
    (found,) = (root / "artifacts" / "report").glob("*/metrics.json")
    values: dict[str, float] = json.loads(found.read_text())
    return values


def machine(device: str) -> dict[str, str]:
    """What it was measured on."""
    import torch

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout.strip()
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU ({platform.processor() or platform.machine()})"
    return {
        "device": name,
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda if device == "cuda" else None),
        "cores": str(len(os.sched_getaffinity(0))),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit or "unknown",
    }


def write(output: Path, rows: list[Row], chosen: argparse.Namespace, seconds: float) -> None:
    """Both files, after every part: what stops the script leaves what it had."""
    from _gpu_table import markdown

    where = machine(chosen.device)
    whole = {"machine": where, "budget": chosen.budget, "seconds": round(seconds, 1), "rows": rows}
    (output / "gpu_check.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    (output / "gpu_check.md").write_text(markdown(where, rows, seconds, chosen.budget), encoding="utf-8")


PARTS: dict[str, tuple[float, Callable[[str, str], Iterator[Row]]]] = {
    "tests": (100, tests),
    "agreement": (50, agreement),
    "timings": (90, timings),
    "digits": (50, digits),
    "digits_on_cpu": (50, digits_on_cpu),
    "fashion": (50, fashion),
    "main": (LIMIT_SECONDS, main_job),
}
"""Seconds that a part may take, and what it does. In the worst case 80 are left for the last."""


if __name__ == "__main__":
    sys.exit(main())
