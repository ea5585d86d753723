from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geovq.errors import ArtifactError
from geovq.pipeline.artifacts import ArtifactStore, ArtifactWriter, artifact_key
from geovq.pipeline.manifest import DamagedArtifactError
from slow_build import slow_build

SETTINGS = {"steps": 3}


def write(out: ArtifactWriter) -> None:
    out.tensors("weights", {"w": torch.arange(6.0).reshape(2, 3)})
    out.json("summary", {"answer": 42})


def build(root: Path) -> ArtifactStore:
    store = ArtifactStore(root)
    store.build("stage", "0123", SETTINGS, {"data": "k"}, write)
    return store


def test_round_trip_and_manifest(tmp_path: Path) -> None:
    artifact = build(tmp_path).find("stage", "0123")
    assert artifact is not None
    artifact.verify()
    assert artifact.tensors("weights")["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert artifact.json("summary") == {"answer": 42}
    assert artifact.manifest["settings"] == SETTINGS
    assert artifact.manifest["inputs"] == {"data": "k"}
    assert set(artifact.manifest["files"]) == {"weights.safetensors", "summary.json"}


def test_a_finished_artifact_is_not_built_again(tmp_path: Path) -> None:
    store = build(tmp_path)

    def fail(out: ArtifactWriter) -> None:
        raise AssertionError("built twice")

    assert store.build("stage", "0123", SETTINGS, {}, fail).json("summary") == {"answer": 42}


def test_failure_leaves_no_artifact_but_keeps_scratch(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def interrupted(out: ArtifactWriter) -> None:
        (out.scratch / "checkpoint").write_text("step 7")
        out.json("half", 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build("stage", "0123", SETTINGS, {}, interrupted)
    assert store.find("stage", "0123") is None
    seen: list[str] = []

    def resumed(out: ArtifactWriter) -> None:
        seen.append((out.scratch / "checkpoint").read_text())
        write(out)

    artifact = store.build("stage", "0123", SETTINGS, {}, resumed)
    assert seen == ["step 7"]
    assert not artifact.has("half.json")
    assert not (tmp_path / "artifacts/stage/0123.partial").exists()


def test_changed_bytes_are_noticed(tmp_path: Path) -> None:
    store = build(tmp_path)
    path = tmp_path / "artifacts/stage/0123/weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    artifact = store.find("stage", "0123")
    assert artifact is not None
    with pytest.raises(DamagedArtifactError, match=r"weights\.safetensors differs"):
        artifact.verify()


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("checksum", None)  # as those written before there was one: each fault has to be seen by itself
    changed = change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest if changed is None else changed))


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


RECORD = {"bytes": 1, "sha256": "0"}
DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated file": lambda folder: (folder / "weights.safetensors").write_bytes(b"short"),
    "file gone": lambda folder: (folder / "summary.json").unlink(),
    "no JSON": lambda folder: (folder / "manifest.json").write_text("{"),
    "no text": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "manifest is a folder": lambda folder: ((folder / "manifest.json").unlink(), (folder / "manifest.json").mkdir()),
    "a list": lambda folder: edit(folder, lambda manifest: [1]),
    "null": lambda folder: (folder / "manifest.json").write_text("null"),
    "files null": lambda folder: edit(folder, lambda manifest: manifest.update(files=None)),
    "files a list": lambda folder: edit(folder, lambda manifest: manifest.update(files=["weights.safetensors"])),
    "no files": lambda folder: edit(folder, lambda manifest: manifest.update(files={})),
    "no inputs": lambda folder: edit(folder, lambda manifest: manifest.pop("inputs") and None),
    "no sha256": lambda folder: edit(folder, lambda manifest: manifest["files"]["summary.json"].pop("sha256") and None),
    "bytes a text": lambda folder: edit(folder, lambda manifest: manifest["files"]["summary.json"].update(bytes="12")),
    "record null": lambda folder: edit(folder, lambda manifest: manifest["files"].update({"summary.json": None})),
    "a path": lambda folder: edit(
        folder, lambda manifest: manifest["files"].update({"../x": {"bytes": 1, "sha256": ""}})
    ),
    "another key": lambda folder: edit(folder, lambda manifest: manifest.update(key="4567")),
    "another stage": lambda folder: edit(folder, lambda manifest: manifest.update(stage="other")),
    "an entry lost": lambda folder: (folder / "manifest.json").write_text(
        re.sub(r'"summary.json": {[^}]*},', "", (folder / "manifest.json").read_text())
    ),
    "a file": replace_by_file,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_visible_damage_of_any_kind_is_set_aside(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = build(tmp_path)
    folder = tmp_path / "artifacts/stage/0123"
    DAMAGE[damage](folder)
    assert store.find("stage", "0123") is None
    told = capsys.readouterr().err
    assert "set aside" in told
    assert len(told.splitlines()) == 1
    assert len(list(folder.parent.glob("0123.damaged-*"))) == 1
    assert store.build("stage", "0123", SETTINGS, {}, write).json("summary") == {"answer": 42}


def test_swapped_folders_are_both_set_aside(tmp_path: Path) -> None:
    store = build(tmp_path)
    store.build("stage", "4567", {"steps": 4}, {}, write)
    folder = tmp_path / "artifacts/stage"
    (folder / "0123").rename(folder / "spare")
    (folder / "4567").rename(folder / "0123")
    (folder / "spare").rename(folder / "4567")
    assert store.find("stage", "0123") is None
    assert store.find("stage", "4567") is None
    assert len(list(folder.glob("*.damaged-*"))) == 2


@pytest.mark.parametrize("ending", ["tmp", "partial"])
def test_a_file_where_a_folder_belongs_is_set_aside(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "artifacts/stage").mkdir(parents=True)
    (tmp_path / f"artifacts/stage/0123.{ending}").write_text("a file")
    build(tmp_path)
    assert "is no folder; set aside" in capsys.readouterr().err
    [aside] = (tmp_path / "artifacts/stage").glob("*.damaged-*")
    assert aside.read_text() == "a file"


def test_a_folder_where_the_lock_belongs_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "artifacts/stage/0123.lock/inside").mkdir(parents=True)
    build(tmp_path)
    assert "is no lock file; set aside" in capsys.readouterr().err
    assert len(list((tmp_path / "artifacts/stage").glob("0123.lock.damaged-*/inside"))) == 1


def test_what_another_process_has_built_anew_is_not_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see the damage; the second comes to the lock when the first has mended it."""
    store = build(tmp_path)
    folder = tmp_path / "artifacts/stage/0123"
    (folder / "summary.json").unlink()
    held = ArtifactStore._held

    def after_the_other(self: ArtifactStore, directory: Path) -> Any:
        monkeypatch.setattr(ArtifactStore, "_held", held)
        build(tmp_path)
        return held(self, directory)

    monkeypatch.setattr(ArtifactStore, "_held", after_the_other)
    found = store.find("stage", "0123")
    assert found is not None
    found.verify()
    assert len(list(folder.parent.glob("0123.damaged-*"))) == 1


@pytest.mark.parametrize("place", ["artifacts", "artifacts/stage"])
def test_a_file_above_the_artifact_is_one_clear_error(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("a file")
    with pytest.raises(ArtifactError, match=r"cannot use .*0123: .*choose another paths\.root"):
        build(tmp_path)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_what_the_disk_refuses_is_one_clear_error(tmp_path: Path, number: int) -> None:
    def refuse(out: ArtifactWriter) -> None:
        raise OSError(number, os.strerror(number), str(out.directory / "weights"))

    with pytest.raises(ArtifactError, match=os.strerror(number)):
        ArtifactStore(tmp_path).build("stage", "0123", SETTINGS, {}, refuse)


def test_what_cannot_be_read_elsewhere_is_no_fault_of_the_store(tmp_path: Path) -> None:
    def elsewhere(out: ArtifactWriter) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/data/images")

    with pytest.raises(PermissionError):
        ArtifactStore(tmp_path).build("stage", "0123", SETTINGS, {}, elsewhere)


def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    def full(out: ArtifactWriter) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtifactError, match="disk is full while writing"):
        ArtifactStore(tmp_path).build("stage", "0123", SETTINGS, {}, full)
    assert not (tmp_path / "artifacts/stage/0123.tmp").exists()


@pytest.mark.parametrize("locks", ["flock", "lease"])
def test_parallel_processes_build_once(tmp_path: Path, locks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOVQ_LOCKS", locks)
    log = tmp_path / "log"
    forked = multiprocessing.get_context("fork")  # which has imported all already
    processes = [forked.Process(target=slow_build, args=(str(tmp_path), str(log))) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert log.read_text() == "built\n"


@given(
    st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False) | st.text(max_size=5), max_size=5)
)
def test_key_ignores_order_and_sees_every_value(settings: dict[str, object]) -> None:
    reverse = dict(reversed(list(settings.items())))
    key = artifact_key("vae", 1, settings, {"a": "1"})
    assert key == artifact_key("vae", 1, reverse, {"a": "1"})
    assert key != artifact_key("vae", 2, settings, {"a": "1"})
    assert key != artifact_key("vae", 1, settings | {"extra key": 1}, {"a": "1"})
    assert key != artifact_key("vae", 1, settings, {"a": "2"})


def test_manifest_is_plain_json(tmp_path: Path) -> None:
    build(tmp_path)
    manifest = json.loads((tmp_path / "artifacts/stage/0123/manifest.json").read_text())
    assert manifest["seconds"] >= 0
    assert "torch" in manifest["versions"]
