"""What is being done: a line for the work, and bars with the time left below it; bars need a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
Advance = Callable[..., None]

WORTH_A_BAR = 5.0
"""Seconds that work must be expected to take for its bar to be shown."""
_FIRST_LOOK = 0.5
"""Seconds before the first estimate: first steps are slow."""

# A terminal shows one live display at a time: bars inside bars are further lines of the outer one.
_display: Progress | None = None


def _can_draw() -> bool:
    """Whether standard error is a terminal that can take a line back."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


@contextmanager
def under_way(line: str, announce: Callable[[str], None]) -> Iterator[None]:
    """Announce work that begins; on a terminal show it for as long as it lasts instead, above its bars."""
    if _can_draw():
        with _one_display(line):
            yield
    else:
        announce(line)
        yield


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Yield ``advance(n=1, said="")`` that moves a bar from ``done`` to ``total`` steps; what is said stands behind it.

    It is drawn once the whole is expected to take more than ``WORTH_A_BAR`` seconds. Nothing is drawn, and rich is not
    imported, when standard error is no terminal.
    """
    if not _can_draw():
        yield lambda n=1, said="": None
        return
    with _one_display() as display:
        task = display.add_task(description, total=total, completed=done, visible=False, said="")
        begun, moved = time.perf_counter(), 0

        def advance(n: int = 1, said: str = "") -> None:
            nonlocal moved
            moved += n
            seconds = time.perf_counter() - begun
            is_long = seconds > _FIRST_LOOK and seconds * (total - done) > WORTH_A_BAR * moved
            display.update(task, advance=n, visible=True if is_long else None)
            if said:
                display.update(task, said=said)

        try:
            yield advance
        finally:
            display.remove_task(task)


@contextmanager
def _one_display(line: str | None = None) -> Iterator[Progress]:
    """The display that is on, or a new one with ``line`` above its bars, which goes when the caller is done."""
    global _display
    if _display is not None:
        yield _display
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    columns = (
        TextColumn("  {task.description:<20}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left  {task.fields[said]}"),
    )
    console = Console(stderr=True)
    display = Progress(*columns, console=console, auto_refresh=False)
    shown = display if line is None else Group(Text(line), display)
    with Live(shown, console=console, refresh_per_second=4, transient=True):
        _display = display
        try:
            yield display
        finally:
            _display = None


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Iterate over ``items`` under a progress bar."""
    with progress(description, total) as advance:
        for item in items:
            yield item
            advance()
