"""Several processes on one sqlite database without a parent that prepares it."""

from __future__ import annotations

import pytest

from geovq.tracking.store import open_client

WORK = """
import sys
from pathlib import Path
from types import SimpleNamespace
from geovq.tracking import start_run
settings = SimpleNamespace(enabled=True, uri=None, experiment="shared", run_name=None, log_every=50, wait_seconds=60)
print("ready", flush=True)
sys.stdin.readline()
with start_run(settings, Path(sys.argv[1]), sys.argv[2], {"geovq.kind": "train"}) as run:
    run.log_params({f"key{i}": i for i in range(120)})
    for step in range(200):
        run.log_metrics({"loss": step, "psnr": -step}, step)
        if step % 10 == 0:
            run.flush()
    run.set_tags({"done": "yes"})
"""


@pytest.mark.slow
def test_eight_processes_create_one_database_and_lose_nothing(tmp_path, start_python):
    root = tmp_path / "experiments"
    processes = [start_python(WORK, root, f"run {number}") for number in range(8)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=200)
        assert (process.returncode, output, errors[-2000:]) == (0, "", "")
    client = open_client(f"sqlite:///{root}/mlflow.db", root)
    assert [experiment.name for experiment in client.search_experiments()] == ["shared", "Default"]
    runs = client.search_runs([client.get_experiment_by_name("shared").experiment_id])
    assert sorted(run.info.run_name for run in runs) == [f"run {number}" for number in range(8)]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.tags["done"] == "yes"
        assert len(run.data.params) == 120
        history = client.get_metric_history(run.info.run_id, "loss")
        assert sorted((point.step, point.value) for point in history) == [(s, float(s)) for s in range(200)]
