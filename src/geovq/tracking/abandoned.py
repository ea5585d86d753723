"""Runs whose process is gone, closed as KILLED by the next run of the experiment on the same host.

Nobody is left to close a run after SIGKILL, an empty battery or the out-of-memory killer. So every run keeps its
process as tags, and whoever starts the next one looks whether it still lives.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from geovq.errors import TrackingError
from geovq.tracking.store import writing

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

HOST_TAG = "geovq.host"
PROCESS_TAG = "geovq.process"


def process_tags() -> dict[str, str]:
    """Tags by which a later run can tell whether this process still lives."""
    return {HOST_TAG: host(), PROCESS_TAG: f"{os.getpid()} {started(os.getpid())} {boot()}"}


def close_abandoned(client: MlflowClient, uri: str, experiment_id: str, wait: float) -> None:
    """End as KILLED what this host's processes that are gone have left running in an experiment."""
    query = f"attributes.status = 'RUNNING' and tags.`{HOST_TAG}` = '{host()}'"
    # A server may forbid this to somebody who may record runs; a new run is not to fail for it.
    with suppress(TrackingError), writing(uri, "close abandoned runs", wait):
        for run in client.search_runs([experiment_id], query):
            if is_gone(run.data.tags.get(PROCESS_TAG, "")):
                client.set_terminated(run.info.run_id, "KILLED")


def is_gone(process: str) -> bool:
    """Whether a process of this host, as `process_tags` describes it, has ended; False when that is not known."""
    found = re.fullmatch(r"(\d+) (\S+) (\S+)", process)
    if found is None:
        return False
    return found[3] != boot() or started(int(found[1])) != found[2]


def host() -> str:
    """This host's name, and a hash of what else makes process numbers comparable: machine, container, user."""
    namespace = Path("/proc/self/ns/pid")
    facts = [_content("/etc/machine-id"), os.readlink(namespace) if namespace.is_symlink() else "", str(os.getuid())]
    name = re.sub(r"[^\w.-]", "_", platform.node())
    return f"{name}-{hashlib.sha256(' '.join(facts).encode()).hexdigest()[:8]}"


def boot() -> str:
    """What changes when the host starts again."""
    return _content("/proc/sys/kernel/random/boot_id") or "-"


def started(process: int) -> str:
    """When a process started, since process numbers are used again; ``ended`` where it no longer lives."""
    if Path("/proc/self/stat").exists():
        # The name in brackets may hold anything; the state is the first field behind it, the start the twentieth.
        fields = _content(f"/proc/{process}/stat").rpartition(")")[2].split()
        return fields[19] if fields and fields[0] not in "ZX" else "ended"
    try:
        listed = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(process)], capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return "_".join(listed.stdout.split()) or "ended"


def _content(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
