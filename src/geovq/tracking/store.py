"""Where runs are kept: opening the store of an address, its database, and writing to it.

MLflow's creation of a sqlite database cannot stand two processes at once, and it retries one that it cannot open for
minutes: both happen under a file lock beside the database, which is tried before MLflow sees it.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from geovq.command_line import CONFIGS
from geovq.errors import TrackingError
from geovq.locks import lock_at
from geovq.tracking.address import SERVER_SCHEMES, artifact_location, database_path, sqlite_uri, without_password
from geovq.tracking.faults import WAIT_SECONDS, tracking_errors

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SILENT_SECONDS = 6.0
"""After so long a wait the person is told of it."""
QUIET_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A connection kept open would go on with a database file that was deleted or put back meanwhile.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
VIEW_TAG = "mlflow.sharedViewState.geovq"
PARAM_COLUMNS = ("data.name", "quantizer.name", "quantizer.K", "assign.name", "finetune.name", "seed")

logger = logging.getLogger(__name__)


@contextmanager
def writing(uri: str, action: str, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Around the writes of one action, which begin once nobody else writes, within ``wait`` seconds.

    Sqlite fails at once, whatever its time-out, when two open transactions both go from reading to writing: MLflow's
    do.
    """
    file = database_path(uri)
    with tracking_errors(uri, action, wait):
        if file is None:
            yield
            return
        deadline = time.monotonic() + wait
        with lock_at(file.with_name(f"{file.name}.lock"), wait):
            # Of programs that know no such lock MLflow would wait for 20 seconds, and it would make anew a
            # database that was deleted.
            _try_database(file, "BEGIN IMMEDIATE", deadline - time.monotonic())
            yield


def _try_database(file: Path, statement: str, wait: float) -> None:
    """Execute a statement without consequences on an existing database, waiting while another process holds it."""

    def execute(wait: float) -> None:
        mode = "ro" if statement.startswith("SELECT") else "rw"
        with closing(sqlite3.connect(f"{file.as_uri()}?mode={mode}", uri=True, timeout=max(wait, 0.01))) as connection:
            connection.execute(statement).fetchone()

    silent = min(wait, SILENT_SECONDS)
    try:
        execute(silent)
    except sqlite3.OperationalError as error:
        if "is locked" not in str(error) or silent == wait:
            raise
        logger.warning("another process keeps %s locked; waiting up to %.0f s for it", file, wait - silent)
        execute(wait - silent)


def open_client(uri: str, root: Path, wait: float = WAIT_SECONDS) -> MlflowClient:
    """Client for an address from `resolve_uri`; a missing sqlite database is created, once, under the lock.

    Raises TrackingError when it is damaged, locked for ``wait`` seconds, of another version, or cannot be written.
    """
    _quiet_mlflow()
    with tracking_errors(uri, "open the database", wait):
        from mlflow.tracking import MlflowClient

        file = database_path(uri)
        if file is None:
            if not uri.lower().startswith(SERVER_SCHEMES):
                _try_server(uri)
            return MlflowClient(tracking_uri=uri)
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # seconds, not to pass under the lock

        file.parent.mkdir(parents=True, exist_ok=True)
        # The other jobs of a sweep create it or open it one by one.
        with lock_at(file.with_name(f"{file.name}.lock"), 2 * wait):
            if file.exists():
                _try_database(file, "SELECT count(*) FROM sqlite_master", wait)
            else:
                # Beside its place first: a killed creation leaves none. By MLflow's store rather than its client,
                # which would send the artifacts of MLflow's default experiment to ./mlruns.
                unfinished = file.with_name(f".{file.name}.unfinished")
                unfinished.unlink(missing_ok=True)
                SqlAlchemyStore(sqlite_uri(unfinished), artifact_location(uri, root)).engine.dispose()
                unfinished.replace(file)
            return MlflowClient(tracking_uri=uri)


def _try_server(uri: str) -> None:
    """Connect once to a database server: MLflow would try for minutes where it, or its driver, is not there."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    except ValueError as error:
        raise TrackingError(f"tracking.uri={without_password(uri)!r} is no address of a database: {error}") from error
    engine.connect().close()


def ensure_experiment(client: MlflowClient, uri: str, name: str, root: Path, wait: float = WAIT_SECONDS) -> str:
    """Id of the experiment ``name``, created when missing (once, whoever comes first).

    Raises TrackingError when the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    with writing(uri, f"open the experiment {name!r}", wait):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                client.create_experiment(name, artifact_location=artifact_location(uri, root))
            except MlflowException as error:
                # On a server another process may have been first; there is no lock to hold.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage == "deleted":
            remedy = "restore it (mlflow experiments restore) or choose another name"
            raise TrackingError(f"tracking.experiment={name!r} was deleted at {without_password(uri)}; {remedy}")
        if experiment.tags.get(VIEW_TAG) != saved_view():
            # A server may forbid this to somebody who may record runs.
            with suppress(MlflowException):
                client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, saved_view())
        return str(experiment.experiment_id)


def saved_view() -> str:
    """Value of the experiment tag `VIEW_TAG`: filter, order and columns of the table of runs, as JSON.

    MLflow's own table has no metric column, and hides the jobs of a multirun. This saved view shows the headlines among
    the scores, best PSNR first (``scripts/mlflow_ui.sh`` prints the link); columns of scores that no run has are not
    drawn.
    """
    from geovq.evaluation.evaluators import SCORES

    data_sets = sorted(path.stem for path in (CONFIGS / "data").glob("[!_]*.yaml"))
    names = [score.name for score in SCORES if score.headline]
    scores = dict.fromkeys(name.replace("<data>", data) for name in names for data in data_sets)
    columns = [f"params.`{name}`" for name in PARAM_COLUMNS] + [f"metrics.`{name}`" for name in scores]
    ordered = {"orderByKey": "metrics.`psnr`", "orderByAsc": False, "selectedColumns": columns}
    return json.dumps({"searchFilter": "tags.`geovq.kind` = 'train'"} | ordered)


def _quiet_mlflow() -> None:
    """Switch off MLflow's telemetry and chatter; what the person has set in the environment stays."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow.tracking  # noqa: F401  (the import installs the handlers that are silenced below)

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        # What the last two tell of arrives here as exceptions.
        levels = {"mlflow": "WARNING", "mlflow.store.db.utils": "CRITICAL", "urllib3.connectionpool": "ERROR"}
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
