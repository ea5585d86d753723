from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geovq.errors import ArtifactError
from geovq.pipeline.artifacts import ArtifactStore, ArtifactWriter, DamagedArtifactError, artifact_key

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


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_visible_damage_is_set_aside(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = build(tmp_path)
    folder = tmp_path / "artifacts/stage/0123"
    if damage == "truncate":
        (folder / "weights.safetensors").write_bytes(b"short")
    elif damage == "remove":
        (folder / "summary.json").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    assert store.find("stage", "0123") is None
    assert "set aside" in capsys.readouterr().err
    assert len(list(folder.parent.glob("0123.damaged-*"))) == 1
    assert store.build("stage", "0123", SETTINGS, {}, write).json("summary") == {"answer": 42}


def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    def full(out: ArtifactWriter) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtifactError, match="disk is full while writing"):
        ArtifactStore(tmp_path).build("stage", "0123", SETTINGS, {}, full)
    assert not (tmp_path / "artifacts/stage/0123.tmp").exists()


def _slow_build(root: str, log: str) -> None:
    def slow(out: ArtifactWriter) -> None:
        with Path(log).open("a") as file:
            file.write("built\n")
        time.sleep(0.5)
        write(out)

    ArtifactStore(Path(root)).build("stage", "0123", SETTINGS, {}, slow)


def test_parallel_processes_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_slow_build, args=(str(tmp_path), str(log))) for _ in range(3)]
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
