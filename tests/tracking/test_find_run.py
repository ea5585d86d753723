from __future__ import annotations

import time

import pytest

from geovq.errors import TrackingError
from geovq.tracking import find_run, start_run

TRAIN = {"geovq.kind": "train", "data": "digits"}


def record(settings, root, name, tags, **metrics) -> str:
    with start_run(settings, root, name, tags) as run:
        run.log_params({"quantizer": {"K": 128}})
        run.log_metrics(metrics, 5)
        run.log_dict({"data": {"name": "digits"}, "list": [1, 2]}, "config.json")
        run.log_dict({"keys": {"vae": "0123abc"}}, "artifacts.json")
    return run.run_id


def test_latest_is_the_last_finished_training_run(root, settings):
    early = start_run(settings, root, "started first, ended last", TRAIN)
    record(settings, root, "first", TRAIN)
    time.sleep(0.005)
    early.end("FINISHED")
    record(settings, root, "parent", {"geovq.kind": "multirun"})
    record(settings, root, "sampling", {"geovq.kind": "sample"})
    with pytest.raises(ValueError, match="boom"), start_run(settings, root, "crashed", TRAIN):
        raise ValueError("boom")
    running = start_run(settings, root, "running", TRAIN)
    assert find_run(settings, root, "latest").run_id == early.run_id
    running.end("FINISHED")


def test_record_holds_everything(root, settings):
    run_id = record(settings, root, "whole", TRAIN, psnr=21.5)
    found = find_run(settings, root, "latest")
    assert (found.run_id, found.name, found.status) == (run_id, "whole", "FINISHED")
    assert found.params == {"quantizer.K": "128"}
    assert found.metrics == {"psnr": 21.5}
    assert found.tags["data"] == "digits"
    assert found.uri == f"sqlite:///{root}/mlflow.db"
    assert found.load_dict("config.json") == {"data": {"name": "digits"}, "list": [1, 2]}
    assert found.load_dict("artifacts.json") == {"keys": {"vae": "0123abc"}}
    with pytest.raises(TrackingError, match=rf"cannot read 'gone.json' of run {run_id}"):
        found.load_dict("gone.json")


def test_id_beginning_of_id_and_name_find_the_same_run(root, settings):
    run_id = record(settings, root, "it's here", TRAIN)
    other = record(settings, root, "other", TRAIN)
    length = next(n for n in range(3, 32) if run_id[:n] != other[:n])
    for which in (run_id, run_id[:length], run_id[:20], "it's here"):
        assert find_run(settings, root, which).run_id == run_id


def test_several_runs_of_one_name_are_listed(root, settings):
    ids = [record(settings, root, "twin", TRAIN) for _ in range(2)]
    with pytest.raises(TrackingError, match="'twin' means 2 runs") as caught:
        find_run(settings, root, "twin")
    assert all(run_id[:12] in str(caught.value) for run_id in ids)


@pytest.mark.parametrize("which", ["0" * 32, "abc", "nobody", "both ' and \"", "%", "a' OR 'a'='a"])
def test_unknown_run_names_the_address_and_the_way_to_list(root, settings, which):
    record(settings, root, "someone", TRAIN)
    if which == "abc":
        which = "fffffffff"
    with pytest.raises(TrackingError, match="no run with id or name") as caught:
        find_run(settings, root, which)
    message = str(caught.value)
    assert f"sqlite:///{root}/mlflow.db" in message
    assert "mlflow_ui.sh" in message
    assert "\n" not in message


def test_no_database_is_its_own_error_and_creates_none(tmp_path, settings):
    with pytest.raises(TrackingError, match=f"no run is recorded yet: {tmp_path}/mlflow.db does not exist"):
        find_run(settings, tmp_path, "latest")
    assert list(tmp_path.iterdir()) == []


def test_no_experiment_and_no_finished_run_are_told_apart(root, settings):
    start_run(settings, root, "shared database exists", {}).end("FINISHED")
    with pytest.raises(TrackingError, match="no finished training run in experiment"):
        find_run(settings, root, "latest")
    settings.experiment = "never used"
    with pytest.raises(TrackingError, match="no experiment 'never used' at sqlite"):
        find_run(settings, root, "latest")


def test_latest_is_fast_among_many_runs(root, settings, client):
    run_id = record(settings, root, "first", TRAIN)
    experiment = client.get_run(run_id).info.experiment_id
    for number in range(60):
        client.create_run(experiment, run_name=f"unfinished {number}", tags=TRAIN)
    find_run(settings, root, "latest")
    began = time.perf_counter()
    assert find_run(settings, root, "latest").run_id == run_id
    assert time.perf_counter() - began < 1.0
