"""Artifacts: what a stage has built, stored once under a key of its content's origin.

``<root>/artifacts/<stage>/<key>/`` holds ``manifest.json``, tensors in safetensors, JSON and pictures. The
key hashes the stage's settings, the keys of its inputs and its schema version. An artifact is written to a
temporary sibling, synced and renamed, under a file lock: it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geovq.errors import ArtifactError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

_RECORDED_VERSIONS = (
    "torch",
    "numpy",
    "scipy",
    "faiss-cpu",
    "lightning",
    "transformers",
    "torchmetrics",
    "vector-quantize-pytorch",
)

DATA_IN_KEY = ("name", "validation", "test_fraction", "image_size", "channels", "limit", "split_seed")
"""Settings of the data that the key of a stage holds beside the images' fingerprint: not where they lie."""
DATA_IN_KEY_WHERE_SET = ("full_scale",)
"""Those that came later: left out of the key where they are null, so that older artifacts are still found."""


class DamagedArtifactError(ArtifactError):
    """A stored file is missing or differs from what was written."""

    def __init__(self, artifact: Artifact, fault: str) -> None:
        self.artifact = artifact
        super().__init__(f"the artifact {artifact.directory} is damaged: {fault}")


def artifact_key(stage: str, schema: int, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Sixteen hex digits that name what a stage builds from these settings and inputs."""
    record = {"stage": stage, "schema": schema, "settings": settings, "inputs": dict(inputs)}
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Artifact:
    """A finished artifact, read only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = directory.name
        try:
            self.manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
            files = self.manifest["files"]
        except (OSError, ValueError, KeyError):
            self.manifest = {"files": {}}
            raise DamagedArtifactError(self, "manifest.json cannot be read") from None
        for name, record in files.items():
            path = directory / name
            if not path.is_file() or path.stat().st_size != record["bytes"]:
                raise DamagedArtifactError(self, f"{name} is missing or has another size")

    def verify(self) -> None:
        """Compare every file with its recorded sha256."""
        for name, record in self.manifest["files"].items():
            if sha256_of(self.directory / name) != record["sha256"]:
                raise DamagedArtifactError(self, f"{name} differs from its checksum")

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(record["bytes"] for record in self.manifest["files"].values())

    def path(self, name: str) -> Path:
        """Path of one of the files."""
        return self.directory / name

    def has(self, name: str) -> bool:
        """Whether the artifact holds this file."""
        return name in self.manifest["files"]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of ``<name>.safetensors``."""
        from safetensors.torch import load_file

        return load_file(self.path(f"{name}.safetensors"))

    def json(self, name: str) -> Any:
        """Content of ``<name>.json``."""
        return json.loads(self.path(f"{name}.json").read_text())


class ArtifactWriter:
    """Collects the files of an artifact that is being built.

    ``scratch`` is a folder that outlives a killed build: training keeps its checkpoints there.
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        self.directory = directory
        self.scratch = scratch

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write ``<name>.safetensors``."""
        from safetensors.torch import save_file

        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(contiguous, self.directory / f"{name}.safetensors")

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

    def find(self, stage: str, key: str) -> Artifact | None:
        """A finished artifact, or None. One that is visibly damaged is set aside first."""
        directory = self.directory(stage, key)
        if not directory.is_dir():
            return None
        try:
            return Artifact(directory)
        except DamagedArtifactError as error:
            self.set_aside(error)
            return None

    def set_aside(self, error: DamagedArtifactError) -> Path:
        """Move a damaged artifact out of the way, keeping it for inspection, and say so."""
        directory = error.artifact.directory
        aside = directory.with_name(f"{directory.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        try:
            directory.rename(aside)
        except FileNotFoundError:  # another process has set it aside first
            return aside
        print(f"warning: {error}; set aside as {aside.name} and built again", file=sys.stderr)
        return aside

    def build(
        self,
        stage: str,
        key: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        write: Callable[[ArtifactWriter], None],
        schema: int = 1,
    ) -> Artifact:
        """Build an artifact once, whoever asks first; others wait for it and read it.

        Raises:
            ArtifactError: when the disk is full or the folder cannot be written.
        """
        directory = self.directory(stage, key)
        with _disk_errors(directory):
            directory.parent.mkdir(parents=True, exist_ok=True)
            with _lock(directory.with_name(f"{key}.lock"), f"{stage} {key}"):
                found = self.find(stage, key)
                return found or self._build(directory, schema, settings, inputs, write)

    def _build(
        self,
        directory: Path,
        schema: int,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        write: Callable[[ArtifactWriter], None],
    ) -> Artifact:
        temporary = directory.with_name(f"{directory.name}.tmp")
        scratch = directory.with_name(f"{directory.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)  # we hold the lock: left by a killed build
        temporary.mkdir()
        scratch.mkdir(exist_ok=True)
        begun = time.perf_counter()
        try:
            write(ArtifactWriter(temporary, scratch))
            manifest = {
                "stage": directory.parent.name,
                "key": directory.name,
                "schema": schema,
                "settings": dict(settings),
                "inputs": dict(inputs),
                "seconds": round(time.perf_counter() - begun, 3),
                "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "machine": platform.machine(),
                "python": platform.python_version(),
                "versions": {name: version(name) for name in _RECORDED_VERSIONS},
                "git": git_sha(),
                "files": {
                    path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size}
                    for path in sorted(temporary.iterdir())
                },
            }
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
            for path in temporary.iterdir():
                _sync(path)
            _sync(temporary)
            temporary.rename(directory)
            _sync(directory.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
        return Artifact(directory)


@contextmanager
def _lock(path: Path, what: str) -> Iterator[None]:
    """Hold a file lock; tell the person when another process holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        print(f"waiting for another process that builds {what}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one clear line. Safetensors reports them as its own error."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        text = str(error)
        full = getattr(error, "errno", None) == 28 or "No space left" in text or "os error 28" in text
        if full:
            raise ArtifactError(
                f"the disk is full while writing {directory}: free some space and run the same command again; "
                "finished stages and checkpoints are kept"
            ) from error
        if isinstance(error, PermissionError) and str(directory.parent) in str(error.filename):
            raise ArtifactError(f"no permission to write {directory}: choose another paths.root") from error
        raise


def _sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def git_sha() -> str | None:
    """Commit of the source, with ``+`` when it is changed, or None outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
