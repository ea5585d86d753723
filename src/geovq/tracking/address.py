"""Tracking addresses: what ``tracking.uri`` may be, and the paths that stand in it.

Paths and URIs are converted by `sqlite_uri`, `database_path` and ``Path.as_uri`` alone, so that ``%``, ``?`` and ``#``
in the name of a folder are never read as another grammar.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from geovq.errors import TrackingError

DATABASE_NAME = "mlflow.db"
ARTIFACT_FOLDER = "mlartifacts"
SQLITE_PREFIX = "sqlite:///"
SERVER_SCHEMES = ("http", "https")
DATABASE_SCHEMES = ("postgresql", "mysql", "mssql")


def resolve_uri(uri: str | None, root: Path) -> str:
    """Absolute tracking address for ``tracking.uri``; None gives the sqlite database under the experiments root.

    Servers and other databases pass unchanged; relative sqlite paths become absolute. Raises TrackingError for all
    else.
    """
    if uri is None:
        return sqlite_uri(root / DATABASE_NAME)
    if uri.startswith("sqlite:"):
        path, mark, query = uri.removeprefix(SQLITE_PREFIX).partition("?")
        if not uri.startswith(SQLITE_PREFIX) or path in ("", ":memory:"):
            raise TrackingError(f"tracking.uri={uri!r} keeps nothing on disk; use sqlite:////absolute/path.db or null")
        return sqlite_uri(Path(unquote(path))) + mark + query
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.lower().split("+")[0] in (*SERVER_SCHEMES, *DATABASE_SCHEMES):
        return uri
    if separator and scheme.lower() != "file":
        allowed = ", ".join(("sqlite", *SERVER_SCHEMES, *DATABASE_SCHEMES))
        raise TrackingError(f"tracking.uri={without_password(uri)!r} has an unknown scheme; allowed are {allowed}")
    path = unquote(re.sub("^file:(//)?", "", uri)) if uri.startswith("file:") else uri
    folder = Path(path).expanduser().absolute()
    file = folder if folder.suffix == ".db" else folder / DATABASE_NAME
    instead = f"use tracking.uri={sqlite_uri(file)}, an http(s) server, or null for the default database"
    raise TrackingError(f"tracking.uri={uri!r} is a path, and MLflow's file store is closed since 3.13; {instead}")


def sqlite_uri(file: Path) -> str:
    """Address of a sqlite database; `database_path` gives the file back."""
    path = str(file.expanduser().absolute())
    # MLflow makes the folders of the address as it is spelled, before it is unquoted; without a slash there are none.
    return SQLITE_PREFIX + (quote(path, safe="") if "%" in path or "?" in path else path)


def database_path(uri: str) -> Path | None:
    """File of a sqlite address, None for servers and other databases."""
    if not uri.startswith(SQLITE_PREFIX):
        return None
    return Path(unquote(uri.removeprefix(SQLITE_PREFIX).partition("?")[0]))


def artifact_location(uri: str, root: Path) -> str | None:
    """URI of the folder for artifacts: beside a sqlite database, under ``root`` for other databases.

    None for a server, which decides for itself.
    """
    if urlsplit(uri).scheme in SERVER_SCHEMES:
        return None
    file = database_path(uri)
    folder = root.expanduser().absolute() if file is None else file.parent
    return (folder / ARTIFACT_FOLDER).as_uri()


def without_password(text: str) -> str:
    """A text as it may be shown: passwords in its addresses are replaced by ``***``."""
    return re.sub(r"(://[^/:@]*):[^@/]*@", r"\1:***@", text)
