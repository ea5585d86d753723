"""Where runs are kept: the tracking address, its database and its artifact folder.

MLflow closed its file store in version 3.13, creates a fresh sqlite database in a migration that cannot
stand two processes at once, and retries a damaged database for most of an hour. So every address is made
absolute here, creation and writing happen under one file lock beside the database, and a database that
cannot be read is refused before MLflow sees it.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from geovq.errors import GeoVQError, TrackingError
from geovq.tracking.view import VIEW_TAG, saved_view

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DATABASE_NAME = "mlflow.db"
ARTIFACT_FOLDER = "mlartifacts"
SQLITE_PREFIX = "sqlite:///"
SERVER_SCHEMES = ("http", "https")
DATABASE_SCHEMES = ("postgresql", "mysql", "mssql")
LOCK_SECONDS = 120.0
QUIET_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Seven retries with doubling pauses (the default) hide an unreachable server for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


class TrackingSettings(Protocol):
    """The config group ``tracking``, with attribute access (a validated model or a DictConfig)."""

    @property
    def enabled(self) -> bool:
        """Whether anything is recorded."""

    @property
    def uri(self) -> str | None:
        """Tracking address; None for the sqlite database under the experiments root."""

    @property
    def experiment(self) -> str:
        """Name of the MLflow experiment that holds the runs."""

    @property
    def run_name(self) -> str | None:
        """Name of the run; None for the name the caller derives."""

    @property
    def log_every(self) -> int:
        """Training steps between two recorded points of a curve."""


def resolve_uri(uri: str | None, root: Path) -> str:
    """Absolute tracking address for ``tracking.uri``; ``root`` is the experiments root.

    None gives the sqlite database under ``root``. Servers (http, https) and the databases MLflow speaks
    pass unchanged; relative sqlite paths become absolute. Raises TrackingError for anything else.
    """
    if uri is None:
        return f"{SQLITE_PREFIX}{root.expanduser().absolute() / DATABASE_NAME}"
    if uri.startswith("sqlite:"):
        path = uri.removeprefix(SQLITE_PREFIX)
        if not uri.startswith(SQLITE_PREFIX) or not path or ":memory:" in path:
            raise TrackingError(f"tracking.uri={uri!r} keeps nothing on disk; use sqlite:////absolute/path.db or null")
        return f"{SQLITE_PREFIX}{Path(path).expanduser().absolute()}"
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.lower().split("+")[0] in (*SERVER_SCHEMES, *DATABASE_SCHEMES):
        return uri
    if separator and scheme.lower() != "file":
        allowed = ", ".join(("sqlite", *SERVER_SCHEMES, *DATABASE_SCHEMES))
        raise TrackingError(f"tracking.uri={without_password(uri)!r} has an unknown scheme; allowed are {allowed}")
    folder = Path(re.sub("^file:(//)?", "", uri)).expanduser().absolute()
    file = folder if folder.suffix == ".db" else folder / DATABASE_NAME
    raise TrackingError(
        f"tracking.uri={uri!r} is a path, and MLflow's file store is closed since 3.13;"
        f" use tracking.uri={SQLITE_PREFIX}{file}, an http(s) server, or null for the default database"
    )


def without_password(uri: str) -> str:
    """The address as it may be shown: a password in it is replaced by ``***``."""
    return re.sub(r"(://[^/:@]*):[^@/]*@", r"\1:***@", uri)


def database_path(uri: str) -> Path | None:
    """File of a sqlite address, None for servers and other databases."""
    if not uri.startswith(SQLITE_PREFIX):
        return None
    return Path(uri.removeprefix(SQLITE_PREFIX).partition("?")[0])


def artifact_location(uri: str, root: Path) -> str | None:
    """URI of the folder for artifacts: beside a sqlite database, under ``root`` for other databases.

    None for a server, which decides for itself.
    """
    if urlsplit(uri).scheme in SERVER_SCHEMES:
        return None
    file = database_path(uri)
    folder = root.expanduser().absolute() if file is None else file.parent
    return (folder / ARTIFACT_FOLDER).as_uri()


def write_lock(uri: str) -> AbstractContextManager[object]:
    """Lock between processes that write one sqlite database; nothing for servers.

    Sqlite fails at once, whatever its time-out, when two open transactions both go from reading to
    writing, and MLflow's do.
    """
    file = database_path(uri)
    if file is None:
        return nullcontext()
    from filelock import FileLock

    return FileLock(f"{file}.lock", timeout=LOCK_SECONDS)


@contextmanager
def tracking_errors(uri: str, action: str) -> Iterator[None]:
    """Turn the errors of MLflow, its database and the network into one line that names the address."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except GeoVQError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "Max retries exceeded" in reason:
            reason = "the server does not answer; start it, or set tracking.uri=null for the local database"
        if "mlflow db upgrade" in reason:
            reason = f"the database is of another MLflow version; back it up, then run: mlflow db upgrade {uri}"
        message = f"tracking at {uri}: cannot {action}: {reason[:500]}"
        raise TrackingError(without_password(message)) from error


def open_client(uri: str, root: Path) -> MlflowClient:
    """Client for an address from `resolve_uri`; a missing sqlite database is created, once, under the lock.

    Raises TrackingError when the database is damaged, of another version, or cannot be written.
    """
    quiet_mlflow()
    with tracking_errors(uri, "open the database"):
        from mlflow.tracking import MlflowClient

        file = database_path(uri)
        if file is None:
            return MlflowClient(tracking_uri=uri)
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_lock(uri):
            if file.exists():
                refuse_damaged(file)
            else:
                create_database(file, root)
            return MlflowClient(tracking_uri=uri)


def create_database(file: Path, root: Path) -> None:
    """Write a fresh database: beside its place first, so that a killed creation leaves none.

    Call it holding the lock.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    # Made here rather than by the client, which would send the artifacts of MLflow's own default
    # experiment to ./mlruns.
    location = artifact_location(f"{SQLITE_PREFIX}{file}", root)
    store = SqlAlchemyStore(f"{SQLITE_PREFIX}{unfinished}", location)
    store.engine.dispose()
    unfinished.replace(file)


def refuse_damaged(file: Path) -> None:
    """Raise TrackingError when an existing file is no readable sqlite database."""
    try:
        connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise TrackingError(
            f"tracking database {file} cannot be read ({error}); move it aside, a new one is made"
        ) from error


def ensure_experiment(client: MlflowClient, uri: str, name: str, root: Path) -> str:
    """Id of the experiment ``name``, created when missing (once, whoever comes first).

    Raises TrackingError when the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    with tracking_errors(uri, f"open the experiment {name!r}"), write_lock(uri):
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
            raise TrackingError(
                f"tracking.experiment={name!r} was deleted at {without_password(uri)};"
                " restore it (mlflow experiments restore) or choose another name"
            )
        if experiment.tags.get(VIEW_TAG) != saved_view():
            # A server may forbid this to somebody who may record runs.
            with suppress(MlflowException):
                client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, saved_view())
        return str(experiment.experiment_id)


def quiet_mlflow() -> None:
    """Switch off MLflow's telemetry and chatter; what the person has set in the environment stays."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow.tracking  # noqa: F401  (the import installs the handlers that are silenced below)

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        # Database errors arrive here as exceptions; the log would add a traceback.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
