"""The callback inside real Hydra multiruns, in processes of their own."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from geovq.tracking.multirun import PARENT_VARIABLE, ParentRun, multirun_name, parent_run_id
from geovq.tracking.search import last_sweep, what_ran
from geovq.tracking.store import open_client

CONFIG = """
defaults:
  - _self_
  - tracking: mlflow
job: 0
launcher: here
behaviour: fine
paths:
  root: {root}
hydra:
  callbacks:
    parent_run:
      _target_: geovq.tracking.multirun.ParentRun
  sweep:
    dir: {root}/sweep
  job:
    chdir: false
  hydra_logging:
    root: {{level: WARNING}}
"""

MAIN = """
import sys, time
from pathlib import Path
import hydra
from geovq.tracking import start_run
from geovq.tracking.multirun import finished_job, parent_run_id

@hydra.main(version_base="1.3", config_path=None, config_name=None)
def main(config):
    if config.behaviour == "early" and config.job == 1:
        raise ValueError("never started")
    root, name, tags = Path(config.paths.root), f"job {config.job}", {"geovq.kind": "train"}
    tags["geovq.overrides"] = f"job={config.job}"
    if finished_job(config.tracking, root, tags):
        return
    with start_run(config.tracking, root, name, tags, parent_run_id()) as run:
        run.log_metric("psnr", float(config.job), 0)
        if config.behaviour == "fail" and config.job == 1:
            raise ValueError("one of them\\nfails")
        there = (root / "again").exists()
        if config.behaviour == "fail once" and config.job == 1 and not there:
            raise ValueError("this time")
        if config.behaviour == "wait" or (config.behaviour == "wait once" and config.job == 1 and not there):
            print("waiting", flush=True)
            time.sleep(60)
main()
"""


@pytest.fixture
def start_multirun(start_python, tmp_path, root):
    """Start a multirun with its own experiment in the shared database."""

    def start(*overrides: str, experiments: Path = root):
        folder = tmp_path / "conf"
        (folder / "tracking").mkdir(parents=True, exist_ok=True)
        for name in ("mlflow", "none"):
            source = Path(__file__).resolve().parents[2] / "configs" / "tracking" / f"{name}.yaml"
            (folder / "tracking" / f"{name}.yaml").write_text(source.read_text())
        (folder / "train.yaml").write_text(CONFIG.format(root=experiments))
        return start_python(
            MAIN,
            "-m",
            "--config-dir",
            folder,
            "--config-name",
            "train",
            *overrides,
            cwd=tmp_path,
            HYDRA_FULL_ERROR="1",
        )

    return start


def runs_of(client, experiment):
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    parents = [run for run in found if run.data.tags["geovq.kind"] == "multirun"]
    assert len(parents) == 1
    children = sorted((run for run in found if run not in parents), key=lambda run: run.info.run_name)
    assert all(run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for run in children)
    return parents[0], children


@pytest.mark.slow  # as those below, which go wrong once
def test_jobs_become_children_of_one_parent(start_multirun, client, settings):
    process = start_multirun("job=0,1,2", f"tracking.experiment={settings.experiment}")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "INFO" not in output + errors
    assert "View run" not in output + errors
    parent, children = runs_of(client, settings.experiment)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == f"multirun job=0,1,2 tracking.experiment={settings.experiment}"
    assert [run.info.run_name for run in children] == ["job 0", "job 1", "job 2"]
    assert all(run.info.status == "FINISHED" for run in children)


@pytest.mark.parametrize("behaviour", ["fail", pytest.param("early", marks=pytest.mark.slow)])
def test_failed_job_makes_the_parent_failed(start_multirun, client, settings, behaviour):
    process = start_multirun("job=0,1,2", f"behaviour={behaviour}", f"tracking.experiment={settings.experiment}")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    parent, children = runs_of(client, settings.experiment)
    assert parent.info.status == "FAILED"
    statuses = {run.info.run_name: run.info.status for run in children}
    assert statuses == {"job 0": "FINISHED", "job 2": "FINISHED"} | ({"job 1": "FAILED"} if behaviour == "fail" else {})
    assert parent.data.tags["geovq.failed_job.1"] == ("one of them" if behaviour == "fail" else "never started")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_killed_multirun_ends_parent_and_child_killed(start_multirun, client, settings, number):
    process = start_multirun("job=0,1", "behaviour=wait", f"tracking.experiment={settings.experiment}")
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    parent, children = runs_of(client, settings.experiment)
    assert [run.info.status for run in (parent, *children)] == ["KILLED", "KILLED"]


@pytest.mark.parametrize("behaviour", ["wait once", pytest.param("fail once", marks=pytest.mark.slow)])
def test_the_same_command_goes_on_with_a_killed_or_failed_multirun(start_multirun, client, root, settings, behaviour):
    again = root / "again"
    again.unlink(missing_ok=True)
    words = ("job=0,1", f"behaviour={behaviour}", f"tracking.experiment={settings.experiment}")
    process = start_multirun(*words)
    if behaviour == "wait once":
        assert process.stdout.readline() == "waiting\n"
        process.kill()  # SIGKILL: nothing is closed
    process.communicate(timeout=120)
    again.touch()
    process = start_multirun("launcher=elsewhere", *words)  # where it runs is not what it runs
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "INFO" not in output + errors
    assert "View run" not in output + errors
    ended = "KILLED" if behaviour == "wait once" else "FAILED"
    assert f"which was {ended}: 1 job finished before" in errors
    parent, children = runs_of(client, settings.experiment)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name.startswith(f"multirun job=0,1 behaviour={behaviour} tracking.experiment=")
    assert not any(tag.startswith("geovq.failed_job") for tag in parent.data.tags)
    recorded = sorted((run.info.run_name, run.info.status) for run in children)
    assert recorded == sorted([("job 0", "FINISHED"), ("job 1", ended), ("job 1", "FINISHED")])
    _, listed = last_sweep(settings, root)
    assert [(run.name, run.status) for run in listed] == [("job 0", "FINISHED"), ("job 1", "FINISHED")]


def test_a_finished_multirun_is_not_taken_up_again(root, settings, client, tmp_path):
    for folder, expected in ((root, 1), (root, 2), (tmp_path, 3)):
        config = OmegaConf.create({"tracking": {**vars(settings), "uri": f"sqlite:///{root}/mlflow.db"}})
        config.paths = {"root": str(folder)}
        callback = ParentRun()
        callback.on_multirun_start(config)
        if expected == 2:  # not its own root's
            callback._end("KILLED")
        callback.on_multirun_end(config)
        found = client.search_runs([client.get_experiment_by_name(settings.experiment).experiment_id])
        assert len(found) == expected


@pytest.mark.slow
def test_eight_parallel_jobs_on_a_fresh_database(start_multirun, tmp_path, settings):
    fresh = tmp_path / "fresh"
    process = start_multirun(
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=8",
        "job=0,1,2,3,4,5,6,7",
        f"tracking.experiment={settings.experiment}",
        experiments=fresh,
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    parent, children = runs_of(open_client(f"sqlite:///{fresh}/mlflow.db", fresh), settings.experiment)
    assert parent.info.status == "FINISHED"
    assert [(run.info.status, run.data.metrics) for run in children] == [
        ("FINISHED", {"psnr": float(job)}) for job in range(8)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["fail", "wait"])
def test_parallel_workers_that_fail_or_die_are_closed(start_multirun, client, settings, behaviour):
    process = start_multirun(
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "job=0,1",
        f"behaviour={behaviour}",
        f"tracking.experiment={settings.experiment}",
    )
    if behaviour == "wait":
        assert [process.stdout.readline() for _ in range(2)] == ["waiting\n"] * 2
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    parent, children = runs_of(client, settings.experiment)
    expected = ["FAILED", "FINISHED", "FAILED"] if behaviour == "fail" else ["KILLED"] * 3
    assert [run.info.status for run in (parent, *children)] == expected
    assert ("geovq.failed_job.1" in parent.data.tags) == (behaviour == "fail")


def test_unusable_address_ends_the_multirun_with_one_line(start_multirun):
    process = start_multirun("job=0,1", "tracking.uri=./mlruns")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output == ""
    assert errors.startswith("error: tracking.uri='./mlruns' is a path")
    assert errors.count("\n") == 1


def test_disabled_tracking_starts_no_parent(monkeypatch, tmp_path):
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)
    config = OmegaConf.create({"tracking": {"enabled": False}, "paths": {"root": str(tmp_path)}})
    callback = ParentRun()
    callback.on_multirun_start(config)
    callback.on_job_start(config, task_function=print)
    callback.on_job_end(config, job_return=SimpleNamespace(status="failed"))
    callback.on_multirun_end(config)
    assert parent_run_id() is None
    assert list(tmp_path.iterdir()) == []


def test_environment_is_set_for_the_jobs_and_removed_at_the_end(root, settings, monkeypatch, client):
    monkeypatch.setenv(PARENT_VARIABLE, "left over")
    config = OmegaConf.create({"tracking": vars(settings), "paths": {"root": str(root)}})
    callback = ParentRun()
    callback.on_multirun_start(config)
    assert parent_run_id() == callback.run_id != "left over"
    in_worker = pickle.loads(pickle.dumps(callback))
    os.environ.pop(PARENT_VARIABLE)
    in_worker.on_job_start(config, task_function=print)
    assert parent_run_id() == callback.run_id
    run_id = callback.run_id
    callback.on_multirun_end(config)
    assert parent_run_id() is None
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_job_begun_once_more_after_its_worker_died_counts_as_done(root, settings, client):
    callback = ParentRun()
    callback.on_multirun_start(OmegaConf.create({"tracking": vars(settings), "paths": {"root": str(root)}}))
    parent, experiment = callback.run_id, client.get_run(callback.run_id).info.experiment_id
    died, again, alone = (
        client.create_run(experiment, tags={"mlflow.parentRunId": parent, "geovq.overrides": words}).info.run_id
        for words in ("seed=0", "seed=0", "seed=1")
    )
    client.set_terminated(again, "FINISHED")
    earlier = callback.earlier
    callback.earlier = frozenset({alone})
    callback.on_multirun_end(OmegaConf.create())
    assert [client.get_run(run).info.status for run in (parent, died, again)] == ["FINISHED", "KILLED", "FINISHED"]
    callback.run_id, callback.earlier = parent, earlier
    callback.on_multirun_end(OmegaConf.create())
    assert client.get_run(parent).info.status == "FAILED"


def test_the_launcher_is_not_what_ran():
    for words in ("launcher=ray seed=0", "seed=0 launcher=ray", "seed=0"):
        assert what_ran({"geovq.overrides": words}) == "seed=0"
    assert what_ran({"geovq.overrides": "hydra.launcher=ray"}) == "hydra.launcher=ray"


def test_import_is_cheap(start_python):
    heavy = {"mlflow", "torch", "sqlalchemy", "numpy", "matplotlib", "filelock"}
    code = f"import sys, geovq.tracking.multirun; print(sorted({heavy} & set(sys.modules)))"
    assert start_python(code).communicate(timeout=60) == ("[]\n", "")


def test_long_overrides_are_cut_in_the_name():
    assert multirun_name([]) == "multirun no overrides"
    assert multirun_name(["x" * 300]) == "multirun " + "x" * 117 + "..."
