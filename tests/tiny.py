"""The whole pipeline in seconds on one core, and the commands as a person types them."""

from __future__ import annotations

import io
import os
import runpy
import sqlite3
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

REPOSITORY = Path(__file__).parents[1]

# Every network learns a little, every stage runs: seconds on one core.
TINY = (
    "data.limit=200",
    "data.steps.finetune=30",
    "vae.steps=30",
    "vae.width=8",
    "vae.max_width=16",
    "transformer.steps=12",
    "transformer.width=16",
    "transformer.layers=1",
    "quantizer.K=16",
    "geo.n_probes=4",
    "geo.k=8",
    "evaluation.n_samples=20",
    "evaluation.classifier.steps=10",
    "trainer.threads=1",
    "trainer.precision=32-true",
    "trainer.device=cpu",
)


def command(root: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"src/{script}.py", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"GEOVQ_ROOT": str(root), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def command_here(root: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As ``command``, in this process, which has imported already what a process of its own takes seconds for."""
    told, said = io.StringIO(), io.StringIO()
    words = [f"src/{script}.py", *arguments]
    status: object = 0
    with (
        mock.patch.dict(os.environ, {"GEOVQ_ROOT": str(root)}),
        mock.patch.object(sys, "argv", list(words)),
        redirect_stdout(told),
        redirect_stderr(said),
    ):
        try:
            runpy.run_path(str(REPOSITORY / words[0]), run_name="__main__")
        except SystemExit as end:  # what it is given instead of a number is printed, as Python does
            status = end.code or 0
    if not isinstance(status, int):
        said.write(f"{status}\n")
        status = 1
    return subprocess.CompletedProcess(words, status, told.getvalue(), said.getvalue())


def runs(root: Path) -> list[tuple[str, str]]:
    """Name and status of every recorded run, straight from the database."""
    with sqlite3.connect(root / "mlflow.db") as connection:
        return connection.execute("select name, status from runs order by start_time").fetchall()
