from __future__ import annotations

import logging
import re
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import yaml

from geovq.errors import TrackingError
from geovq.tracking import find_run, start_run
from geovq.tracking.address import artifact_location, database_path, resolve_uri, without_password
from geovq.tracking.faults import tracking_errors
from geovq.tracking.store import ensure_experiment, open_client

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "tracking"


def test_default_is_an_absolute_database_under_the_root(tmp_path, monkeypatch):
    assert resolve_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None, Path("experiments")) == f"sqlite:///{tmp_path}/experiments/mlflow.db"
    assert resolve_uri("sqlite:///here.db", Path("/elsewhere")) == f"sqlite:///{tmp_path}/here.db"


@pytest.mark.parametrize(
    "uri",
    [
        "http://server:5000",
        "https://user:word@server/mlflow",
        "postgresql+psycopg2://u@h/db",
        "sqlite:////a/b.db",
    ],
)
def test_servers_and_databases_pass_unchanged(uri):
    assert resolve_uri(uri, Path("/root")) == uri


@pytest.mark.parametrize("name", ["a%20b", "100%", "a?b#c", "a%3Fb&c=d", "a b;c", "[x]@y:z", "~", "ü'\"", ":memory:"])
def test_any_name_of_a_folder_is_a_root(prepared, settings, tmp_path, name):
    root = tmp_path / name
    root.mkdir()
    shutil.copy(prepared, root / "mlflow.db")
    assert database_path(resolve_uri(None, root)) == root / "mlflow.db"
    assert resolve_uri(resolve_uri(None, root), tmp_path) == resolve_uri(None, root)
    with start_run(settings, root, "run", {"geovq.kind": "train"}) as run:
        run.log_dict({"K": 16}, "config.json")
    found = find_run(settings, root, "latest")
    assert found.run_id == run.run_id
    assert found.load_dict("config.json") == {"K": 16}
    assert sorted(path.name for path in root.iterdir()) == ["mlartifacts", "mlflow.db", "mlflow.db.lock"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_address_that_is_typed_is_a_uri():
    assert database_path(resolve_uri("sqlite:////my%20runs/a%3Fb.db?timeout=5", Path("/root"))) == Path(
        "/my runs/a?b.db"
    )
    with pytest.raises(TrackingError) as caught:
        resolve_uri("/runs/a?b/mlflow.db", Path("/root"))
    suggested = re.search(r"tracking\.uri=(sqlite:\S+),", str(caught.value))[1]
    assert database_path(suggested) == Path("/runs/a?b/mlflow.db")


@pytest.mark.parametrize(
    ("uri", "package"),
    [
        ("postgresql://me@host/runs", "psycopg"),
        ("mysql://me@host/runs", "mysqlclient"),
        ("mssql+pymssql://h/r", "pymssql"),
    ],
)
def test_a_database_without_its_driver_names_the_package(tmp_path, settings, monkeypatch, uri, package):
    for name in ("psycopg", "psycopg2", "MySQLdb", "pymssql"):
        monkeypatch.setitem(sys.modules, name, None)
    settings.uri = uri
    with pytest.raises(TrackingError, match=rf"is not installed: pip install '{package}") as caught:
        start_run(settings, tmp_path, "run", {})
    assert "\n" not in str(caught.value)


def test_an_address_of_no_database_is_one_line(tmp_path, settings):
    settings.uri = "postgresql://me:secret@host:port/runs"
    with pytest.raises(TrackingError, match="is no address of a database") as caught:
        start_run(settings, tmp_path, "run", {})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["./mlruns", "mlruns", "/data/mlruns", "file:///data/mlruns", "file:./mlruns", ""])
def test_file_stores_are_refused_with_the_remedy(uri):
    with pytest.raises(TrackingError, match="store is closed since") as caught:
        resolve_uri(uri, Path("/root"))
    message = str(caught.value)
    assert repr(uri) in message
    assert "sqlite:////" in message
    assert "\n" not in message


def test_a_path_to_a_database_is_answered_with_its_uri(tmp_path):
    with pytest.raises(TrackingError, match=f"use tracking.uri=sqlite:///{tmp_path}/my.db,"):
        resolve_uri(str(tmp_path / "my.db"), tmp_path)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///", "ftp://server", "databricks://x"])
def test_unusable_schemes_are_refused(uri):
    with pytest.raises(TrackingError, match=r"tracking\.uri="):
        resolve_uri(uri, Path("/root"))


def test_passwords_are_not_shown():
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert without_password("http://host:5000/a@b") == "http://host:5000/a@b"
    with pytest.raises(TrackingError) as caught, tracking_errors("http://me:secret@host", "write"):
        raise OSError("no answer from http://me:secret@host/api\nmore")
    assert (
        str(caught.value) == "tracking at http://me:***@host: cannot write: no answer from http://me:***@host/api; more"
    )


def test_artifacts_lie_beside_the_database_and_a_server_decides_itself(tmp_path):
    assert artifact_location("sqlite:////data/my runs/mlflow.db", tmp_path) == "file:///data/my%20runs/mlartifacts"
    assert artifact_location("postgresql://host/db", tmp_path) == f"file://{tmp_path}/mlartifacts"
    assert artifact_location("https://server", tmp_path) is None
    assert database_path("https://server") is None


def test_database_is_created_whole_and_without_noise(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "new folder a%41?b"
    uri = resolve_uri(None, root)
    root.mkdir()
    (root / ".mlflow.db.unfinished").write_text("a creation that was killed")
    handlers = list(logging.getLogger().handlers)
    client = open_client(uri, root)
    experiment = client.get_experiment(ensure_experiment(client, uri, "mine", root))
    assert experiment.artifact_location == (root / "mlartifacts").as_uri()
    assert ensure_experiment(client, uri, "mine", root) == experiment.experiment_id
    assert sorted(path.name for path in root.iterdir()) == ["mlflow.db", "mlflow.db.lock"]
    assert [path.name for path in tmp_path.iterdir()] == ["new folder a%41?b"]  # no ./mlruns
    assert logging.getLogger().handlers == handlers
    output = capfd.readouterr()
    assert output.out + output.err == ""


def test_damaged_database_is_refused_at_once(tmp_path):
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"not a database at all" * 100)
    with pytest.raises(TrackingError, match=f"{file} cannot be read"):
        open_client(f"sqlite:///{file}", tmp_path)
    assert file.read_bytes().startswith(b"not a database")


def test_database_of_another_version_names_the_command(root, client, tmp_path):
    source, target = sqlite3.connect(root / "mlflow.db"), sqlite3.connect(tmp_path / "old.db")
    with target:
        source.backup(target)
        target.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    source.close()
    target.close()
    with pytest.raises(TrackingError, match=f"mlflow db upgrade sqlite:///{tmp_path}/old.db"):
        open_client(f"sqlite:///{tmp_path}/old.db", tmp_path)


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="cannot open the database"):
        open_client(f"sqlite:///{tmp_path}/file/mlflow.db", tmp_path)


def test_deleted_experiment_is_named(root, client, settings):
    uri = resolve_uri(None, root)
    client.delete_experiment(ensure_experiment(client, uri, settings.experiment, root))
    with pytest.raises(TrackingError, match=r"was deleted .*restore it"):
        ensure_experiment(client, uri, settings.experiment, root)


def test_server_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://127.0.0.1:9"
    with pytest.raises(TrackingError, match="the server does not answer"):
        ensure_experiment(open_client(uri, tmp_path), uri, "any", tmp_path)


def test_both_configs_have_the_same_keys():
    on, off = (yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("mlflow", "none"))
    assert on | {"enabled": False} == off
