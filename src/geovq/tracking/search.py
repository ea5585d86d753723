"""Finding recorded runs: one by id, its beginning, name or ``latest``; several by a filter, or of the last sweep."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geovq.errors import ConfigError, TrackingError, first_line
from geovq.tracking.address import database_path, resolve_uri, without_password
from geovq.tracking.faults import tracking_errors
from geovq.tracking.params import under_new_names
from geovq.tracking.run import PARENT_TAG
from geovq.tracking.store import open_client

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

    from geovq.configuration.sections import Tracking

KIND_TAG = "geovq.kind"
OVERRIDES_TAG = "geovq.overrides"
TRAINED = f"tags.`{KIND_TAG}` = 'train'"
HOW_TO_LIST = "./scripts/mlflow_ui.sh lists the runs"
_SWEEPS_LOOKED_AT = 20
_LAUNCHER = re.compile(r"(?:^|(?<= ))launcher=\S+ ?")


@dataclass(frozen=True)
class RunRecord:
    """What is recorded of one run; metrics are the last values of their curves."""

    run_id: str
    name: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    uri: str
    client: MlflowClient = field(repr=False, compare=False)

    @property
    def title(self) -> str:
        """Name and short id, for people."""
        return f"{self.name} ({self.run_id[:8]})"

    def store_file(self, path: Path, artifact_path: str) -> None:
        """Copy a file into the run's artifact folder ``artifact_path``."""
        with tracking_errors(self.uri, f"store file {path}"):
            self.client.log_artifact(self.run_id, str(path), artifact_path)

    def load_dict(self, path: str) -> Any:
        """The JSON artifact ``path`` of the run. Raises TrackingError when it is not there."""
        with tracking_errors(self.uri, f"read {path!r} of run {self.run_id}"):
            return json.loads(Path(self.client.download_artifacts(self.run_id, path)).read_text(encoding="utf-8"))


def find_run(settings: Tracking, root: Path, which: str) -> RunRecord:
    """The run meant by ``which``: ``latest``, a run id, the unique beginning of one, or a unique name.

    ``latest`` is the FINISHED run tagged ``geovq.kind=train`` that ended last. Nothing is created. Raises
    TrackingError, naming the address asked, when there is no database, no such run, or more than one.
    """
    experiment = _Experiment(settings, root)
    with tracking_errors(experiment.uri, f"look up run {which!r}"):
        if which == "latest":
            found = experiment.search(f"{TRAINED} and attributes.status = 'FINISHED'", "end_time DESC", most=1)
        else:
            found = experiment.candidates(which)
    if not found and which == "latest":
        run_first = f"run python src/train.py first ({HOW_TO_LIST})"
        raise TrackingError(f"no finished training run in {experiment.where}; {run_first}")
    if not found:
        instead = f"{HOW_TO_LIST}, run=latest takes the last finished one"
        raise TrackingError(f"no run with id or name {which!r} in {experiment.where}; {instead}")
    if len(found) > 1:
        listed = ", ".join(f"{run.info.run_id[:12]} ({run.info.run_name})" for run in found[:5])
        raise TrackingError(f"run {which!r} means {len(found)} runs: {listed}; give more of the id")
    return experiment.records(found)[0]


def find_runs(settings: Tracking, root: Path, query: str) -> list[RunRecord]:
    """The training runs that an MLflow filter keeps, of any status, in the order of their starts.

    A filter that names the tag ``geovq.kind`` is taken as it is. Raises ConfigError where MLflow cannot read it, and
    TrackingError without database or experiment.
    """
    experiment = _Experiment(settings, root)
    full = query if KIND_TAG in query else " and ".join(filter(None, (query, TRAINED)))
    try:
        with tracking_errors(experiment.uri, f"search runs with {query!r}"):
            return experiment.records(experiment.search(full))
    except TrackingError as error:
        if getattr(error.__cause__, "error_code", None) != "INVALID_PARAMETER_VALUE":
            raise
        reason = first_line(error.__cause__)
        example = "such as params.`quantizer.K` = '512' and tags.data = 'digits'"
        raise ConfigError(f"query={query!r}: {reason}; write an MLflow filter, {example}") from error


def last_sweep(settings: Tracking, root: Path) -> tuple[RunRecord, list[RunRecord]] | None:
    """The sweep started last of which a training run has finished: its parent, and its training runs of any status.

    None where there is no such sweep.
    """
    experiment = _Experiment(settings, root)
    with tracking_errors(experiment.uri, "look up the last sweep"):
        sweeps = experiment.search(f"tags.`{KIND_TAG}` = 'multirun'", "start_time DESC", most=_SWEEPS_LOOKED_AT)
        for parent in sweeps:
            jobs = experiment.search(f"{TRAINED} and tags.`{PARENT_TAG}` = '{parent.info.run_id}'")
            finished = {what_ran(job.data.tags) for job in jobs if job.info.status == "FINISHED"}
            if finished:
                # A job that was killed and done again when the sweep went on is one job.
                finished.discard("")  # words that were not recorded
                jobs = [job for job in jobs if job.info.status == "FINISHED" or what_ran(job.data.tags) not in finished]
                return experiment.records([parent])[0], experiment.records(jobs)
    return None


def what_ran(tags: Mapping[str, str]) -> str:
    """The words of a recorded command, but for the launcher, which is where it ran."""
    return _LAUNCHER.sub("", tags.get(OVERRIDES_TAG, "")).strip()


def sweep_overrides(records: Sequence[RunRecord]) -> list[str]:
    """The overrides of the sweeps that some runs were jobs of, each once."""
    found: dict[str, None] = {}
    parents = {record.tags[PARENT_TAG]: record for record in records if PARENT_TAG in record.tags}
    for run_id, record in parents.items():
        with tracking_errors(record.uri, f"read run {run_id}"):
            found[record.client.get_run(run_id).data.tags.get(OVERRIDES_TAG, "")] = None
    return [overrides for overrides in found if overrides]


class _Experiment:
    """The experiment of the settings, to read runs from; nothing is created.

    Raises TrackingError, naming the address, when there is no database or no such experiment.
    """

    def __init__(self, settings: Tracking, root: Path) -> None:
        self.uri, name = resolve_uri(settings.uri, root), settings.experiment
        self.where = f"experiment {name!r} at {without_password(self.uri)}"
        file = database_path(self.uri)
        if file is not None and not file.exists():
            missing = f"{file} does not exist; run python src/train.py first, or set tracking.uri"
            raise TrackingError(f"no run is recorded yet: {missing}")
        self.client = open_client(self.uri, root, settings.wait_seconds)
        with tracking_errors(self.uri, f"open the experiment {name!r}"):
            experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            raise TrackingError(f"no {self.where}; run python src/train.py first, or set tracking.experiment")
        self.ids = [str(experiment.experiment_id)]

    def search(self, query: str, order: str = "start_time ASC", most: int | None = None) -> list[StoredRun]:
        """What a filter keeps: all, or the first ones."""
        asked: dict[str, Any] = {"max_results": most or 1000, "order_by": [f"attributes.{order}"]}
        page = self.client.search_runs(self.ids, query, **asked)
        found = list(page)
        while page.token and most is None:
            page = self.client.search_runs(self.ids, query, page_token=page.token, **asked)
            found += page
        return found

    def candidates(self, which: str) -> list[StoredRun]:
        """Runs whose id begins with ``which`` or whose name equals it; a full id gives that run alone."""
        queries = [f"attributes.run_id LIKE '{which}%'"] if re.fullmatch("[0-9a-f]{3,32}", which) else []
        quote = next((mark for mark in "'\"" if mark not in which), None)
        if quote is not None:
            queries.append(f"attributes.run_name = {quote}{which}{quote}")
        found = {run.info.run_id: run for query in queries for run in self.search(query, "start_time DESC")}
        return [found[which]] if which in found else list(found.values())

    def records(self, runs: Iterable[StoredRun]) -> list[RunRecord]:
        """Their plain values."""
        return [record_of(run, self.uri, self.client) for run in runs]


def record_of(run: StoredRun, uri: str, client: MlflowClient) -> RunRecord:
    """Plain values of a stored run, under the names of today."""
    info, data = run.info, run.data
    values = under_new_names(data.tags, "omitted."), dict(data.params), under_new_names(data.metrics)
    return RunRecord(info.run_id, info.run_name, info.status, *values, uri, client)
