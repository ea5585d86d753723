"""How a run's process ends: the signals that end it, and what it leaves when it gets no chance to close anything.

SIGTERM and SIGHUP raise ``SystemExit(128 + signal)`` here, so that open runs are closed. After SIGKILL or a power cut
nobody is left to do so: every run keeps its process as tags, and the next run of the experiment on the same host closes
those whose process is gone.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Any

ENDING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
KILLED_CODES = tuple(128 + number for number in (signal.SIGINT, *ENDING_SIGNALS))
HOST_TAG = "geovq.host"
PROCESS_TAG = "geovq.process"


class SignalWatch:
    """Between `install` and `restore` ending signals raise, and ``received`` holds the last one.

    Handlers somebody else has set, and ignored signals, are left alone; so is all outside the main thread.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Set the handlers where the default ones are in place."""
        if threading.current_thread() is not threading.main_thread():
            return
        defaults: dict[int, Any] = dict.fromkeys(ENDING_SIGNALS, signal.SIG_DFL)
        defaults[signal.SIGINT] = signal.default_int_handler
        for number, default in defaults.items():
            if signal.getsignal(number) == default:
                self._previous[number] = signal.signal(number, self._raise)

    def restore(self) -> None:
        """Put the earlier handlers back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def status_of(error: BaseException | None) -> str:
    """MLflow status of a run that ends with ``error``: FINISHED, FAILED or KILLED."""
    code = error.code if isinstance(error, SystemExit) else None
    if isinstance(error, KeyboardInterrupt) or code in KILLED_CODES:
        return "KILLED"
    return "FINISHED" if error is None or (isinstance(error, SystemExit) and code in (None, 0)) else "FAILED"


def process_tags() -> dict[str, str]:
    """Tags by which a later run can tell whether this process still lives."""
    return {HOST_TAG: host(), PROCESS_TAG: f"{os.getpid()} {started(os.getpid())} {boot()}"}


def is_gone(process: str) -> bool:
    """Whether a process of this host, as `process_tags` describes it, has ended; False when that is not known."""
    found = re.fullmatch(r"(\d+) (\S+) (\S+)", process)
    return found is not None and (found[3] != boot() or started(int(found[1])) != found[2])


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
    command = ["ps", "-o", "lstart=", "-p", str(process)]
    try:
        return "_".join(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()) or "ended"
    except OSError:
        return "unknown"


def _content(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
