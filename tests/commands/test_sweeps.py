"""Sweeps: parallel jobs on a fresh database, each stage built once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tiny import TINY, command, runs


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
    of_graphs = {"metrics/seconds", "graph/seconds"}
    shared = {
        frozenset(key for key in keys.split() if key not in of_graphs and not key.startswith("distortion_geodesic"))
        for _, keys in names
    }
    assert len(shared) == 1, "runs differ in the names of their metrics"
    assert sum("distortion_geodesic_pixel2 " in keys for _, keys in names) == 4
