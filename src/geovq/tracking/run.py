"""One tracked run: params, tags, curves, figures and files of a job.

Metrics are buffered and written in batches; a write that fails in the middle of a job is tried again later, ever more
rarely, instead of ending hours of work. All other writes insist for ``tracking.wait_seconds``. Run ids are explicit
throughout: MLflow's global state follows environment variables of its own.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from geovq.errors import TrackingError
from geovq.tracking.address import resolve_uri
from geovq.tracking.faults import AGAIN, may_pass
from geovq.tracking.params import batches, checked_name, cut, flatten
from geovq.tracking.process import HOST_TAG, PROCESS_TAG, SignalWatch, host, is_gone, process_tags, status_of
from geovq.tracking.store import ensure_experiment, open_client, writing

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    from geovq.configuration.sections import Tracking

MAX_PARAMS_PER_REQUEST = 100
MAX_METRICS_PER_REQUEST = 1000
BUFFERED_METRICS = 500
BUFFER_SECONDS = 10.0
PATIENCE_SECONDS = 6.0
"""How long a write may hold a job that goes on without it, or that was told to end."""
PAUSE_SECONDS = 0.5
MAX_BACK_OFF_SECONDS = 480.0
PARENT_TAG = "mlflow.parentRunId"
NONFINITE_TAG = "geovq.nonfinite."

logger = logging.getLogger(__name__)


class Run:
    """An open run; as a context manager it ends FINISHED, FAILED (exception) or KILLED (Ctrl-C, SIGTERM).

    Attributes: ``run_id`` and ``uri`` (tracking address).
    """

    def __init__(self, client: MlflowClient, run_id: str, uri: str, wait: float) -> None:
        self.run_id, self.uri = run_id, uri
        self._client, self._wait = client, wait
        self._buffer: list[Metric] = []
        self._next_write = time.monotonic() + BUFFER_SECONDS
        self._back_off = 0.0
        self._nonfinite: dict[str, str] = {}
        self._signals = SignalWatch()

    def log_params(self, config: Mapping[str, Any]) -> None:
        """Record a nested config as dotted params; a param once written cannot be changed."""
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in flatten(config).items()]
        for batch in batches(params, MAX_PARAMS_PER_REQUEST):
            self._write("write params", self._client.log_batch, params=batch)

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """Add one point of the curve ``name``, to be written with the next batch.

        MLflow would store infinity as 1.8e308: of NaN and infinity the first is kept as tag ``geovq.nonfinite.<name>``.
        Raises InputError for an illegal name.
        """
        from mlflow.entities import Metric

        checked_name(name, "metric")
        number = float(value)
        if not math.isfinite(number):
            self._nonfinite.setdefault(NONFINITE_TAG + name, f"{number} at step {step}")
            return
        self._buffer.append(Metric(name, number, int(time.time() * 1000), int(step)))
        is_full = len(self._buffer) >= BUFFERED_METRICS and not self._back_off
        if is_full or time.monotonic() >= self._next_write:
            self._write_or_postpone()

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add one point to each of several curves."""
        for name, value in metrics.items():
            self.log_metric(name, value, step)

    def log_dict(self, obj: Mapping[str, Any], path: str) -> None:
        """Keep a mapping as JSON under the artifact path ``path`` (``*.json``)."""
        self._write(f"store {path!r}", self._client.log_dict, dict(obj), path)

    def log_file(self, path: Path, artifact_path: str | None = None) -> None:
        """Copy a file into the artifact folder ``artifact_path`` (None: the top one)."""
        self._write(f"store file {path}", self._client.log_artifact, str(path), artifact_path)

    def set_tags(self, tags: Mapping[str, Any], once: bool = False) -> None:
        """Set tags, which may be set again; values are stored as text. With ``once`` the job waits briefly."""
        from mlflow.entities import RunTag

        entries = [RunTag(checked_name(name, "tag"), cut(str(value))) for name, value in tags.items()]
        for batch in batches(entries, MAX_PARAMS_PER_REQUEST):
            self._write("write tags", self._client.log_batch, once=once, tags=batch)

    def flush(self, once: bool = False) -> None:
        """Write all buffered metrics now; on an error they stay in the buffer."""
        while self._buffer:
            batch = self._buffer[:MAX_METRICS_PER_REQUEST]
            self._write("write metrics", self._client.log_batch, once=once, metrics=batch)
            del self._buffer[: len(batch)]
        self.set_tags(self._nonfinite, once)
        self._back_off, self._next_write = 0.0, time.monotonic() + BUFFER_SECONDS

    def end(self, status: str) -> None:
        """Write what is buffered and close the run as FINISHED, FAILED or KILLED; FINISHED only when all is written."""
        if status == "KILLED":
            self._wait = min(self._wait, PATIENCE_SECONDS)
        try:
            self.flush()
        except BaseException as failure:
            status = status_of(failure) if status == "FINISHED" else status
            raise
        finally:
            self._write("end the run", self._client.set_terminated, status)

    def __enter__(self) -> Run:
        self._signals.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end(status_of(error))
        except TrackingError as failure:
            # What went wrong in the job is the news; that it could not be recorded comes second.
            if error is None:
                error = failure
            elif not isinstance(error, TrackingError):
                logger.warning("%s", failure)
        finally:
            self._signals.restore()
        if isinstance(error, TrackingError):
            missing = f" ({len(self._buffer)} points of curves are missing)" if self._buffer else ""
            reason = str(error).removesuffix(AGAIN)
            raise TrackingError(f"{reason}; run {self.run_id} is not recorded whole{missing}{AGAIN}") from error

    def _write_or_postpone(self) -> None:
        try:
            self.flush(once=True)
        except TrackingError as failure:
            if not self._back_off:
                logger.warning("%s; metrics are kept in memory and written later", str(failure).removesuffix(AGAIN))
            self._back_off = min(2 * self._back_off or 3 * BUFFER_SECONDS, MAX_BACK_OFF_SECONDS)
            self._next_write = time.monotonic() + self._back_off

    def _write(
        self, action: str, call: Callable[..., object], *values: object, once: bool = False, **named: object
    ) -> None:
        """Call a method of the client on this run, again and again where the store does not answer or is full.

        Until the wait is over; with ``once`` one time, and not for long.
        """
        wait = min(self._wait, PATIENCE_SECONDS) if once else self._wait
        deadline, pause = time.monotonic() + wait, PAUSE_SECONDS
        while True:
            try:
                with writing(self.uri, action, max(deadline - time.monotonic(), 0)):
                    call(self.run_id, *values, **named)
                return
            except TrackingError as failure:
                if once:
                    raise
                if time.monotonic() + pause > deadline:
                    # What follows, the end of the run at least, need not wait as long once more.
                    self._wait = min(self._wait, PATIENCE_SECONDS)
                    raise
                if not may_pass(failure):
                    raise
                if pause == PAUSE_SECONDS:
                    reason, seconds = str(failure).removesuffix(AGAIN), deadline - time.monotonic()
                    logger.warning("%s; trying again for %.0f s", reason, seconds)
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


class NullRun:
    """The interface of `Run` with nothing behind it (``tracking.enabled=false``)."""

    run_id = uri = ""

    def _do_nothing(self, *values: object, **named: object) -> None:
        """Stand in for every method that writes."""

    log_params = log_metric = log_metrics = log_dict = log_file = set_tags = flush = end = __exit__ = _do_nothing

    def __enter__(self) -> NullRun:
        return self


def start_run(
    settings: Tracking, root: Path, name: str, tags: Mapping[str, Any], parent_id: str | None = None
) -> Run | NullRun:
    """Open a run in the configured experiment, or a `NullRun` when tracking is off; use it as a context manager.

    ``name`` counts unless ``tracking.run_name`` gives one; ``parent_id`` is the run of a multirun that this one belongs
    to. Raises TrackingError when the address is unusable.
    """
    if not settings.enabled:
        return NullRun()
    wait = settings.wait_seconds
    client, uri, experiment = open_experiment(settings, root)
    labels = {"mlflow.source.name": Path(sys.argv[0]).name} | process_tags()
    labels |= {key: str(value) for key, value in tags.items()}
    labels |= {} if parent_id is None else {PARENT_TAG: parent_id}
    with writing(uri, "start a run", wait):
        created = client.create_run(experiment, run_name=settings.run_name or name, tags=labels)
    return Run(client, created.info.run_id, uri, wait)


def open_experiment(settings: Tracking, root: Path) -> tuple[MlflowClient, str, str]:
    """Client, address and id of the configured experiment, in which nothing is left running that was killed here."""
    uri, wait = resolve_uri(settings.uri, root), settings.wait_seconds
    client = open_client(uri, root, wait)
    experiment = ensure_experiment(client, uri, settings.experiment, root, wait)
    _close_abandoned(client, uri, experiment, wait)
    return client, uri, experiment


def _close_abandoned(client: MlflowClient, uri: str, experiment_id: str, wait: float) -> None:
    """End as KILLED what this host's processes that are gone have left running in an experiment."""
    query = f"attributes.status = 'RUNNING' and tags.`{HOST_TAG}` = '{host()}'"
    # A server may forbid this to somebody who may record runs; a new run is not to fail for it.
    with suppress(TrackingError), writing(uri, "close abandoned runs", wait):
        for run in client.search_runs([experiment_id], query):
            if is_gone(run.data.tags.get(PROCESS_TAG, "")):
                client.set_terminated(run.info.run_id, "KILLED")
