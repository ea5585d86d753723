"""One MLflow database for all tests here (creating one takes a second), an experiment per test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("experiments")


@pytest.fixture
def settings(request) -> SimpleNamespace:
    experiment = re.sub(r"\W", "_", request.node.name)
    return SimpleNamespace(enabled=True, uri=None, experiment=experiment, run_name=None, log_every=50, wait_seconds=5.0)


@pytest.fixture
def client(root):
    """MLflow's own client on the shared database: the oracle that records are read back with."""
    from geovq.tracking.store import open_client

    return open_client(f"sqlite:///{root}/mlflow.db", root)


@pytest.fixture(scope="session")
def prepared(root) -> Path:
    """The shared database's file, to copy for a root of one's own (creating one takes a second)."""
    from geovq.tracking.store import open_client

    open_client(f"sqlite:///{root}/mlflow.db", root)
    return root / "mlflow.db"


@pytest.fixture
def start_python():
    """Start ``python -c code arguments`` with the package on its path; killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTEST_CURRENT_TEST", "GEOVQ_PARENT_RUN")}
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=cwd,
            env={**inherited, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
