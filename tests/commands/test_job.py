"""What a process is made ready with before its job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from geovq.commands import job
from tiny import REPOSITORY, TINY


def test_caches_go_below_the_root_where_nothing_else_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "HF_HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr(job, "_PACKAGE", tmp_path / "not there")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    job.use_caches_below(tmp_path)
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "caches/numba")
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "caches/matplotlib")
    assert os.environ["USER"] == "uid54321"
    assert os.environ["HOME"] == "/nonexistent"
    monkeypatch.delenv("HOME")  # nor does the list of users know this id
    job.use_caches_below(tmp_path)
    assert os.environ["HOME"] == str(tmp_path / "caches")


def test_nothing_is_moved_where_home_and_source_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "somebody")
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    job.use_caches_below(tmp_path / "root")
    assert dict(os.environ) == before


def test_a_process_ends_with_its_sweep(tmp_path: Path) -> None:
    child = "import os, time; from geovq.commands.job import end_with; end_with(os.getppid()); "
    child += "print(os.getpid(), flush=True); time.sleep(60)"
    parent = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"
    started = subprocess.Popen(
        [sys.executable, "-c", parent, child], env=os.environ | {"PYTHONPATH": "src"}, cwd=REPOSITORY, stdout=-1
    )
    assert started.stdout is not None
    process = int(started.stdout.readline())
    started.kill()
    started.wait(10)
    wait_for_end([process])


def wait_for_end(processes: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(is_running(process) for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if stat.read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(int(stat.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.slow
def test_workers_of_a_killed_sweep_end(tmp_path: Path) -> None:
    words = ["-m", "launcher=parallel", "seed=0,1", "stages=[vae]", *TINY, "vae.steps=100000", "tracking=none"]
    sweep = subprocess.Popen(
        [sys.executable, "src/train.py", *words, "trainer.checkpoint_seconds=0.3"],
        cwd=REPOSITORY,
        env=os.environ | {"GEOVQ_ROOT": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while len(list(tmp_path.glob("artifacts/vae/*.partial/checkpoint.safetensors"))) < 2:
        assert sweep.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    workers = workers_of(sweep.pid)
    assert len(workers) >= 2
    sweep.send_signal(signal.SIGKILL)
    sweep.wait(10)
    wait_for_end(workers)


@pytest.mark.parametrize(
    ("mode", "status", "launcher", "at_once"),
    [
        ("MULTIRUN", "FAILED", "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", True),
        ("MULTIRUN", "FAILED", "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher", False),
        ("MULTIRUN", "COMPLETED", "any", None),
        ("RUN", "FAILED", "any", None),  # said at the end
    ],
)
def test_a_failing_job_of_a_sweep_is_told_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    status: str,
    launcher: str,
    at_once: bool | None,
) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import JobReturn, JobStatus
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from geovq.errors import DataError
    from geovq.launch import _of_sweep

    monkeypatch.setattr(job, "_sweep", None)
    config = OmegaConf.create(
        {"hydra": {"launcher": {"_target_": launcher}, "sweep": {"dir": str(tmp_path)}}, "paths": {"root": "x"}}
    )
    callback = job.PrepareJob()
    callback.on_multirun_start(config)
    failed = JobReturn(overrides=["seed=1"], status=JobStatus[status])
    failed.return_value = DataError("labels are missing; give them")
    for number in (10, 3):
        (tmp_path / str(number)).mkdir()
        hydra = SimpleNamespace(
            mode=RunMode[mode],
            job=SimpleNamespace(num=number),
            runtime=SimpleNamespace(output_dir=tmp_path / f"{number}"),
        )
        monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda hydra=hydra: hydra))
        callback.on_job_end(config, failed)
    lines = [f"error: labels are missing; give them (job {number}: seed=1)\n" for number in (3, 10)]
    assert capsys.readouterr().err == ("".join(reversed(lines)) if at_once else "")
    ended = _of_sweep(DataError("labels are missing; give them"))
    assert capsys.readouterr().err == ("".join(lines) if at_once is False else "")
    count = "2 jobs of the sweep failed; the same command goes on with what is not finished"
    assert ended == (None if at_once is None else count)
