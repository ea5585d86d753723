"""A command killed in training goes on from its checkpoint when it is given again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny import REPOSITORY, TINY, command, runs


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_killed_in_training_the_same_command_resumes(tmp_path: Path, sent: signal.Signals) -> None:
    slow = [*TINY, "vae.steps=1000", "trainer.checkpoint_seconds=0.3", "stages=[vae]"]
    process = subprocess.Popen(
        [sys.executable, "src/train.py", *slow],
        cwd=REPOSITORY,
        env=os.environ | {"GEOVQ_ROOT": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("artifacts/vae/*.partial/checkpoint.safetensors")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(sent)
    assert process.wait(60) != 0
    assert not list(tmp_path.glob("artifacts/vae/*/manifest.json"))
    if sent != signal.SIGKILL:
        assert runs(tmp_path)[-1][1] == "KILLED"
        assert process.stderr is not None
        assert "interrupted; the same command goes on from here" in process.stderr.read()
    from safetensors import safe_open

    [checkpoint] = tmp_path.glob("artifacts/vae/*.partial/checkpoint.safetensors")
    with safe_open(checkpoint, framework="pt") as file:
        reached = int(file.metadata()["step"])
    assert 0 < reached < 1000
    resumed = command(tmp_path, "train", *slow)
    assert resumed.returncode == 0, resumed.stderr
    assert runs(tmp_path)[-1][1] == "FINISHED"
