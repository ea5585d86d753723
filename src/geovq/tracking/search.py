"""Finding several recorded runs: those that a filter keeps, the jobs of the last sweep, the parents of some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geovq.errors import ConfigError, TrackingError
from geovq.tracking.faults import tracking_errors
from geovq.tracking.lookup import KIND_TAG, RunRecord, open_experiment, record_of
from geovq.tracking.run import PARENT_TAG
from geovq.tracking.store import TrackingSettings

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

TRAINED = f"tags.`{KIND_TAG}` = 'train'"
_SWEEPS_LOOKED_AT = 20
OVERRIDES_TAG = "geovq.overrides"


def find_runs(settings: TrackingSettings, root: Path, query: str) -> list[RunRecord]:
    """The training runs that an MLflow filter keeps, of any status, in the order of their starts.

    A filter that names the tag ``geovq.kind`` itself is taken as it is.

    Raises:
        ConfigError: MLflow cannot read the filter.
        TrackingError: there is no database or no experiment.
    """
    client, uri, experiments = open_experiment(settings, root)
    full = query if KIND_TAG in query else " and ".join(part for part in (query, TRAINED) if part)
    try:
        with tracking_errors(uri, f"search runs with {query!r}"):
            return [record_of(run, uri, client) for run in _search(client, experiments, full)]
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
    client, uri, experiments = open_experiment(settings, root)
    with tracking_errors(uri, "look up the last sweep"):
        parents = client.search_runs(
            experiments,
            f"tags.`{KIND_TAG}` = 'multirun'",
            max_results=_SWEEPS_LOOKED_AT,
            order_by=["attributes.start_time DESC"],
        )
        for parent in parents:
            jobs = _search(client, experiments, f"{TRAINED} and tags.`{PARENT_TAG}` = '{parent.info.run_id}'")
            if any(job.info.status == "FINISHED" for job in jobs):
                return record_of(parent, uri, client), [record_of(job, uri, client) for job in jobs]
    return None


def sweep_overrides(records: Sequence[RunRecord]) -> list[str]:
    """The overrides of the sweeps that some runs were jobs of, each once."""
    found: dict[str, None] = {}
    parents = {record.tags[PARENT_TAG]: record for record in records if PARENT_TAG in record.tags}
    for run_id, record in parents.items():
        with tracking_errors(record.uri, f"read run {run_id}"):
            found[record.client.get_run(run_id).data.tags.get(OVERRIDES_TAG, "")] = None
    return [overrides for overrides in found if overrides]


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
