"""Locks between processes, on one machine or on several that share a folder.

A lock is ``flock`` on a file where the file system carries it to all who see the folder: local disks, NFS, Lustre
mounted with ``flock``. Where it does not, ``flock`` may succeed for two machines at once. There a *lease* takes its
place: a marker beside the file, made by exclusive creation, which its holder touches while it lives. The marker of a
dead process of the same machine is taken over at once, that of another machine after `LEASE_SECONDS` without a touch,
measured on the clock of the one who waits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from geovq.errors import ConfigError

if TYPE_CHECKING:
    from filelock import BaseFileLock

VARIABLE = "GEOVQ_LOCKS"
"""``flock`` or ``lease``, the same for all who share the folder; unset: by the file system."""
LEASE_SECONDS = 600.0
"""Longer than any library keeps Python's interpreter lock, under which the touching thread waits."""
TOUCH_SECONDS = 15.0
_MOUNTS = Path("/proc/self/mountinfo")


def lock_at(path: Path, timeout: float = -1) -> BaseFileLock:
    """The lock ``path`` (``*.lock``; a lease is ``*.lease``), not held yet; waits ``timeout`` seconds, -1 for ever.

    Raises ConfigError: ``GEOVQ_LOCKS`` is neither of its values.
    """
    from filelock import FileLock, SoftFileLease

    if kind_of(path.parent) == "flock":
        return FileLock(path, timeout=timeout)
    # A file that flock has left behind would look like a holder's marker: another name.
    path = path.with_suffix(".lease")
    return SoftFileLease(
        path, timeout=timeout, poll_interval=0.5, lease_duration=LEASE_SECONDS, heartbeat_interval=TOUCH_SECONDS
    )


def kind_of(folder: Path) -> Literal["flock", "lease"]:
    """How processes that share ``folder`` lock: as ``GEOVQ_LOCKS`` says, else by the mount it lies on."""
    asked = os.environ.get(VARIABLE)
    if asked == "flock":
        return "flock"
    if asked == "lease":
        return "lease"
    if asked:
        raise ConfigError(f"{VARIABLE}={asked}: take flock or lease, or unset it for a choice by the file system")
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "flock"  # no Linux
    return "flock" if carries_flock(folder.resolve(), mounts) else "lease"


def carries_flock(folder: Path, mounts: str) -> bool:
    """Whether flock on a file in ``folder`` holds for all machines, by a table as in ``/proc/self/mountinfo``.

    NFS: not with ``nolock`` or ``local_lock=flock`` or ``all``. Lustre: only with ``flock``. SSHFS and the FUSE file
    systems of object stores: not.
    """
    kind, options = _mount_of(folder, mounts)
    if kind in ("nfs", "nfs4"):
        return not options & {"nolock", "local_lock=flock", "local_lock=all"}
    if kind == "lustre":
        return "flock" in options
    return kind not in ("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.mount-s3", "fuse.rclone")


def _mount_of(folder: Path, mounts: str) -> tuple[str, set[str]]:
    """Kind and options of the file system that holds ``folder``."""
    found = ("", "", "")
    for line in mounts.splitlines():
        of_mount, _, of_system = line.partition(" - ")
        point = of_mount.split()[4].encode().decode("unicode_escape")  # spaces stand there as \040
        # Of two on one point the later one is seen.
        if len(point) >= len(found[0]) and folder.is_relative_to(point):
            kind, _, options = of_system.split(maxsplit=2)
            found = (point, kind, f"{of_mount.split()[5]},{options}")
    return found[1], set(found[2].split(","))
