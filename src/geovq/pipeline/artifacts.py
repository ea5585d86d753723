"""Artifacts: what a stage has built, stored once under a key of its content's origin.

``<root>/artifacts/<stage>/<key>/`` holds ``manifest.json``, tensors in safetensors, JSON and pictures. It is written to
a temporary sibling, synced and renamed, under a file lock: it is there whole or not at all. What turns out to be at
fault is set aside, never deleted, and built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geovq.pipeline.disk import disk_errors, file_lock, make_folder, set_aside, sync
from geovq.pipeline.manifest import DamagedArtifactError, read_manifest, sha256_of, write_manifest
from geovq.pipeline.tensor_files import written

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

DATA_IN_KEY = ("name", "validation", "test_fraction", "image_size", "channels", "limit", "split_seed")
"""Settings of the data that the key of a stage holds beside the images' fingerprint: not where they lie."""


def artifact_key(stage: str, schema: int, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Sixteen hex digits that name what a stage builds from these settings and inputs."""
    record = {"stage": stage, "schema": schema, "settings": settings, "inputs": dict(inputs)}
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


Check = Callable[["Artifact"], None]
"""Raises DamagedArtifactError where a stored artifact is not to be used."""


class Artifact:
    """A finished artifact that passes a check, read only."""

    def __init__(self, directory: Path, check: Check = lambda artifact: None) -> None:
        self.directory, self.key = directory, directory.name
        self.manifest = read_manifest(directory)
        self.files: dict[str, dict[str, Any]] = self.manifest["files"]
        for name, record in self.files.items():
            path = directory / name
            if not path.is_file() or path.stat().st_size != record["bytes"]:
                raise DamagedArtifactError(directory, f"{name} is missing or has another size")
        check(self)

    def verify(self) -> None:
        """Compare every file with its recorded sha256."""
        for name, record in self.files.items():
            try:
                same = sha256_of(self.directory / name) == record["sha256"]
            except FileNotFoundError:  # another process has set it aside
                same = False
            if not same:
                raise DamagedArtifactError(self.directory, f"{name} differs from its checksum")

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(record["bytes"] for record in self.files.values())

    @property
    def tensors_digest(self) -> str:
        """Sixteen hex digits of all its tensors: what later stages compute with. Seconds and pictures do not count."""
        listed = [[name, self.files[name]["sha256"]] for name in sorted(self.files) if name.endswith(".safetensors")]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    def path(self, name: str) -> Path:
        """Path of one of the files."""
        return self.directory / name

    def has(self, name: str) -> bool:
        """Whether the artifact holds this file."""
        return name in self.files

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of ``<name>.safetensors``."""
        from safetensors.torch import load_file

        return load_file(self.path(f"{name}.safetensors"))

    def mapped(self, name: str, tensor: str) -> np.memmap | None:
        """One float32 tensor of ``<name>.safetensors`` as an array that is read from the disk where it is looked at;
        None where there is no such tensor.
        """
        path = self.path(f"{name}.safetensors")
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            described = json.loads(file.read(header)).get(tensor)
        if described is None:
            return None
        assert described["dtype"] == "F32"
        start, _ = described["data_offsets"]
        return np.memmap(path, "<f4", "c", 8 + header + start, tuple(described["shape"]))

    def json(self, name: str) -> Any:
        """Content of ``<name>.json``."""
        return json.loads(self.path(f"{name}.json").read_text())


class ArtifactWriter:
    """Collects the files of an artifact that is being built; ``origin`` is what the manifest is to say beside them.

    ``scratch`` is a folder that outlives a killed build: training keeps its checkpoints there.
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        self.directory, self.scratch = directory, scratch
        self.origin: dict[str, Any] = {}

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write ``<name>.safetensors``."""
        from safetensors.torch import save_file

        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(contiguous, self.directory / f"{name}.safetensors")

    def written(
        self, name: str, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
    ) -> AbstractContextManager[dict[str, Tensor]]:
        """Tensors of zeros that are ``<name>.safetensors``, filled in a ``with`` block; memory need not hold them."""
        return written(self.directory / f"{name}.safetensors", shapes, dtype)

    def json(self, name: str, value: Any) -> None:
        """Write ``<name>.json``."""
        (self.directory / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")

    def figure(self, name: str, figure: Figure) -> None:
        """Write ``<name>.png``."""
        figure.savefig(self.directory / f"{name}.png")


class ArtifactStore:
    """All artifacts below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root / "artifacts"

    def directory(self, stage: str, key: str) -> Path:
        """Where an artifact is, or would be."""
        return self.root / stage / key

    def find(self, stage: str, key: str, check: Check = lambda artifact: None) -> Artifact | None:
        """A finished artifact that passes the check, or None. One that is at fault is set aside first."""
        directory = self.directory(stage, key)
        if not os.path.lexists(directory):
            return None
        with disk_errors(directory):
            try:
                return Artifact(directory, check)
            except DamagedArtifactError:
                with self._held(directory):
                    return _sound(directory, check)

    def peek(self, stage: str, key: str) -> Artifact | None:
        """A finished artifact that looks whole, or None; nothing is moved."""
        directory = self.directory(stage, key)
        with disk_errors(directory):
            try:
                return Artifact(directory)
            except DamagedArtifactError:
                return None

    def build(
        self,
        stage: str,
        key: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        write: Callable[[ArtifactWriter], None],
        schema: int = 1,
        check: Check = lambda artifact: None,
    ) -> Artifact:
        """Build an artifact once, whoever asks first; others wait for it and read it.

        ``key`` was made from ``settings``, ``schema`` and ``inputs``, the keys of the artifacts that it is built from.
        ``write`` writes its files; ``check`` is what must hold for what another process has built in the meantime.

        Raises ArtifactError: when the disk is full or the folder cannot be written.
        """
        directory = self.directory(stage, key)
        origin = {"schema": schema, "settings": dict(settings), "inputs": dict(inputs)}
        with self._held(directory):
            return _sound(directory, check) or _build(directory, origin, write)

    @contextmanager
    def _held(self, directory: Path) -> Iterator[None]:
        """Hold the lock of an artifact; what the disk refuses is one line."""
        with disk_errors(directory):
            directory.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(directory.with_name(f"{directory.name}.lock"), f"{directory.parent.name} {directory.name}"):
                yield


def _sound(directory: Path, check: Check) -> Artifact | None:
    """What is there, looked at while the lock is held, so that nothing is moved that another process has just built."""
    if not os.path.lexists(directory):
        return None
    try:
        return Artifact(directory, check)
    except DamagedArtifactError as error:
        aside = set_aside(directory, error.word)
        print(f"warning: {error}; set aside as {aside.name} and built again", file=sys.stderr)
        return None


def _build(directory: Path, origin: Mapping[str, Any], write: Callable[[ArtifactWriter], None]) -> Artifact:
    """Write the artifact beside its place and rename it; the lock is held."""
    temporary, scratch = (directory.with_name(f"{directory.name}.{ending}") for ending in ("tmp", "partial"))
    shutil.rmtree(temporary, ignore_errors=True)  # we hold the lock: left by a killed build
    make_folder(temporary)
    make_folder(scratch)
    begun = time.perf_counter()
    try:
        out = ArtifactWriter(temporary, scratch)
        write(out)
        known = {**origin, **out.origin, "seconds": round(time.perf_counter() - begun, 3)}
        write_manifest(temporary, directory.parent.name, directory.name, known)
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        temporary.rename(directory)
        sync(directory.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)
    return Artifact(directory)
