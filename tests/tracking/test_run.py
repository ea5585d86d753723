from __future__ import annotations

import json
import math
import sqlite3
import sys
import time

import pytest

from geovq.errors import InputError, TrackingError
from geovq.tracking import NullRun, Run, start_run
from geovq.tracking import run as run_module
from geovq.tracking.process import status_of


def rows(root, query, *values):
    connection = sqlite3.connect(root / "mlflow.db")
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def points(root, run, name):
    """Curve ``name`` as stored, by step."""
    return rows(root, "SELECT step, value FROM metrics WHERE run_uuid=? AND key=? ORDER BY step", run.run_id, name)


def test_everything_logged_comes_back(root, settings, client, tmp_path):
    (tmp_path / "notes.txt").write_text("by hand")
    with start_run(settings, root, "my run", {"geovq.kind": "train", "K": 128}) as run:
        run.log_params({"quantizer": {"name": "geodesic", "K": 128}, "seed": 0})
        run.log_metrics({"psnr": 20.5, "ssim": 0.75}, 3)
        run.log_dict({"usage": [1, 2]}, "usage.json")
        run.log_file(tmp_path / "notes.txt", "notes")
        run.set_tags({"artifact.vae": "0123abc"})
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "my run"
    assert stored.data.params == {"quantizer.name": "geodesic", "quantizer.K": "128", "seed": "0"}
    assert stored.data.metrics == {"psnr": 20.5, "ssim": 0.75}
    assert stored.data.tags | {"geovq.kind": "train", "K": "128", "artifact.vae": "0123abc"} == stored.data.tags
    folder = root / "mlartifacts" / run.run_id / "artifacts"
    assert json.loads((folder / "usage.json").read_text()) == {"usage": [1, 2]}
    assert (folder / "notes" / "notes.txt").read_text() == "by hand"


def test_more_params_than_one_request_takes(root, settings, client):
    with start_run(settings, root, "many", {}) as run:
        run.log_params({"group": {f"key{i}": i for i in range(250)}, "long": "x" * 9000})
    params = client.get_run(run.run_id).data.params
    assert len(params) == 251
    assert params["group.key249"] == "249"
    assert params["long"].endswith("[cut, 9000 characters in all]")


def test_changing_a_param_is_one_line(root, settings):
    with start_run(settings, root, "twice", {}) as run:
        run.log_params({"K": 128})
        with pytest.raises(TrackingError, match="cannot write params") as caught:
            run.log_params({"K": 256})
    assert "\n" not in str(caught.value)


def test_metrics_are_written_in_batches_and_in_order(root, settings, monkeypatch):
    monkeypatch.setattr(run_module, "BUFFERED_METRICS", 40)
    monkeypatch.setattr(run_module, "MAX_METRICS_PER_REQUEST", 15)
    with start_run(settings, root, "batches", {}) as run:
        sizes = []
        log_batch = run._client.log_batch
        monkeypatch.setattr(
            run._client,
            "log_batch",
            lambda run_id, metrics: (sizes.append(len(metrics)), log_batch(run_id, metrics)),
        )
        for step in range(39):
            run.log_metric("loss", 1 / (step + 1), step)
        assert sizes == []
        assert points(root, run, "loss") == []
        run.log_metric("loss", 0.0, 39)
        assert sizes == [15, 15, 10]
        assert points(root, run, "loss") == [(s, 1 / (s + 1)) for s in range(39)] + [(39, 0.0)]
        run.log_metric("loss", -1.0, 40)
    assert sizes == [15, 15, 10, 1]
    assert points(root, run, "loss")[-1] == (40, -1.0)


def test_metrics_are_written_after_a_while_even_when_few(root, settings, monkeypatch):
    monkeypatch.setattr(run_module, "BUFFER_SECONDS", 0.05)
    with start_run(settings, root, "slow", {}) as run:
        run.log_metric("loss", 1.0, 0)
        time.sleep(0.06)
        run.log_metric("loss", 0.5, 1)
        assert points(root, run, "loss") == [(0, 1.0), (1, 0.5)]


def test_nonfinite_values_become_a_tag_not_a_number(root, settings, client):
    with start_run(settings, root, "nan", {}) as run:
        for step, value in enumerate([1.0, math.nan, math.inf, 2.0]):
            run.log_metric("vae/loss", value, step)
        run.log_metric("fid", -math.inf, 7)
    assert points(root, run, "vae/loss") == [(0, 1.0), (3, 2.0)]
    assert points(root, run, "fid") == []
    tags = client.get_run(run.run_id).data.tags
    assert tags["geovq.nonfinite.vae/loss"] == "nan at step 1"
    assert tags["geovq.nonfinite.fid"] == "-inf at step 7"


def test_zero_dimensional_tensors_are_numbers(root, settings):
    import numpy
    import torch

    with start_run(settings, root, "tensors", {}) as run:
        run.log_metrics({"torch": torch.tensor(1.5), "numpy": numpy.float32(2.5)}, 1)
    assert points(root, run, "torch") == [(1, 1.5)]
    assert points(root, run, "numpy") == [(1, 2.5)]


def test_illegal_names_are_refused_before_they_are_buffered(root, settings, client):
    with start_run(settings, root, "names", {}) as run:
        with pytest.raises(InputError, match="psnr@10"):
            run.log_metric("psnr@10", 1.0, 0)
        run.log_metric("psnr", 1.0, 0)
    assert client.get_run(run.run_id).data.metrics == {"psnr": 1.0}


def test_failing_job_ends_failed_with_its_metrics(root, settings, client):
    run = start_run(settings, root, "crash", {})
    run.log_metric("loss", 4.0, 9)
    with pytest.raises(ZeroDivisionError), run:
        raise ZeroDivisionError
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FAILED"
    assert stored.info.end_time >= stored.info.start_time
    assert points(root, run, "loss") == [(9, 4.0)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(None), "FINISHED"),
        (SystemExit("no"), "FAILED"),
        (SystemExit(1), "FAILED"),
        (ValueError(), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(130), "KILLED"),
    ],
)
def test_status_follows_the_way_the_job_ended(error, status):
    assert status_of(error) == status


def test_store_that_fails_for_a_while_loses_nothing(root, settings, monkeypatch, caplog):
    from mlflow.exceptions import MlflowException

    monkeypatch.setattr(run_module, "BUFFERED_METRICS", 2)
    with start_run(settings, root, "outage", {}) as run:
        log_batch = run._client.log_batch

        def refuse(run_id, metrics):
            raise MlflowException("database or disk is full\nand more")

        monkeypatch.setattr(run._client, "log_batch", refuse)
        for step in range(6):
            run.log_metric("loss", float(step), step)
        monkeypatch.setattr(run._client, "log_batch", log_batch)
    assert points(root, run, "loss") == [(step, float(step)) for step in range(6)]
    assert len(caplog.records) == 1
    assert "cannot write metrics: database or disk is full; and more" in caplog.text
    assert "free some space; metrics are kept in memory" in caplog.text


def test_failure_of_the_job_wins_over_a_failure_to_record_it(root, settings, monkeypatch, caplog):
    def refuse(*_):
        raise OSError("disk full")

    run = start_run(settings, root, "both", {})
    monkeypatch.setattr(run._client, "set_terminated", refuse)
    with pytest.raises(ZeroDivisionError), run:
        raise ZeroDivisionError
    assert "cannot end the run: disk full" in caplog.text


def test_configured_name_wins_and_the_experiment_has_the_saved_view(root, settings, client):
    settings.run_name = "by config"
    with start_run(settings, root, "derived", {}) as run:
        pass
    stored = client.get_run(run.run_id)
    assert stored.info.run_name == "by config"
    tags = client.get_experiment(stored.info.experiment_id).tags
    assert "metrics.`psnr`" in json.loads(tags["mlflow.sharedViewState.geovq"])["selectedColumns"]


def test_environment_of_mlflow_is_not_followed(root, settings, client, monkeypatch):
    with start_run(settings, root, "parent", {}) as parent:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", parent.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with start_run(settings, root, "child", {}, parent_id=parent.run_id) as child:
        pass
    assert child.run_id != parent.run_id
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


def test_disabled_tracking_does_nothing_and_imports_nothing(tmp_path, start_python):
    code = """
import sys
from pathlib import Path
from types import SimpleNamespace
from geovq.tracking import start_run
off = SimpleNamespace(enabled=False, uri="./mlruns", experiment="e", run_name=None, log_every=7)
with start_run(off, Path("here"), "n", {}) as run:
    run.log_params({"a": 1}); run.log_metric("not:legal", 1.0, 0); run.log_metrics({}, 0); run.flush()
    run.log_dict({}, "x"); run.log_file(Path("x"))
    run.set_tags({})
heavy = {"mlflow", "torch", "matplotlib", "sqlalchemy", "numpy", "pandas"} & set(sys.modules)
print(type(run).__name__, sorted(heavy))
"""
    output, errors = start_python(code, cwd=tmp_path).communicate(timeout=60)
    assert (output, errors) == ("NullRun []\n", "")
    assert list(tmp_path.iterdir()) == []


def test_null_run_has_the_whole_interface(root, settings):
    def public(thing):
        return {name for name in dir(thing) if not name.startswith("_")}

    with start_run(settings, root, "full", {}) as run:
        assert isinstance(run, Run)
        assert public(run) == public(NullRun())
    assert "mlflow" in sys.modules
