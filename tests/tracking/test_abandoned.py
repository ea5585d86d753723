"""Runs of processes that were killed without a chance to close them."""

from __future__ import annotations

import os
import signal

from geovq.tracking import start_run
from geovq.tracking.process import HOST_TAG, PROCESS_TAG, boot, is_gone, process_tags, started

HOLD = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from geovq.tracking import start_run
settings = SimpleNamespace(
    enabled=True, uri=None, experiment=sys.argv[2], run_name=None, log_every=50, wait_seconds=60
)
parent = start_run(settings, Path(sys.argv[1]), "parent", {"geovq.kind": "multirun"})
job = start_run(settings, Path(sys.argv[1]), "job", {"geovq.kind": "train"}, parent.run_id)
print(parent.run_id, job.run_id, flush=True)
time.sleep(60)
"""


def test_the_next_run_closes_what_a_killed_process_left(root, settings, client, start_python):
    process = start_python(HOLD, root, settings.experiment)
    killed = process.stdout.readline().split()
    alive = start_run(settings, root, "alive", {})
    assert [client.get_run(run_id).info.status for run_id in killed] == ["RUNNING"] * 2
    process.send_signal(signal.SIGKILL)
    # Not waited for: the dead process still has an entry of its own, as one killed in a container may.
    while not is_gone(client.get_run(killed[0]).data.tags[PROCESS_TAG]):
        pass
    elsewhere = start_run(settings, root, "elsewhere", {})
    client.set_tag(elsewhere.run_id, HOST_TAG, "another-12345678")
    client.set_tag(elsewhere.run_id, PROCESS_TAG, client.get_run(killed[0]).data.tags[PROCESS_TAG])
    old = start_run(settings, root, "recorded before there were such tags", {})
    client.delete_tag(old.run_id, HOST_TAG)
    client.delete_tag(old.run_id, PROCESS_TAG)
    with start_run(settings, root, "next", {}) as run:
        pass
    assert [client.get_run(run_id).info.status for run_id in killed] == ["KILLED"] * 2
    assert client.get_run(killed[1]).info.end_time is not None
    left = (alive, elsewhere, old)
    assert [client.get_run(each.run_id).info.status for each in left] == ["RUNNING"] * 3
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_process_is_known_by_its_start_and_the_hosts():
    tag = process_tags()[PROCESS_TAG]
    number, start, since = tag.split()
    assert (int(number), start, since) == (os.getpid(), started(os.getpid()), boot())
    assert not is_gone(tag)
    assert is_gone(f"{number} 1{start} {since}")  # the number was used again
    assert is_gone(f"{number} {start} another-boot")
    assert is_gone(f"{2**22 + 1} {start} {since}")
    assert not is_gone("")


def test_without_proc_the_process_is_asked_of_ps(monkeypatch):
    from pathlib import Path

    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: str(path) != "/proc/self/stat" and exists(path))
    assert started(os.getpid()) == started(os.getpid()) not in ("ended", "unknown")
    assert started(2**22 + 1) == "ended"
    monkeypatch.setenv("PATH", "")
    assert not is_gone(f"{os.getpid()} unknown {boot()}")
