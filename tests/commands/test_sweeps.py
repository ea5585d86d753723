"""Sweeps: parallel jobs on a fresh database, each stage built once; killed ones go on; failing jobs are told."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from geovq.commands.launchers import missing_extra
from tiny import REPOSITORY, TINY, command, runs

ONE_BY_ONE = {
    "default": (),
    "parallel": ("hydra.launcher.n_jobs=1",),
    "ray": ("hydra.launcher.ray.init.num_cpus=1",),
    "submitit_local": (),
}


def launched(launcher: str) -> tuple[str, ...]:
    """Words for a launcher whose jobs begin in order; a test is skipped without its extra."""
    if fault := missing_extra(launcher):
        pytest.skip(fault)
    return (f"launcher={launcher}", *ONE_BY_ONE[launcher])


@pytest.mark.slow
def test_eight_parallel_jobs_on_a_fresh_database_share_what_they_can(tmp_path: Path) -> None:
    result = command(
        tmp_path,
        "train",
        "-m",
        *TINY,
        "quantizer=euclidean,geodesic",
        "quantizer.K=8,12,16,20",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=8",
    )
    assert result.returncode == 0, result.stderr
    recorded = runs(tmp_path)
    assert len(recorded) == 9
    assert {status for _, status in recorded} == {"FINISHED"}
    for stage, count in {"vae": 1, "graph": 1, "classifier": 1, "codebook": 8, "report": 8}.items():
        assert len(list((tmp_path / "artifacts" / stage).glob("*/manifest.json"))) == count, stage
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        names = connection.execute(
            "select run_uuid, group_concat(key, ' ') from (select run_uuid, key from latest_metrics order by key) "
            "group by run_uuid"
        ).fetchall()
    # A method without a graph has no path lengths; everything else has the same names in every run.
    of_graphs = {"metric_tensors/seconds", "graph/seconds"}
    shared = {
        frozenset(key for key in keys.split() if key not in of_graphs and not key.startswith("distortion_geodesic"))
        for _, keys in names
    }
    assert len(shared) == 1, "runs differ in the names of their metrics"
    assert sum("distortion_geodesic_pixel2 " in keys for _, keys in names) == 4


@pytest.mark.slow
@pytest.mark.parametrize("launcher", list(ONE_BY_ONE))
def test_a_sweep_killed_in_its_second_job_goes_on(tmp_path: Path, launcher: str) -> None:
    words = [*launched(launcher), *TINY, "vae.steps=30,1200", "trainer.checkpoint_seconds=0.5", "stages=[vae]"]
    sweep = subprocess.Popen(
        [sys.executable, "src/train.py", "-m", *words],
        cwd=REPOSITORY,
        env=os.environ | {"GEOVQ_ROOT": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 400
    while not (
        len(list(tmp_path.glob("artifacts/vae/*.partial/checkpoint.safetensors"))) == 1
        and [status for name, status in runs(tmp_path)[1:]].count("FINISHED") == 1
    ):
        assert sweep.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait(10)
    result = command(tmp_path, "train", "-m", *words)
    assert result.returncode == 0, result.stderr
    parent, *jobs = runs(tmp_path)
    assert parent[1] == "FINISHED"
    assert sorted(status for _, status in jobs) == ["FINISHED", "FINISHED", "KILLED"]
    assert "which was KILLED: 1 job finished before" in result.stderr
    assert len(list(tmp_path.glob("artifacts/vae/*/manifest.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", list(ONE_BY_ONE))
def test_a_job_that_fails_leaves_the_others_alone(tmp_path: Path, launcher: str) -> None:
    words = [*launched(launcher), *TINY, "quantizer=euclidean", "quantizer.K=100000,16", "stages=[vae]"]
    result = command(tmp_path, "train", "-m", *words)
    assert result.returncode == 1
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ") and "(job 0: " in line]
    assert "quantizer.K=100000" in line
    ended = "error: 1 job of the sweep failed; the same command goes on with what is not finished"
    assert result.stderr.splitlines()[-1] == ended
    assert [status for _, status in runs(tmp_path)] == ["FAILED", "FINISHED"]
