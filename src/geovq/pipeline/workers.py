"""The other ranks of a run: processes that build a stage together with this one, which is rank 0.

Only what is worth it is built together; all else, artifacts, MLflow, bars and messages are rank 0's alone. So the
command line, a sweep's jobs and what records them see one process, as without ranks. Workers are started when a stage
first needs them, told which stage to build by a ``TCPStore`` on this machine, and end with the run: when they are told
to, or when rank 0 is no longer there. What they are told is JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as distributed

from geovq import ranks
from geovq.errors import ForeignCodeError, GeoVQError, RankError

if TYPE_CHECKING:
    from geovq.pipeline.stage import ArtifactWriter, Context, Inputs, Stage

FOREVER = timedelta(days=30)
"""Nothing waits by the clock: a rank that is gone closes its connections."""
_SECONDS_TO_TELL = 5.0
_SECONDS_TO_NOTICE = 20.0


class Workers:
    """Ranks 1 to n - 1 of a run on ``n``; as a context manager they end with it."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._processes: list[subprocess.Popen[bytes]] = []
        self._store: distributed.TCPStore | None = None
        self._told = 0
        self._over = threading.Event()
        self._previous: Any = None

    def build(self, stage: Stage, context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
        """Build a stage, together with the others where it is one that ranks share.

        Raises:
            RankError: another rank has ended, or cannot build it.
        """
        if self.n == 1 or not stage.on_ranks(context.config):
            stage.build(context, inputs, out)
            return
        out.origin["ranks"] = self.n
        try:
            self._start(context)
            threads = max(1, torch.get_num_threads() // self.n)
            self._tell(stage.name, threads, {name: str(each.directory) for name, each in inputs.items()}, out)
            with ranks.joined(0, self.n), in_threads(threads):
                stage.build(context, inputs, out)
        except Exception as error:
            # An error of our own stands for itself, unless it came of a rank that has ended.
            patience = 0.0 if isinstance(error, GeoVQError) and not isinstance(error, ForeignCodeError) else None
            if isinstance(error, RankError) or not (told := self._ended(patience)):
                raise
            raise RankError(told) from error

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._store is None:
            return
        if self._previous is not None:
            signal.signal(signal.SIGCHLD, self._previous)
        if kind is None:
            self._store.set(f"stage/{self._told}", "")
        else:
            self._kill(0)
        if distributed.is_initialized():  # all ranks leave together
            distributed.destroy_process_group()
        self._kill(_SECONDS_TO_TELL)
        self._over.set()

    def _kill(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        for process in self._processes:
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, context: Context) -> None:
        """Start the others and meet them."""
        if self._processes:
            return
        self._store = distributed.TCPStore("127.0.0.1", 0, is_master=True, timeout=FOREVER, wait_for_workers=False)
        self._store.set("config", json.dumps(context.config.model_dump(mode="json")))
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)
        for rank in range(1, self.n):
            words = [str(number) for number in (rank, self.n, self._store.port, os.getpid())]
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "geovq.commands.rank", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=os.environ | {"PYTHONPATH": path},
                    start_new_session=True,  # Ctrl-C is for rank 0, which ends them
                )
            )
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGCHLD, self._child_ended)
        threading.Thread(target=self._end_if_stuck, args=(self._over,), name="ranks", daemon=True).start()
        while not self._store.check([f"joined/{rank}" for rank in range(1, self.n)]):
            if told := self._ended(0):
                raise RankError(told)
            time.sleep(0.05)
        join(self._store, 0, self.n, context.device)

    def _tell(self, stage: str, threads: int, inputs: dict[str, str], out: ArtifactWriter) -> None:
        task = {"stage": stage, "threads": threads, "inputs": inputs, "scratch": str(out.scratch)}
        assert self._store is not None
        self._store.set(f"stage/{self._told}", json.dumps(task))
        self._told += 1

    def _child_ended(self, number: int, frame: FrameType | None) -> None:
        """Wherever rank 0 is: no rank goes on without the others."""
        if told := self._ended(0):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # once
            raise RankError(told)

    def _ended(self, patience: float | None) -> str | None:
        """Which rank has ended, in words, or None; it may take a moment until that is known."""
        deadline = time.monotonic() + (_SECONDS_TO_TELL if patience is None else patience)
        while True:
            codes = {rank: process.poll() for rank, process in enumerate(self._processes, 1)}
            ended = {rank: code for rank, code in codes.items() if code is not None}
            if ended or time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        if not ended:
            return None
        rank = min(ended, key=lambda each: (ended[each] >= 0, each))  # others end because one was killed
        assert self._store is not None
        goes_on = "finished stages and checkpoints are kept, and the same command goes on from there"
        if self._store.check([f"error/{rank}"]):
            return f"rank {rank} of {self.n}: {self._store.get(f'error/{rank}').decode()}; {goes_on}"
        code = ended[rank]
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        return f"rank {rank} of {self.n} (process {self._processes[rank - 1].pid}) ended with {how}; {goes_on}"

    def _end_if_stuck(self, over: threading.Event) -> None:
        """End this process where it does not notice by itself, waiting for a rank that is gone: NCCL may do so."""
        while not over.wait(1.0):
            if (told := self._ended(0)) and not over.wait(_SECONDS_TO_NOTICE):
                os.write(2, f"error: {told}\n".encode())
                os._exit(1)


def join(store: distributed.TCPStore, rank: int, n: int, device: torch.device) -> None:
    """Become one of ``n`` ranks; with GPUs each has the one of its number."""
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    group = distributed.PrefixStore("group", store.clone())  # of its own: waiting there holds back no one else
    distributed.init_process_group(backend, store=group, rank=rank, world_size=n, timeout=FOREVER)


@contextmanager
def in_threads(n: int) -> Iterator[None]:
    """Compute with ``n`` CPU threads for a while; our own loops and faiss follow torch's number."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
