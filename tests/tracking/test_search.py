from __future__ import annotations

import time

import pytest

from geovq.errors import ConfigError, TrackingError
from geovq.tracking import start_run
from geovq.tracking.search import find_runs, last_sweep, sweep_overrides

TRAIN = {"geovq.kind": "train"}


def recorded(settings, root, name, tags=TRAIN, parent=None, status="FINISHED", **params) -> str:
    time.sleep(0.002)  # starts are kept in milliseconds
    run = start_run(settings, root, name, tags, parent)
    run.log_params(params)
    if status != "RUNNING":
        run.end(status)
    return run.run_id


def test_a_filter_keeps_training_runs_of_any_status_in_the_order_of_their_starts(root, settings):
    first = recorded(settings, root, "first", K=16)
    second = recorded(settings, root, "second", K=16, status="FAILED")
    recorded(settings, root, "other", K=32)
    other_kind = recorded(settings, root, "kind", {"geovq.kind": "evaluate"}, K=16)
    assert [run.run_id for run in find_runs(settings, root, "params.K = '16'")] == [first, second]
    assert len(find_runs(settings, root, "")) == 3
    assert [run.run_id for run in find_runs(settings, root, "tags.`geovq.kind` = 'evaluate'")] == [other_kind]


def test_all_pages_of_a_search_are_read(root, settings, monkeypatch):
    ids = [recorded(settings, root, f"run {number}") for number in range(5)]
    from mlflow.tracking import MlflowClient

    whole = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *args, **words: whole(*args, **{"max_results": 2} | words))
    assert [run.run_id for run in find_runs(settings, root, "")] == ids


def test_a_filter_that_cannot_be_read_is_the_fault_of_the_filter(root, settings):
    recorded(settings, root, "run")
    with pytest.raises(ConfigError, match=r"query='K is 3': .*; write an MLflow filter") as caught:
        find_runs(settings, root, "K is 3")
    assert "\n" not in str(caught.value)


def test_the_last_sweep_is_the_one_started_last_that_finished_a_training(root, settings):
    recorded(settings, root, "alone")
    assert last_sweep(settings, root) is None
    sweeps, jobs = [], {}
    for number, statuses in enumerate((["FINISHED"], ["FAILED", "FINISHED"], ["FAILED"], [])):
        tags = {"geovq.kind": "multirun", "geovq.overrides": f"seed={number}"}
        sweeps.append(recorded(settings, root, f"sweep {number}", tags))
        jobs[number] = [recorded(settings, root, "job", parent=sweeps[-1], status=status) for status in statuses]
        recorded(settings, root, "stage", {"geovq.kind": "stages"}, parent=sweeps[-1])
    found = last_sweep(settings, root)
    assert found is not None
    parent, runs = found
    assert parent.run_id == sweeps[1]
    assert [run.run_id for run in runs] == jobs[1]
    assert sweep_overrides(runs) == ["seed=1"]


def test_without_a_database_nothing_is_made(tmp_path, settings):
    for search in (lambda: find_runs(settings, tmp_path, ""), lambda: last_sweep(settings, tmp_path)):
        with pytest.raises(TrackingError, match="no run is recorded yet"):
            search()
    assert list(tmp_path.iterdir()) == []
