"""One tracked run: params, tags, curves, figures and files of a job.

Metrics are buffered, since one synchronous write costs milliseconds, and written in batches; a write that
fails in the middle of a job is tried again later instead of ending hours of work. MLflow's client is used
with explicit run ids throughout: its global state follows environment variables of its own.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from geovq.errors import InputError, TrackingError
from geovq.tracking.params import batches, checked_name, cut, flatten
from geovq.tracking.signals import SignalWatch, status_of
from geovq.tracking.store import (
    TrackingSettings,
    ensure_experiment,
    open_client,
    resolve_uri,
    tracking_errors,
    write_lock,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

MAX_PARAMS_PER_REQUEST = 100
MAX_METRICS_PER_REQUEST = 1000
BUFFERED_METRICS = 500
BUFFER_SECONDS = 10.0
PARENT_TAG = "mlflow.parentRunId"
SOURCE_TAG = "mlflow.source.name"
NONFINITE_TAG = "geovq.nonfinite."

logger = logging.getLogger(__name__)


class Run:
    """An open run; as a context manager it ends FINISHED, FAILED (exception) or KILLED (Ctrl-C, SIGTERM).

    Attributes: ``run_id``, ``uri`` (tracking address) and ``log_every`` (training steps between two points
    of a curve, for the training loop to follow).
    """

    def __init__(self, client: MlflowClient, run_id: str, uri: str, log_every: int) -> None:
        self.run_id = run_id
        self.uri = uri
        self.log_every = log_every
        self._client = client
        self._lock = write_lock(uri)
        self._buffer: list[Metric] = []
        self._next_write = time.monotonic() + BUFFER_SECONDS
        self._write_failed = False
        self._nonfinite: set[str] = set()
        self._unwritten_tags: dict[str, str] = {}
        self._signals = SignalWatch()

    def log_params(self, config: Mapping[str, Any]) -> None:
        """Record a nested config as dotted params; a param once written cannot be changed."""
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in flatten(config).items()]
        for batch in batches(params, MAX_PARAMS_PER_REQUEST):
            with tracking_errors(self.uri, "write params"), self._lock:
                self._client.log_batch(self.run_id, params=batch)

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """Add one point of the curve ``name``; it is written with the next batch.

        MLflow would store infinity as 1.8e308, so NaN and infinity are left out of the curve and the
        first is kept as tag ``geovq.nonfinite.<name>``. Raises InputError for a name MLflow cannot keep.
        """
        from mlflow.entities import Metric

        checked_name(name, "metric")
        number = float(value)
        if not math.isfinite(number):
            if name not in self._nonfinite:
                self._nonfinite.add(name)
                self._unwritten_tags[NONFINITE_TAG + name] = f"{number} at step {step}"
            return
        self._buffer.append(Metric(name, number, int(time.time() * 1000), int(step)))
        if len(self._buffer) >= BUFFERED_METRICS or time.monotonic() >= self._next_write:
            self._write_or_postpone()

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add one point to each of several curves."""
        for name, value in metrics.items():
            self.log_metric(name, value, step)

    def log_figure(self, figure: Figure, path: str) -> None:
        """Keep a matplotlib figure as PNG under the artifact path ``path`` (``*.png``)."""
        if not path.endswith(".png"):
            raise InputError(f"figure path {path!r} must end in .png")
        with tracking_errors(self.uri, f"store figure {path!r}"):
            self._client.log_figure(self.run_id, figure, path)

    def log_dict(self, obj: Mapping[str, Any], path: str) -> None:
        """Keep a mapping as ``*.json`` or ``*.yaml``, by the ending of ``path``."""
        with tracking_errors(self.uri, f"store {path!r}"):
            self._client.log_dict(self.run_id, dict(obj), path)

    def log_text(self, text: str, path: str) -> None:
        """Keep a text as artifact ``path``."""
        with tracking_errors(self.uri, f"store {path!r}"):
            self._client.log_text(self.run_id, text, path)

    def log_file(self, path: Path, artifact_path: str | None = None) -> None:
        """Copy a file into the artifact folder ``artifact_path`` (None: the top one)."""
        with tracking_errors(self.uri, f"store file {path}"):
            self._client.log_artifact(self.run_id, str(path), artifact_path)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, which may be set again; values are stored as text."""
        from mlflow.entities import RunTag

        entries = [RunTag(checked_name(name, "tag"), cut(str(value))) for name, value in tags.items()]
        for batch in batches(entries, MAX_PARAMS_PER_REQUEST):
            with tracking_errors(self.uri, "write tags"), self._lock:
                self._client.log_batch(self.run_id, tags=batch)

    def flush(self) -> None:
        """Write all buffered metrics now; on an error they stay in the buffer."""
        while self._buffer:
            batch = self._buffer[:MAX_METRICS_PER_REQUEST]
            with tracking_errors(self.uri, "write metrics"), self._lock:
                self._client.log_batch(self.run_id, metrics=batch)
            del self._buffer[: len(batch)]
        if self._unwritten_tags:
            self.set_tags(self._unwritten_tags)
            self._unwritten_tags = {}
        self._next_write = time.monotonic() + BUFFER_SECONDS

    def end(self, status: str) -> None:
        """Write what is buffered and close the run as FINISHED, FAILED or KILLED."""
        try:
            self.flush()
        finally:
            with tracking_errors(self.uri, "end the run"), self._lock:
                self._client.set_terminated(self.run_id, status)

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
                raise
            logger.warning("%s", failure)
        finally:
            self._signals.restore()

    def _write_or_postpone(self) -> None:
        try:
            self.flush()
        except TrackingError as failure:
            if not self._write_failed:
                logger.warning("%s; metrics are kept in memory and written later", failure)
            self._write_failed = True
            self._next_write = time.monotonic() + 6 * BUFFER_SECONDS


class NullRun:
    """The interface of `Run` with nothing behind it (``tracking.enabled=false``)."""

    def __init__(self, log_every: int) -> None:
        self.run_id = ""
        self.uri = ""
        self.log_every = log_every

    def log_params(self, config: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Do nothing."""

    def log_figure(self, figure: Figure, path: str) -> None:
        """Do nothing."""

    def log_dict(self, obj: Mapping[str, Any], path: str) -> None:
        """Do nothing."""

    def log_text(self, text: str, path: str) -> None:
        """Do nothing."""

    def log_file(self, path: Path, artifact_path: str | None = None) -> None:
        """Do nothing."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def end(self, status: str) -> None:
        """Do nothing."""

    def __enter__(self) -> NullRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def start_run(
    settings: TrackingSettings,
    root: Path,
    name: str,
    tags: Mapping[str, Any],
    parent_id: str | None = None,
) -> Run | NullRun:
    """Open a run in the configured experiment, or a `NullRun` when tracking is off.

    ``root`` is the experiments root, ``name`` the run's name unless ``tracking.run_name`` gives one,
    ``parent_id`` the run of a multirun that this one belongs to. Use as a context manager. Raises
    TrackingError when the address is unusable.
    """
    if not settings.enabled:
        return NullRun(settings.log_every)
    uri = resolve_uri(settings.uri, root)
    client = open_client(uri, root)
    experiment = ensure_experiment(client, uri, settings.experiment, root)
    all_tags = {SOURCE_TAG: Path(sys.argv[0]).name, **{key: str(value) for key, value in tags.items()}}
    if parent_id is not None:
        all_tags[PARENT_TAG] = parent_id
    with tracking_errors(uri, "start a run"), write_lock(uri):
        created = client.create_run(experiment, run_name=settings.run_name or name, tags=all_tags)
    return Run(client, created.info.run_id, uri, settings.log_every)
