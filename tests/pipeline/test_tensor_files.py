"""Tensors written part by part are those written at once, to the byte, and are there whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import geovq
from geovq.errors import ArtifactError
from geovq.pipeline.artifacts import ArtifactStore, ArtifactWriter
from geovq.pipeline.tensor_files import written


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shapes", [{"mean": (5, 2, 3), "log_variance": (5, 2, 3)}, {"a": (7,)}, {"none": (0, 4)}])
def test_a_file_has_the_bytes_of_safetensors(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype
) -> None:
    wanted = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    save_file(wanted, tmp_path / "at_once.safetensors")
    with written(tmp_path / "in_parts.safetensors", shapes, dtype) as tensors:
        for name, tensor in tensors.items():
            assert not tensor.any()
            for row in reversed(range(len(tensor))):  # in any order
                tensor[row] = wanted[name][row]
    assert (tmp_path / "in_parts.safetensors").read_bytes() == (tmp_path / "at_once.safetensors").read_bytes()


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), written(tmp_path / "x.safetensors", {"a": (3,)}, torch.float32):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from geovq.pipeline.artifacts import ArtifactStore

def write(out):
    with out.written("train", {"packed": (1000, 10)}, torch.float32) as tensors:
        tensors["packed"][:500] = 1
        os.kill(os.getpid(), signal.SIGKILL)

ArtifactStore(Path(sys.argv[1])).build("metric_tensors", "0" * 16, {}, {}, write)
"""


def test_a_build_that_is_killed_in_the_middle_is_none(tmp_path: Path) -> None:
    source = str(Path(geovq.__file__).parents[1])
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    ended = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": source})
    assert ended.returncode == -signal.SIGKILL
    store, key = ArtifactStore(tmp_path), "0" * 16
    assert [path.name for path in (store.directory("metric_tensors", key).with_suffix(".tmp")).iterdir()] == [
        "train.safetensors.part"
    ]
    assert store.find("metric_tensors", key) is None

    def write(out: ArtifactWriter) -> None:
        with out.written("train", {"packed": (1000, 10)}, torch.float32) as tensors:
            tensors["packed"][:] = 2

    artifact = store.build("metric_tensors", key, {}, {}, write)
    assert list(artifact.files) == ["train.safetensors"]
    assert torch.equal(load_file(artifact.path("train.safetensors"))["packed"], torch.full((1000, 10), 2.0))


def test_a_disk_without_room_is_one_line_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(out: ArtifactWriter) -> None:
        with out.written("train", {"packed": (1000, 10)}, torch.float32):
            raise AssertionError("the block was entered")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ArtifactError, match=r"the disk is full while writing .*free some space"):
        ArtifactStore(tmp_path).build("metric_tensors", "0" * 16, {}, {}, write)
