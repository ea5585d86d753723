"""Signals that end a process, turned into exceptions so that open runs can be closed.

SIGTERM (a scheduler's time limit, ``kill``) and SIGHUP (a lost connection) end Python at once by default;
here they raise ``SystemExit(128 + signal)`` instead. Handlers somebody else has set, and ignored signals
(nohup), are left alone.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

ENDING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
KILLED_CODES = tuple(128 + number for number in (signal.SIGINT, *ENDING_SIGNALS))


class SignalWatch:
    """Between `install` and `restore` ending signals raise, and ``received`` holds the last one.

    Does nothing outside the main thread, where Python allows no handlers.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Set the handlers where the default ones are in place."""
        if threading.current_thread() is not threading.main_thread():
            return
        watched = [number for number in ENDING_SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            watched.append(signal.SIGINT)
        for number in watched:
            self._previous[number] = signal.signal(number, self._raise)

    def restore(self) -> None:
        """Put the earlier handlers back."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def status_of(error: BaseException | None) -> str:
    """MLflow status of a run that ends with ``error``: FINISHED, FAILED or KILLED."""
    if error is None:
        return "FINISHED"
    if isinstance(error, KeyboardInterrupt):
        return "KILLED"
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return "FINISHED"
        return "KILLED" if error.code in KILLED_CODES else "FAILED"
    return "FAILED"
