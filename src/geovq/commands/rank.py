"""A worker of a run: ``python -m geovq.commands.rank RANK RANKS PORT PARENT``, started by ``geovq.pipeline.workers``.

It builds what rank 0 is building, on its share, and writes nothing.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    import torch.distributed as distributed

_SECONDS_FOR_RANK_0 = 3.0
"""A fault that all ranks have is told by rank 0, before this one ends."""


class NoWriter:
    """An ``ArtifactWriter`` that writes nothing; ``scratch`` holds the checkpoints, which it reads."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.origin: dict[str, Any] = {}

    def _write_nothing(self, name: str, value: object) -> None:
        """Stand in for every method that writes."""

    tensors = json = figure = _write_nothing

    @contextmanager
    def written(
        self, name: str, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Tensors to fill as those of ``ArtifactWriter.written``, in files that go with them."""
        import torch

        from geovq.geometry.computing import in_a_file

        def room(shape: tuple[int, ...]) -> torch.Tensor:
            numbers = max(1, -(-prod(shape) * dtype.itemsize // 4))
            found = torch.from_numpy(in_a_file((numbers,), self.scratch.parent)).view(dtype)
            return found[: prod(shape)].view(shape)

        yield {name: room(shape) for name, shape in shapes.items()}


def main() -> None:
    """Serve until rank 0 says that it is over, or is gone."""
    rank, n, port, parent = (int(word) for word in sys.argv[1:])
    terminal = _quiet()
    threading.Thread(target=_end_with, args=(parent, rank, terminal), daemon=True).start()
    import torch.distributed as distributed

    from geovq.launch import describe
    from geovq.pipeline.workers import FOREVER

    store = distributed.TCPStore("127.0.0.1", port, is_master=False, timeout=FOREVER)
    try:
        _serve(store, rank, n)
    except BaseException as error:
        _end_if_alone(parent, rank, terminal)
        store.set(f"error/{rank}", describe(error))
        if os.environ.get("GEOVQ_DEBUG") == "1":
            raise
        time.sleep(_SECONDS_FOR_RANK_0)
        _end_if_alone(parent, rank, terminal)
        os._exit(1)


def _serve(store: distributed.TCPStore, rank: int, n: int) -> None:
    import torch.distributed as distributed

    from geovq import ranks
    from geovq.commands.train import open_data
    from geovq.configuration.config import validate
    from geovq.pipeline.artifacts import Artifact
    from geovq.pipeline.runner import stage_named
    from geovq.pipeline.stage import Context
    from geovq.pipeline.workers import in_threads, join

    config = validate(json.loads(store.get("config")))
    context = Context(config, *open_data(config))
    store.set(f"joined/{rank}", "")
    join(store, rank, n, context.device)
    for number in count():
        task: Mapping[str, Any] | None = json.loads(store.get(f"stage/{number}") or b"null")
        if task is None:
            distributed.destroy_process_group()
            return
        inputs = {name: Artifact(Path(directory)) for name, directory in task["inputs"].items()}
        out: Any = NoWriter(Path(task["scratch"]))
        with ranks.joined(rank, n), in_threads(task["threads"]):
            stage_named(task["stage"]).build(context, inputs, out)


def _quiet() -> int:
    """Leave standard error to rank 0; where this one may write, if there is no rank 0 to do so."""
    terminal = os.dup(2)
    if os.environ.get("GEOVQ_DEBUG") != "1":
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    return terminal


def _end_with(parent: int, rank: int, terminal: int) -> None:
    """End soon after rank 0 has, whatever this one waits for."""
    while True:
        _end_if_alone(parent, rank, terminal)
        time.sleep(0.5)


def _end_if_alone(parent: int, rank: int, terminal: int) -> None:
    if os.getppid() == parent:
        return
    if rank == 1:
        told = (
            "error: rank 0 has ended; finished stages and checkpoints are kept, the same command goes on from there\n"
        )
        os.write(terminal, told.encode())
    os._exit(1)


if __name__ == "__main__":
    main()
