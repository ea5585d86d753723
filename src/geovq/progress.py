"""Progress bars with an estimate of the time left; silent when standard error is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
Advance = Callable[..., None]

# A terminal shows one live display at a time: bars inside bars are further lines of the outer one.
_display: Progress | None = None


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Yield ``advance(n=1)`` that moves a bar from ``done`` to ``total`` steps.

    Nothing is drawn, and rich is not imported, when standard error is no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda n=1: None
        return
    with _one_display() as display:
        task = display.add_task(description, total=total, completed=done)
        try:
            yield lambda n=1: display.update(task, advance=n)
        finally:
            if _display is display and len(display.task_ids) > 1:
                display.remove_task(task)


@contextmanager
def _one_display() -> Iterator[Progress]:
    """The display that is on, or a new one for as long as the caller holds it."""
    global _display
    if _display is not None:
        yield _display
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as display:
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
