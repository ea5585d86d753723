"""A command killed in training goes on from its checkpoint when it is given again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from geovq.commands.train import train
from tiny import REPOSITORY, TINY, runs

STEPS = 250


@pytest.mark.parametrize(
    "sent",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_killed_in_training_the_same_command_resumes(
    tmp_path: Path, database: Path, compose: Callable[..., Any], sent: signal.Signals
) -> None:
    shutil.copy(database, tmp_path)
    words = [*TINY, "vae.batch_size=32", f"vae.steps={STEPS}", "trainer.checkpoint_seconds=0.1", "stages=[vae]"]
    process = subprocess.Popen(
        [sys.executable, "src/train.py", *words],
        cwd=REPOSITORY,
        env=os.environ | {"GEOVQ_ROOT": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 400  # where much else runs
        while not list(tmp_path.glob("artifacts/vae/*.partial/checkpoint.safetensors")):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(sent)
        assert process.wait(150) != 0
    finally:
        process.kill()
    assert not list(tmp_path.glob("artifacts/vae/*/manifest.json"))
    if sent != signal.SIGKILL:
        assert runs(tmp_path)[-1][1] == "KILLED"
        assert process.stderr is not None
        assert "interrupted; the same command goes on from here" in process.stderr.read()
    from safetensors import safe_open

    [checkpoint] = tmp_path.glob("artifacts/vae/*.partial/checkpoint.safetensors")
    with safe_open(checkpoint, framework="pt") as file:
        reached = json.loads(file.metadata()["state"])["step"]
    assert 0 < reached < STEPS
    train(OmegaConf.create(compose(*words, f"paths.root={tmp_path}")))
    assert runs(tmp_path)[-1][1] == "FINISHED"
