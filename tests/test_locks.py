"""Locks on one machine and on a folder that several share; another machine is a process with another host name."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock, SoftFileLease, Timeout

from geovq import locks
from geovq.errors import ConfigError
from geovq.locks import carries_flock, kind_of, lock_at
from tiny import REPOSITORY

HOLD = """
import socket, sys, time
from pathlib import Path
if len(sys.argv) > 4:
    socket.gethostname = lambda: sys.argv[4]
from geovq import locks
locks.LEASE_SECONDS, locks.TOUCH_SECONDS = float(sys.argv[2]), float(sys.argv[3])
with locks.lock_at(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(path: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock; arguments: seconds of a lease, seconds between touches, name of its host."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *map(str, arguments)],
        cwd=REPOSITORY / "src",
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(locks.VARIABLE, "lease")
    monkeypatch.setattr(locks, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(locks, "TOUCH_SECONDS", 0.3)


@pytest.mark.usefixtures("leases")
def test_a_lease_is_held_by_one_process_and_goes_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    lock.touch()  # of an earlier flock: nobody's
    with held(lock, 1.5, 0.3) as process:
        with pytest.raises(Timeout):
            lock_at(lock, 0.6).acquire()
        process.kill()  # SIGKILL: its marker stays
        process.wait()
        assert (tmp_path / "x.lease").exists()
        begun = time.monotonic()
        with lock_at(lock, 10):
            assert time.monotonic() - begun < 2  # a dead process of this machine is not waited for
    assert not (tmp_path / "x.lease").exists()


@pytest.mark.usefixtures("leases")
def test_a_lease_of_another_machine_ends_when_nobody_touches_it(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with held(lock, 1.5, 0.3, "elsewhere") as process:
        with pytest.raises(Timeout):
            lock_at(lock, 2).acquire()  # longer than a lease: it is touched
        process.kill()
        process.wait()
        begun = time.monotonic()
        with lock_at(lock, 20):
            assert 0.5 < time.monotonic() - begun < 15


def test_the_variable_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, kind in (("flock", FileLock), ("lease", SoftFileLease)):
        monkeypatch.setenv(locks.VARIABLE, value)
        assert type(lock_at(tmp_path / "x.lock")) is kind
    monkeypatch.setenv(locks.VARIABLE, "nfs")
    with pytest.raises(ConfigError, match="GEOVQ_LOCKS=nfs: take flock or lease"):
        lock_at(tmp_path / "x.lock")


def test_the_file_system_decides_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(locks.VARIABLE, raising=False)
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / {tmp_path} rw - nfs server:/x rw,vers=3,nolock\n")
    monkeypatch.setattr(locks, "_MOUNTS", table)
    assert kind_of(tmp_path / "not there yet") == "lease"
    monkeypatch.setattr(locks, "_MOUNTS", tmp_path / "none")
    assert kind_of(tmp_path) == "flock"


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("ext4", "rw", True),
        ("nfs4", "rw,vers=4.2,local_lock=none", True),
        ("nfs", "rw,vers=3,local_lock=none", True),
        ("nfs", "rw,vers=3,nolock", False),
        ("nfs4", "rw,local_lock=all", False),
        ("lustre", "rw,flock,lazystatfs", True),
        ("lustre", "rw,localflock", False),
        ("lustre", "rw", False),
        ("fuse.sshfs", "rw", False),
    ],
)
def test_which_mounts_carry_flock(kind: str, options: str, expected: bool) -> None:
    mounts = "\n".join(
        [
            "22 1 8:1 / / rw,relatime shared:1 - overlay overlay rw",
            f"30 22 0:40 / /shared\\040work rw,relatime shared:9 - {kind} server:/export {options}",
            "31 22 0:41 / /shared rw - nfs server:/other rw,nolock",
        ]
    )
    assert carries_flock(Path("/shared work/root"), mounts) is expected
    assert carries_flock(Path("/home"), mounts)
