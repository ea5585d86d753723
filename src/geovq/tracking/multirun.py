"""Hydra callback that opens one parent run around all jobs of a multirun.

It creates database and experiment before any job starts, and hands the parent's id to the jobs in the environment.
Where the sweep before of the same words below the same root did not finish, its parent run goes on: a job that it
recorded as finished is not recorded again (`finished_job`), what was killed or failed is done again as a new child.
Hydra imports this module at every start, and launchers pickle the callback: nothing heavy here, and plain values only.
"""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from geovq.errors import TrackingError, first_line
from geovq.tracking.address import resolve_uri
from geovq.tracking.faults import tracking_errors
from geovq.tracking.process import SignalWatch, process_tags
from geovq.tracking.run import PARENT_TAG, PATIENCE_SECONDS, Run, open_experiment, start_run
from geovq.tracking.search import KIND_TAG, OVERRIDES_TAG, RunRecord, record_of, what_ran
from geovq.tracking.store import open_client, writing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hydra.core.utils import JobReturn
    from hydra.types import TaskFunction
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

    from geovq.configuration.sections import Tracking

PARENT_VARIABLE = "GEOVQ_PARENT_RUN"
FAILED_JOB_TAG = "geovq.failed_job."
ROOT_TAG = "geovq.root"
_SWEEPS_LOOKED_AT = 100


def parent_run_id() -> str | None:
    """Id of the multirun's parent run that this process works for, None outside a multirun."""
    return os.environ.get(PARENT_VARIABLE) or None


def finished_job(settings: Tracking, root: Path, tags: Mapping[str, str]) -> RunRecord | None:
    """What this process' multirun has recorded of a job with these tags, artifacts' keys among them, that finished."""
    parent = parent_run_id()
    if parent is None or not settings.enabled:
        return None
    uri = resolve_uri(settings.uri, root)
    with tracking_errors(uri, "look up the finished jobs of the multirun", settings.wait_seconds):
        client = open_client(uri, root, settings.wait_seconds)
        experiment = client.get_run(parent).info.experiment_id
        query = f"tags.`{PARENT_TAG}` = '{parent}' and attributes.status = 'FINISHED'"
        wanted = {name: value for name, value in tags.items() if name != OVERRIDES_TAG}
        for run in client.search_runs([experiment], query):
            if wanted.items() <= run.data.tags.items() and what_ran(run.data.tags) == what_ran(tags):
                return record_of(run, uri, client)
    return None


class ParentRun(Callback):
    """Configure as ``hydra.callbacks.parent_run``; reads ``tracking`` and ``paths.root`` of the config.

    The parent ends FINISHED, FAILED when a job failed, KILLED after a signal. Hydra reports no end when a job raised,
    so interpreter exit is watched too; jobs still marked as running then were killed with their worker.
    """

    def __init__(self) -> None:
        self.run_id: str | None = None
        self.uri, self.root, self.wait = "", Path(), 0.0
        self.earlier: frozenset[str] = frozenset()  # children that ended otherwise than finished before it went on
        self._signals = SignalWatch()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_signals": SignalWatch()}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Create database, experiment and parent run, or go on with one; end the program when that is not possible."""
        if not config.tracking.enabled:
            return
        self._signals.install()
        self.root = Path(config.paths.root).expanduser().absolute()
        self.wait = config.tracking.wait_seconds
        overrides = OmegaConf.select(config, "hydra.overrides.task", default=[])
        labels = {KIND_TAG: "multirun", OVERRIDES_TAG: " ".join(overrides), ROOT_TAG: str(self.root.resolve())}
        try:
            if not self._go_on(config.tracking, labels):
                run = start_run(config.tracking, self.root, multirun_name(overrides), labels)
                assert isinstance(run, Run)
                self.run_id, self.uri = run.run_id, run.uri
        except TrackingError as error:
            # Hydra turns exceptions of callbacks into warnings, and then every job would fail with this one.
            if os.environ.get("GEOVQ_DEBUG") == "1":
                traceback.print_exc()
            sys.exit(f"error: {error}")
        assert self.run_id is not None
        os.environ[PARENT_VARIABLE] = self.run_id
        atexit.register(self._end_at_exit, os.getpid())

    def _go_on(self, settings: Tracking, labels: Mapping[str, str]) -> bool:
        """Take up the last parent with these labels, unless it finished or its process still lives."""
        client, uri, experiment = open_experiment(settings, self.root)
        with writing(uri, "go on with a multirun", self.wait):
            found = _last_parent(client, experiment, labels)
            if found is None or found.info.status not in ("KILLED", "FAILED"):
                return False
            self.run_id, self.uri = found.info.run_id, uri
            children = client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{self.run_id}'")
            self.earlier = frozenset(child.info.run_id for child in children if child.info.status != "FINISHED")
            for tag in found.data.tags:
                if tag.startswith(FAILED_JOB_TAG):
                    client.delete_tag(self.run_id, tag)
            for tag, value in process_tags().items():
                client.set_tag(self.run_id, tag, value)
            client.update_run(self.run_id, status="RUNNING")
        finished = len(children) - len(self.earlier)
        told = f"{finished} job{'' if finished == 1 else 's'} finished before"
        print(f"going on with the sweep {self.run_id[:8]}, which was {found.info.status}: {told}", file=sys.stderr)
        return True

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any) -> None:
        """Hand the parent's id to the job; workers may have started with another environment."""
        if self.run_id is not None:
            os.environ[PARENT_VARIABLE] = self.run_id

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note a failed job on the parent run (in the worker's process under most launchers)."""
        from hydra.core.utils import JobStatus

        if self.run_id is None or job_return.status != JobStatus.FAILED:
            return
        tag = f"{FAILED_JOB_TAG}{OmegaConf.select(config, 'hydra.job.num', default=0)}"
        client = open_client(self.uri, self.root, self.wait)
        with writing(self.uri, "note a failed job", self.wait):
            client.set_tag(self.run_id, tag, first_line(job_return._return_value)[:500])  # the error that it raised

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """End the parent run: FINISHED, or FAILED when any job did not finish."""
        self._end(None)

    def _end_at_exit(self, process: int) -> None:
        """Close a parent that Hydra did not end: a job raised, or a signal came."""
        if self.run_id is None or os.getpid() != process:
            return
        killed = self._signals.received is not None
        self.wait = min(self.wait, PATIENCE_SECONDS) if killed else self.wait
        try:
            self._end("KILLED" if killed else "FAILED")
        except TrackingError as error:
            print(f"warning: {error}", file=sys.stderr)

    def _end(self, status: str | None) -> None:
        """Close the parent with ``status``; None asks the jobs' states."""
        if self.run_id is None:
            return
        run_id, self.run_id = self.run_id, None
        os.environ.pop(PARENT_VARIABLE, None)
        with tracking_errors(self.uri, "end the multirun", self.wait):
            client = open_client(self.uri, self.root, self.wait)
            parent = client.get_run(run_id)
            children = client.search_runs([parent.info.experiment_id], f"tags.`{PARENT_TAG}` = '{run_id}'")
            failed = any(tag.startswith(FAILED_JOB_TAG) for tag in parent.data.tags)
            # A launcher may begin the job of a worker that died once more, as ray does.
            done = {what_ran(child.data.tags) for child in children if child.info.status == "FINISHED"} - {""}
            failed |= any(
                child.info.status != "FINISHED" and what_ran(child.data.tags) not in done
                for child in children
                if child.info.run_id not in self.earlier
            )
            status = status or ("FAILED" if failed else "FINISHED")
            with writing(self.uri, "end the multirun", self.wait):
                for child in children:
                    if child.info.status == "RUNNING":
                        client.set_terminated(child.info.run_id, "KILLED")
                client.set_terminated(run_id, status)
        self._signals.restore()


def _last_parent(client: MlflowClient, experiment: str, labels: Mapping[str, str]) -> StoredRun | None:
    """The parent run started last of the same words, whatever its launcher, below the same root."""
    query, order = f"tags.`{KIND_TAG}` = 'multirun'", ["attributes.start_time DESC"]
    for run in client.search_runs([experiment], query, max_results=_SWEEPS_LOOKED_AT, order_by=order):
        if run.data.tags.get(ROOT_TAG) == labels[ROOT_TAG] and what_ran(run.data.tags) == what_ran(labels):
            return run
    return None


def multirun_name(overrides: Sequence[str]) -> str:
    """Name of the parent run: the overrides of the command line, within 120 characters."""
    text = " ".join(overrides) or "no overrides"
    return f"multirun {text}" if len(text) <= 120 else f"multirun {text[:117]}..."
