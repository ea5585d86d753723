"""What MLflow, its database and the network raise, as one line with the cause and the remedy.

The requests to a server are bounded here too: MLflow alone waits minutes for one that hangs.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from geovq.errors import GeoVQError, TrackingError
from geovq.tracking.address import database_path, without_password

WAIT_SECONDS = 60.0
"""How long to wait for a store where ``tracking.wait_seconds`` is not at hand."""
AGAIN = ", and give the same command again: it records what is finished"
"""The end of a message to somebody whose job is over."""
DRIVER_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}


@contextmanager
def tracking_errors(uri: str, action: str, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Turn what goes wrong with a store into one line that names it; no request takes over ``wait`` seconds."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with bounded_requests(wait):
            yield
    except GeoVQError:
        raise
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ModuleNotFoundError) as error:
        message = f"tracking at {uri}: cannot {action}: {_explain(error, uri)}"
        raise TrackingError(without_password(message)) from error


@contextmanager
def bounded_requests(seconds: float) -> Iterator[None]:
    """Give MLflow's HTTP requests these seconds in all; what the person has set in the environment counts first."""
    # One more try at once, since a server may close a connection that was kept open.
    bounds = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, int(seconds / 2)))}
    ours = {name: value for name, value in bounds.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _explain(error: Exception, uri: str) -> str:
    """The cause of an error and, where there is one, the remedy, on one line."""
    from filelock import Timeout

    reason, file = cause_of(error), database_path(uri)
    if isinstance(error, ModuleNotFoundError):
        package = DRIVER_PACKAGES.get(error.name or "", error.name)
        return f"the driver {error.name!r} of such databases is not installed: pip install '{package}'"
    if "Max retries exceeded" in reason or "timeout exception" in reason:
        if status := re.search(r"too many (\d+) error responses", reason):
            return f"the server answers with error {status[1]} again and again; its log says why"
        return "the server does not answer; start it, or set tracking.uri=null for the local database"
    if "mlflow db upgrade" in reason:
        return f"the database is of another MLflow version; back it up, then run: mlflow db upgrade {shlex.quote(uri)}"
    if file is None:
        return reason
    if isinstance(error, Timeout) or "is locked" in reason:
        holders = shlex.join(["fuser", "-v", str(file), f"{file}.lock"])
        remedy = f"let it end, or be waited for longer (tracking.wait_seconds){AGAIN}"
        return f"another process keeps {file} locked ({holders} shows which); {remedy}"
    if "is full" in reason:
        return f"{reason} ({file}); free some space{AGAIN}"
    if "unable to open database file" in reason and not file.exists():
        return f"{file} is gone; put it back, or have a new one made{AGAIN}"
    if "not a database" in reason or "malformed" in reason:
        return f"{file} cannot be read ({reason}); move it aside, a new one is made"
    return reason


def cause_of(error: Exception) -> str:
    """What a database, server or disk said, on one line, without the statement it was said about."""
    text = re.sub(r"\(raised as a result of [^)]*\)", "", str(error))
    text = re.sub(r"(?s)^\s*\(\w+\.\w+\)|\[SQL:.*|\(Background on this error.*", "", text)
    return "; ".join(filter(None, map(str.strip, text.splitlines())))[:500] or type(error).__name__


def may_pass(failure: TrackingError) -> bool:
    """Whether the same call may succeed a little later: no answer, a full disk, a database that is busy."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    cause = failure.__cause__
    if isinstance(cause, MlflowException):
        return cause.error_code in ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR")
    return isinstance(cause, RequestException) or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
