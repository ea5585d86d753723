from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from geovq.tracking import start_run

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "mlflow_ui.sh"


def test_without_an_environment_it_says_how_to_make_one(tmp_path):
    (tmp_path / "scripts").mkdir()
    copy = shutil.copy(SCRIPT, tmp_path / "scripts")
    result = subprocess.run([copy], capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert "run ./scripts/setup_env.sh first" in result.stderr


needs_environment = pytest.mark.skipif(
    not (REPOSITORY / ".venv" / "bin" / "mlflow").exists(), reason="the script runs MLflow from .venv"
)


@needs_environment
def test_without_a_readable_database_it_says_so(tmp_path):
    environment = {**os.environ, "GEOVQ_ROOT": "nothing here"}
    result = subprocess.run([SCRIPT], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert f"{tmp_path}/nothing here/mlflow.db does not exist" in result.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    environment["GEOVQ_ROOT"] = str(tmp_path)
    result = subprocess.run([SCRIPT], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert f"{tmp_path}/mlflow.db cannot be read" in result.stderr
    assert "Traceback" not in result.stderr


@needs_environment
@pytest.mark.slow
def test_server_shows_the_runs_and_their_figures(prepared, settings, tmp_path_factory, tmp_path):
    root = tmp_path_factory.mktemp("a%20b?c #d")
    shutil.copy(prepared, root / "mlflow.db")
    with start_run(settings, root, "shown", {"geovq.kind": "train"}) as run:
        run.log_metric("psnr", 20.5, 0)
        (tmp_path / "picture.txt").write_text("a picture")
        run.log_file(tmp_path / "picture.txt", "figures")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://localhost:{port}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} | {"GEOVQ_ROOT": str(root)}
    log = tmp_path / "log"
    writer = sqlite3.connect(root / "mlflow.db", isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    threading.Timer(8, writer.rollback).start()  # longer than sqlite waits by itself
    with log.open("w") as output:
        server = subprocess.Popen(
            [SCRIPT, "--port", str(port)], env=environment, cwd=tmp_path, stdout=output, stderr=output
        )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.25)
        with urllib.request.urlopen(f"{address}/api/2.0/mlflow/runs/get?run_id={run.run_id}", timeout=30) as answer:
            data = json.load(answer)["run"]["data"]
        assert [(metric["key"], metric["value"]) for metric in data["metrics"]] == [("psnr", 20.5)]
        artifact = f"{address}/get-artifact?path=figures/picture.txt&run_uuid={run.run_id}"
        with urllib.request.urlopen(artifact, timeout=30) as answer:
            assert answer.read() == b"a picture"
        assert f"http://127.0.0.1:{port}/#/experiments/" in log.read_text()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)
    assert sorted(path.name for path in root.iterdir()) == ["mlartifacts", "mlflow.db", "mlflow.db.lock"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "picture.txt"]
