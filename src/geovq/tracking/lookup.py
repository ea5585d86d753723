"""Finding a recorded run again: the latest one, or one by id, beginning of an id, or name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geovq.errors import TrackingError
from geovq.tracking.address import database_path, resolve_uri, without_password
from geovq.tracking.faults import tracking_errors
from geovq.tracking.renamed import RENAMED_METRICS, RENAMED_PARAMS, under_new_names
from geovq.tracking.store import TrackingSettings, open_client

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

KIND_TAG = "geovq.kind"
TRAIN_FILTER = f"tags.`{KIND_TAG}` = 'train' and attributes.status = 'FINISHED'"
HOW_TO_LIST = "./scripts/mlflow_ui.sh lists the runs"


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
        """The JSON or YAML artifact ``path`` of the run. Raises TrackingError when it is not there."""
        with tracking_errors(self.uri, f"read {path!r} of run {self.run_id}"):
            text = Path(self.client.download_artifacts(self.run_id, path)).read_text(encoding="utf-8")
        if path.endswith(".json"):
            return json.loads(text)
        import yaml

        return yaml.safe_load(text)


def find_run(settings: TrackingSettings, root: Path, which: str) -> RunRecord:
    """The run meant by ``which``: ``latest``, a run id, the unique beginning of one, or a unique name.

    ``latest`` is the FINISHED run tagged ``geovq.kind=train`` that ended last. ``root`` is the experiments
    root. Nothing is created. Raises TrackingError, naming the address asked, when there is no database,
    no such run, or more than one.
    """
    client, uri, ids = open_experiment(settings, root)
    with tracking_errors(uri, f"look up run {which!r}"):
        found = list(latest(client, ids) if which == "latest" else candidates(client, ids, which))
    if not found and which == "latest":
        raise TrackingError(
            f"no finished training run in experiment {settings.experiment!r} at {without_password(uri)};"
            f" run python src/train.py first ({HOW_TO_LIST})"
        )
    if not found:
        raise TrackingError(
            f"no run with id or name {which!r} in experiment {settings.experiment!r}"
            f" at {without_password(uri)}; {HOW_TO_LIST}, run=latest takes the last finished one"
        )
    if len(found) > 1:
        listed = ", ".join(f"{run.info.run_id[:12]} ({run.info.run_name})" for run in found[:5])
        raise TrackingError(f"run {which!r} means {len(found)} runs: {listed}; give more of the id")
    return record_of(found[0], uri, client)


def open_experiment(settings: TrackingSettings, root: Path) -> tuple[MlflowClient, str, list[str]]:
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


def latest(client: MlflowClient, experiment_ids: list[str]) -> list[StoredRun]:
    """The finished training run that ended last, as a list of at most one."""
    return list(client.search_runs(experiment_ids, TRAIN_FILTER, max_results=1, order_by=["attributes.end_time DESC"]))


def candidates(client: MlflowClient, experiment_ids: list[str], which: str) -> Iterator[StoredRun]:
    """Runs whose id begins with ``which`` or whose name equals it; a full id gives that run alone."""
    seen = set()
    queries = []
    if re.fullmatch("[0-9a-f]{3,32}", which):
        queries.append(f"attributes.run_id LIKE '{which}%'")
    quote = next((mark for mark in "'\"" if mark not in which), None)
    if quote is not None:
        queries.append(f"attributes.run_name = {quote}{which}{quote}")
    for query in queries:
        for run in client.search_runs(experiment_ids, query, order_by=["attributes.start_time DESC"]):
            if run.info.run_id not in seen:
                seen.add(run.info.run_id)
                yield run
            if run.info.run_id == which:
                return


def record_of(run: StoredRun, uri: str, client: MlflowClient) -> RunRecord:
    """Plain values of a stored run, under the names of today."""
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        tags=under_new_names(run.data.tags, RENAMED_METRICS, "omitted."),
        params=under_new_names(run.data.params, RENAMED_PARAMS),
        metrics=under_new_names(run.data.metrics, RENAMED_METRICS),
        uri=uri,
        client=client,
    )
