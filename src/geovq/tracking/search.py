"""Finding recorded runs: one by id, its beginning, name or ``latest``; several by a filter, or of the last sweep."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geovq.errors import ConfigError, TrackingError
from geovq.tracking.address import database_path, resolve_uri, without_password
from geovq.tracking.faults import tracking_errors
from geovq.tracking.renamed import RENAMED_METRICS, RENAMED_PARAMS, under_new_names
from geovq.tracking.run import PARENT_TAG
from geovq.tracking.store import TrackingSettings, open_client

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

KIND_TAG = "geovq.kind"
OVERRIDES_TAG = "geovq.overrides"
TRAINED = f"tags.`{KIND_TAG}` = 'train'"
HOW_TO_LIST = "./scripts/mlflow_ui.sh lists the runs"
_SWEEPS_LOOKED_AT = 20


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


def find_run(settings: TrackingSettings, root: Path, which: str) -> RunRecord:
    """The run meant by ``which``: ``latest``, a run id, the unique beginning of one, or a unique name.

    ``latest`` is the FINISHED run tagged ``geovq.kind=train`` that ended last. ``root`` is the experiments
    root. Nothing is created. Raises TrackingError, naming the address asked, when there is no database,
    no such run, or more than one.
    """
    client, uri, experiments = _open_experiment(settings, root)
    with tracking_errors(uri, f"look up run {which!r}"):
        if which == "latest":
            finished, order = f"{TRAINED} and attributes.status = 'FINISHED'", ["attributes.end_time DESC"]
            found = list(client.search_runs(experiments, finished, max_results=1, order_by=order))
        else:
            found = _candidates(client, experiments, which)
    where = f"in experiment {settings.experiment!r} at {without_password(uri)}"
    if not found and which == "latest":
        raise TrackingError(f"no finished training run {where}; run python src/train.py first ({HOW_TO_LIST})")
    if not found:
        raise TrackingError(
            f"no run with id or name {which!r} {where}; {HOW_TO_LIST}, run=latest takes the last finished one"
        )
    if len(found) > 1:
        listed = ", ".join(f"{run.info.run_id[:12]} ({run.info.run_name})" for run in found[:5])
        raise TrackingError(f"run {which!r} means {len(found)} runs: {listed}; give more of the id")
    return _record(found[0], uri, client)


def find_runs(settings: TrackingSettings, root: Path, query: str) -> list[RunRecord]:
    """The training runs that an MLflow filter keeps, of any status, in the order of their starts.

    A filter that names the tag ``geovq.kind`` itself is taken as it is.

    Raises:
        ConfigError: MLflow cannot read the filter.
        TrackingError: there is no database or no experiment.
    """
    client, uri, experiments = _open_experiment(settings, root)
    full = query if KIND_TAG in query else " and ".join(part for part in (query, TRAINED) if part)
    try:
        with tracking_errors(uri, f"search runs with {query!r}"):
            return [_record(run, uri, client) for run in _search(client, experiments, full)]
    except TrackingError as error:
        if getattr(error.__cause__, "error_code", None) != "INVALID_PARAMETER_VALUE":
            raise
        reason = str(error.__cause__).splitlines()[0]
        raise ConfigError(
            f"query={query!r}: {reason}; write an MLflow filter, such as params.`quantizer.K` = '512' and "
            "tags.data = 'digits'"
        ) from error


def last_sweep(settings: TrackingSettings, root: Path) -> tuple[RunRecord, list[RunRecord]] | None:
    """The sweep started last of which a training run has finished: its parent, and its training runs of any status.

    None where there is no such sweep.
    """
    client, uri, experiments = _open_experiment(settings, root)
    query, order = f"tags.`{KIND_TAG}` = 'multirun'", ["attributes.start_time DESC"]
    with tracking_errors(uri, "look up the last sweep"):
        for parent in client.search_runs(experiments, query, max_results=_SWEEPS_LOOKED_AT, order_by=order):
            jobs = _search(client, experiments, f"{TRAINED} and tags.`{PARENT_TAG}` = '{parent.info.run_id}'")
            if any(job.info.status == "FINISHED" for job in jobs):
                return _record(parent, uri, client), [_record(job, uri, client) for job in jobs]
    return None


def sweep_overrides(records: Sequence[RunRecord]) -> list[str]:
    """The overrides of the sweeps that some runs were jobs of, each once."""
    found: dict[str, None] = {}
    parents = {record.tags[PARENT_TAG]: record for record in records if PARENT_TAG in record.tags}
    for run_id, record in parents.items():
        with tracking_errors(record.uri, f"read run {run_id}"):
            found[record.client.get_run(run_id).data.tags.get(OVERRIDES_TAG, "")] = None
    return [overrides for overrides in found if overrides]


def _open_experiment(settings: TrackingSettings, root: Path) -> tuple[MlflowClient, str, list[str]]:
    """Client, address and experiment ids (one) to read runs with; nothing is created.

    Raises TrackingError, naming the address, when there is no database or no such experiment.
    """
    uri = resolve_uri(settings.uri, root)
    file = database_path(uri)
    if file is not None and not file.exists():
        raise TrackingError(
            f"no run is recorded yet: {file} does not exist; run python src/train.py first, or set tracking.uri"
        )
    client = open_client(uri, root, settings.wait_seconds)
    with tracking_errors(uri, f"open the experiment {settings.experiment!r}"):
        experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is None:
        raise TrackingError(
            f"no experiment {settings.experiment!r} at {without_password(uri)};"
            " run python src/train.py first, or set tracking.experiment"
        )
    return client, uri, [str(experiment.experiment_id)]


def _candidates(client: MlflowClient, experiments: list[str], which: str) -> list[StoredRun]:
    """Runs whose id begins with ``which`` or whose name equals it; a full id gives that run alone."""
    queries = [f"attributes.run_id LIKE '{which}%'"] if re.fullmatch("[0-9a-f]{3,32}", which) else []
    quote = next((mark for mark in "'\"" if mark not in which), None)
    if quote is not None:
        queries.append(f"attributes.run_name = {quote}{which}{quote}")
    found: dict[str, StoredRun] = {}
    for query in queries:
        for run in client.search_runs(experiments, query, order_by=["attributes.start_time DESC"]):
            found[run.info.run_id] = run
    return [found[which]] if which in found else list(found.values())


def _search(client: MlflowClient, experiments: list[str], query: str) -> list[StoredRun]:
    """All pages of a search, in the order of the starts."""
    found: list[StoredRun] = []
    token: str | None = None
    while True:
        page = client.search_runs(experiments, query, order_by=["attributes.start_time ASC"], page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return found


def _record(run: StoredRun, uri: str, client: MlflowClient) -> RunRecord:
    """Plain values of a stored run, under the names of today."""
    info, data = run.info, run.data
    values = (
        under_new_names(data.tags, RENAMED_METRICS, "omitted."),
        under_new_names(data.params, RENAMED_PARAMS),
        under_new_names(data.metrics, RENAMED_METRICS),
    )
    return RunRecord(info.run_id, info.run_name, info.status, *values, uri, client)
