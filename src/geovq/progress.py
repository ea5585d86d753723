"""Progress bars with an estimate of the time left; silent when standard error is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Advance = Callable[..., None]


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Yield ``advance(n=1, note="")`` that moves a bar from ``done`` to ``total`` steps.

    Nothing is drawn, and rich is not imported, when standard error is no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda n=1, note="": None
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
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as bars:
        task = bars.add_task(description, total=total, completed=done, note="")

        def advance(n: int = 1, note: str | None = None) -> None:
            if note is None:
                bars.update(task, advance=n)
            else:
                bars.update(task, advance=n, note=note)

        yield advance


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Iterate over ``items`` under a progress bar."""
    with progress(description, total) as advance:
        for item in items:
            yield item
            advance()
