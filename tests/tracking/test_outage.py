"""Stores that are locked, full, deleted or do not answer, at the beginning, in the middle and at the end of a run."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from geovq.errors import TrackingError
from geovq.tracking import find_run, start_run
from geovq.tracking import run as run_module
from geovq.tracking.faults import bounded_requests, cause_of
from geovq.tracking.store import open_client

TRAIN = {"geovq.kind": "train"}


@pytest.fixture
def own(tmp_path, prepared):
    """An experiments root whose database a test may damage."""
    shutil.copy(prepared, tmp_path / "mlflow.db")
    return tmp_path


def brief(settings, seconds=0.4):
    return SimpleNamespace(**{**vars(settings), "wait_seconds": seconds})


def job(settings, root, during, started=None):
    """A run with a metric, during which something happens."""
    with start_run(settings, root, "job", TRAIN) as run:
        if started is not None:
            started.append(run.run_id)
        run.log_metric("psnr", 20.0)
        during(run)


@contextmanager
def held(root, seconds=None):
    """Another program, which knows nothing of the lock file, writes for some seconds or until the end of the block."""
    connection = sqlite3.connect(root / "mlflow.db", isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(seconds, connection.rollback) if seconds else None
    if timer:
        timer.start()
    yield
    if timer:
        timer.join()
    connection.close()


def fill(run):
    """From now on no connection of the run may let the file grow. Returns what makes room again."""
    from sqlalchemy import event

    engine = run._client._tracking_client.store.engine

    def limit(connection, record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(engine, "connect", limit)
    return lambda: event.remove(engine, "connect", limit)


def many_points(run):
    run.log_metrics({f"curve{number}": float(number) for number in range(400)}, 1)


def status(root, run_id):
    connection = sqlite3.connect(root / "mlflow.db")
    try:
        return connection.execute("SELECT status FROM runs WHERE run_uuid = ?", [run_id]).fetchone()[0]
    finally:
        connection.close()


def test_a_locked_database_is_waited_for(own, settings):
    with held(own, 0.5), start_run(settings, own, "patient", TRAIN) as run:
        run.log_metric("psnr", 20.0)
    with held(own, 0.5):
        assert find_run(settings, own, "latest").run_id == run.run_id


def test_a_database_that_stays_locked_is_never_called_damaged(own, settings):
    with held(own), pytest.raises(TrackingError) as caught:
        start_run(brief(settings), own, "late", TRAIN)
    message = str(caught.value)
    assert f"another process keeps {own}/mlflow.db locked (fuser -v {own}/mlflow.db" in message
    assert "the same command again" in message
    assert "aside" not in message
    assert "\n" not in message


def test_a_lock_at_the_end_is_waited_for_and_the_run_is_whole(own, settings):
    run = start_run(settings, own, "end", TRAIN)
    with held(own, 0.5), run:
        run.log_metric("psnr", 20.0)
    assert status(own, run.run_id) == "FINISHED"
    assert find_run(settings, own, "latest").metrics == {"psnr": 20.0}


def test_a_full_disk_is_named_and_the_run_fails(own, settings):
    begun, started = time.monotonic(), []
    with pytest.raises(TrackingError) as caught:
        job(brief(settings, 0.8), own, lambda run: (fill(run), many_points(run)), started)
    message = str(caught.value)
    assert "cannot write metrics: database or disk is full" in message
    assert "free some space" in message
    assert f"run {started[0]} is not recorded whole (401 points of curves are missing)" in message
    assert message.endswith("give the same command again: it records what is finished")
    assert "SQL" not in message
    assert "\n" not in message
    assert time.monotonic() - begun < 5
    assert status(own, started[0]) == "FAILED"
    with pytest.raises(TrackingError, match="no finished training run"):
        find_run(settings, own, "latest")


def test_a_disk_that_is_full_for_a_while_loses_nothing(own, settings):
    with start_run(settings, own, "for a while", TRAIN) as run:
        threading.Timer(0.7, fill(run)).start()
        many_points(run)
    assert status(own, run.run_id) == "FINISHED"
    assert len(find_run(settings, own, "latest").metrics) == 400


def test_a_deleted_database_is_not_made_again_behind_the_back_of_a_run(own, settings):
    begun = time.monotonic()
    with pytest.raises(TrackingError, match=r"mlflow\.db is gone; .* is not recorded whole"):
        job(settings, own, lambda run: (own / "mlflow.db").unlink())
    assert not (own / "mlflow.db").exists()
    assert time.monotonic() - begun < 4  # nothing to wait for


def test_a_database_that_is_put_back_is_written_to(own, settings):
    with start_run(settings, own, "back", TRAIN) as run:
        run.log_metric("early", 1.0)
        run.flush()
        (own / "mlflow.db").rename(own / "elsewhere")
        shutil.copy(own / "elsewhere", own / "mlflow.db")
        run.log_metric("late", 2.0)
    assert find_run(settings, own, "latest").metrics == {"early": 1.0, "late": 2.0}


def test_a_database_replaced_by_another_is_told(own, prepared, settings):
    with pytest.raises(TrackingError, match=r"not found; run .* is not recorded whole"):
        job(settings, own, lambda run: shutil.copy(prepared, own / "mlflow.db"))
    with pytest.raises(TrackingError, match=r"cannot be read .* move it aside"):
        job(settings, own, lambda run: (own / "mlflow.db").write_bytes(b"no database " * 1000))


def test_points_over_a_full_buffer_cost_no_attempt_each(own, settings, monkeypatch):
    from mlflow.exceptions import MlflowException

    attempts = []

    def refuse(run_id, metrics):
        attempts.append(len(metrics))
        raise MlflowException("the server has gone")

    monkeypatch.setattr(run_module, "BUFFERED_METRICS", 10)
    with start_run(settings, own, "outage", TRAIN) as run:
        log_batch = run._client.log_batch
        monkeypatch.setattr(run._client, "log_batch", refuse)
        for step in range(200):
            run.log_metric("loss", float(step), step)
        assert attempts == [10]
        monkeypatch.setattr(run_module, "BUFFER_SECONDS", 0.0)
        run._next_write = 0.0
        run.log_metric("loss", 200.0, 200)
        assert attempts == [10, 201]
        first = run._back_off
        run._next_write = 0.0
        run.log_metric("loss", 201.0, 201)
        assert run._back_off == 2 * first > 0  # ever more rarely
        monkeypatch.setattr(run._client, "log_batch", log_batch)
    history = run._client.get_metric_history(run.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(202))


def test_a_job_that_was_told_to_end_does_not_wait_long(own, settings, monkeypatch, caplog):
    monkeypatch.setattr(run_module, "PATIENCE_SECONDS", 0.3)
    run = start_run(brief(settings, 60), own, "killed", TRAIN)
    run.log_metric("loss", 1.0)
    begun = time.monotonic()
    with held(own), pytest.raises(KeyboardInterrupt), run:
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 4
    assert "locked" in caplog.text


def test_ctrl_c_while_the_end_waits_leaves_no_finished_run(own, settings, monkeypatch):
    run = start_run(settings, own, "impatient", TRAIN)
    run.log_metric("loss", 1.0)

    def interrupted(run_id, metrics):
        raise KeyboardInterrupt

    monkeypatch.setattr(run._client, "log_batch", interrupted)
    with pytest.raises(KeyboardInterrupt), run:
        pass
    assert status(own, run.run_id) == "KILLED"


def test_requests_take_no_longer_than_the_wait_unless_the_person_says_so(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with bounded_requests(60):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


def test_a_server_that_hangs_is_left_after_the_wait(tmp_path, settings):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = brief(settings, 2)
        hanging.uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(TrackingError, match="the server does not answer"):
            start_run(hanging, tmp_path, "never", TRAIN)
    assert time.monotonic() - begun < 8


def test_all_lines_of_a_fault_but_its_statement_are_shown():
    text = (
        "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block if this flush is"
        " occurring prematurely)\n(sqlite3.OperationalError) database or disk is full\n"
        "[SQL: INSERT INTO metrics\n(key)]\n[parameters: ('a',)]\n(Background on this error at: https://sqlalche.me/e/20)"
    )
    assert cause_of(ValueError(text)) == "database or disk is full"
    assert cause_of(ValueError("connection refused\n\tIs the server running?")) == (
        "connection refused; Is the server running?"
    )
    assert cause_of(ValueError()) == "ValueError"


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_server_killed_in_the_middle(tmp_path, settings, monkeypatch, comes_back):
    """The job goes on without it; at its end the run is completed, or told to be incomplete."""
    monkeypatch.setattr(run_module, "BUFFER_SECONDS", 0.2)
    monkeypatch.setattr(run_module, "BUFFERED_METRICS", 50)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    command += ["--artifacts-destination", str(tmp_path / "mlartifacts")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} | {
        "MLFLOW_DISABLE_TELEMETRY": "1"
    }
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def serve():
        server = subprocess.Popen(
            command, env=environment, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE
        )
        for _ in range(480):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return server
            time.sleep(0.25)
        raise AssertionError("the server did not start")

    def kill(server):
        os.killpg(server.pid, 9)
        server.communicate()

    remote = brief(settings, 90 if comes_back else 6)
    remote.uri = f"http://127.0.0.1:{port}"
    server = serve()

    def work(run):
        nonlocal server
        run.log_dict({"a": 1}, "config.json")
        kill(server)
        begun = time.monotonic()
        for step in range(2000):
            run.log_metric("loss", float(step), step)
            time.sleep(0.001)
        assert time.monotonic() - begun < 30
        if comes_back:
            server = serve()

    started = []
    try:
        if not comes_back:
            begun = time.monotonic()
            with pytest.raises(
                TrackingError, match=r"does not answer.* \(2001 points of curves are missing\), and give"
            ):
                job(remote, tmp_path, work, started)
            assert time.monotonic() - begun < 60
            server = serve()
            assert open_client(remote.uri, tmp_path).get_run(started[0]).info.status == "RUNNING"  # for now
            return
        job(remote, tmp_path, work, started)
        assert find_run(remote, tmp_path, "latest").metrics == {"loss": 1999.0, "psnr": 20.0}
        assert len(open_client(remote.uri, tmp_path).get_metric_history(started[0], "loss")) == 2000
    finally:
        if server.poll() is None:
            kill(server)
