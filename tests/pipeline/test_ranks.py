"""Two processes with gloo learn what one learns, to rounding, and measure and assign bit for bit what one does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from geovq.errors import ConfigError, RankError
from geovq.pipeline.runner import StageRun
from tiny import REPOSITORY, TINY

Results = dict[str, StageRun]


def weights_agree(one: Results, two: Results, stage: str, name: str = "weights", least: float = 1e-3) -> None:
    """Adam takes steps of the size of the learning rate even where a gradient is rounding, hence ``least``."""
    expected, found = (each[stage].artifact.tensors(name) for each in (one, two))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=least, msg=lambda m, key=key: f"{key}: {m}")


def curves_agree(one: Results, two: Results, stage: str, validated: bool = True, rel: float = 2e-4) -> None:
    expected, found = (
        [entry for entry in each[stage].artifact.json("history") if validated or "learning_rate" in entry]
        for each in (one, two)
    )
    assert [set(entry) for entry in found] == [set(entry) for entry in expected]
    for there, here in zip(expected, found, strict=True):
        assert here == pytest.approx(there, rel=rel), stage


def codes_agree(one: Results, two: Results, stage: str) -> None:
    for split in ("train", "validation", "test"):
        expected, found = (each[stage].artifact.tensors(split)["codes"] for each in (one, two))
        assert (expected == found).float().mean() > 0.995, split


def trained_twice(make_runner: Callable[..., Any], root: Path, *words: str) -> tuple[Results, Results]:
    one, two = (make_runner(root / n, *words, f"trainer.devices={n}") for n in ("1", "2"))
    assert one.keys == two.keys
    return one.run(), two.run()


def test_two_ranks_learn_what_one_learns_and_any_number_goes_on_where_one_was_killed(
    tmp_path: Path, make_runner: Callable[..., Any]
) -> None:
    words = ("quantizer=vqvae_ema", "finetune=both", "finetune.batch_size=32", "transformer.dropout=0.1")
    words = (*words, "stages=[prior,classifier]", "quantizer.restart=0.4", "trainer.checkpoint_seconds=1e-9")
    killed: list[int] = []

    def kill(stage: str, metrics: dict[str, float], step: int) -> None:
        if step >= 15 and not killed:
            killed.extend(children(os.getpid()))
            os.kill(killed[0], signal.SIGKILL)

    told = r"^rank 1 of 2 \(process \d+\) ended with signal 9 \(SIGKILL\); finished stages and checkpoints are kept"
    with pytest.raises(RankError, match=told) as error:
        make_runner(tmp_path / "2", *words, "trainer.devices=2", log=kill).run()
    assert f"(process {killed[0]})" in str(error.value)
    assert children(os.getpid()) == []
    assert list(tmp_path.glob("2/artifacts/joint/*.partial/checkpoint.safetensors"))
    shutil.copytree(tmp_path / "2", tmp_path / "alone")
    one, two = trained_twice(make_runner, tmp_path, *words)
    assert two["joint"].artifact.manifest["ranks"] == 2
    for stage in ("joint", "finetune", "prior", "classifier"):
        curves_agree(one, two, stage)
    for stage in ("prior", "classifier"):
        weights_agree(one, two, stage)
    for stage in ("codes", "tuned_codes"):
        codes_agree(one, two, stage)
    bits = [each["prior"].artifact.json("summary")["test_bits_per_image"] for each in (one, two)]
    assert bits[1] == pytest.approx(bits[0], rel=1e-4)
    curves_agree(one, make_runner(tmp_path / "alone", *words, "stages=[joint]").run(), "joint")


def test_metric_tensors_and_codes_are_those_of_one_rank_bit_for_bit(
    tmp_path: Path, make_runner: Callable[..., Any]
) -> None:
    words = ("quantizer=pullback", "assign=search", "stages=[codes]")
    one = make_runner(tmp_path / "1", *words).run()
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    for stage in ("metric_tensors", "metric_tensors_held_out", "codes"):
        shutil.rmtree(tmp_path / "2" / "artifacts" / stage)
    two = make_runner(tmp_path / "2", *words, "trainer.devices=2").run()
    assert [name for name, run in two.items() if not run.cached] == [
        "metric_tensors",
        "metric_tensors_held_out",
        "codes",
    ]
    for stage, run in two.items():
        assert run.artifact.tensors_digest == one[stage].artifact.tensors_digest, stage


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("quantizer=gumbel", "stages=[codes]"),
        ("quantizer=vqvae", "stages=[codes]", "quantizer.restart=0.4"),
        ("quantizer=vqvae2", "stages=[codes]"),
        ("quantizer=residual_vq", "stages=[codes]"),
        ("quantizer=product_vq", "stages=[codes]"),
        ("quantizer=fsq", "stages=[codes]"),
        ("quantizer=vqvae_ema", "stages=[prior]", "prior=masked", "transformer.dropout=0.1"),
        ("quantizer=vqvae_ema", "stages=[prior]", "prior=pixelcnn", "transformer.dropout=0.1"),
        (
            "stages=[latents]",
            "vae.loss=perceptual+adversarial",
            "vae.image_loss.adversarial_start=0",
        ),
        ("stages=[latents]", "vae.free_bits=0.5", "vae.condition=film"),
        ("quantizer=vqvae_ema", "stages=[tuned_codes]", "finetune=adversarial", "finetune.batch_size=32"),
        # as many images as the moments of the distance of sets ask for
        ("quantizer=euclidean", "stages=[finetune]", "finetune=adversarial", "finetune.steps=90"),
    ],
    ids=lambda words: " ".join(words),
)
def test_every_network_is_learned_as_by_one_rank(
    tmp_path: Path, make_runner: Callable[..., Any], words: tuple[str, ...]
) -> None:
    one, two = trained_twice(make_runner, tmp_path, *words)
    # Gumbel's scores are standardised: the bias before them has no gradient but rounding, by which Adam moves it, and
    # that shows where running statistics stand in for those of the batch.
    for stage, run in one.items():
        if run.artifact.has("history.json"):
            rel = 2e-2 if any("adversarial" in word for word in words) else 2e-4  # two networks that chase each other
            curves_agree(one, two, stage, "quantizer=gumbel" not in words, rel)


@pytest.mark.slow
def test_a_killed_rank_ends_the_command(tmp_path: Path) -> None:
    words = ("vae.batch_size=32", "vae.steps=5000", "trainer.checkpoint_seconds=0.1", "stages=[vae]")
    process, told_by = on_two_ranks(tmp_path, *words)
    try:
        while not list(tmp_path.glob("artifacts/vae/*.partial/checkpoint.safetensors")):
            assert process.poll() is None, told_by.read()
            time.sleep(0.02)
        [worker] = children(process.pid)
        os.kill(worker, signal.SIGKILL)
        assert process.wait(60) == 1
    finally:
        process.kill()
    told = [line for line in told_by.read().splitlines() if line.startswith(("error", "Traceback"))]
    assert len(told) == 1
    assert told[0].startswith(
        f"error: rank 1 of 2 (process {worker}) ended with signal 9 (SIGKILL); finished stages and"
    )


def on_two_ranks(root: Path, *words: str) -> tuple[subprocess.Popen[str], IO[str]]:
    """A tiny run under way, and what it tells."""
    process = subprocess.Popen(
        [sys.executable, "src/train.py", *TINY, *words, "trainer.devices=2", "tracking=none"],
        cwd=REPOSITORY,
        env=os.environ | {"GEOVQ_ROOT": str(root), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    return process, process.stderr


def children(process: int) -> list[int]:
    """The workers of a process."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [int(row[0]) for row in rows if row[1] == str(process) and "geovq.commands.rank" in row[2]]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_rank_outlives_the_command(tmp_path: Path, sent: signal.Signals) -> None:
    process, told_by = on_two_ranks(tmp_path, "vae.steps=5000", "stages=[vae]")
    try:
        while not (workers := children(process.pid)):
            assert process.poll() is None, told_by.read()
            time.sleep(0.1)
        process.send_signal(sent)
        assert process.wait(60) == (130 if sent == signal.SIGINT else -9)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{workers[0]}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("vae.batch_size=64", r"vae.batch_size=64: trainer.devices=3 processes cannot share a batch evenly; take 63"),
        ("transformer.batch_size=2", "transformer.batch_size=2: .*; take fewer devices"),
        ("vae.batch_size=999", "vae.batch_size=999 with 170 training images: .*; take 168"),
        ("evaluation.classifier.batch_size=31", "evaluation.classifier.batch_size=31: .*; take 30"),
        ("finetune=both", "finetune.batch_size=256 with 170 training images: .*; take 168"),
    ],
)
def test_batches_that_ranks_cannot_share_are_refused(
    tmp_path: Path, make_runner: Callable[..., Any], words: str, told: str
) -> None:
    even = [f"{key}.batch_size=30" for key in ("vae", "transformer", "evaluation.classifier")]
    with pytest.raises(ConfigError, match=told) as error:
        make_runner(tmp_path, *even, "data.validation=30", "trainer.devices=3", words)
    assert len(str(error.value).splitlines()) == 1


def test_more_ranks_than_gpus_are_refused(
    tmp_path: Path, make_runner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ConfigError, match=r"trainer.devices=2: this machine shows 1 CUDA device, and each process need"
    ):
        make_runner(tmp_path, "trainer.device=cuda", "trainer.devices=2")


@pytest.mark.gpu
def test_two_gpus_learn_what_one_learns(tmp_path: Path, make_runner: Callable[..., Any]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("fewer than two CUDA devices")
    words = ("trainer.device=cuda", "quantizer=vqvae_ema", "stages=[prior]")
    one, two = trained_twice(make_runner, tmp_path, *words)
    for stage in ("joint", "prior"):
        curves_agree(one, two, stage)
