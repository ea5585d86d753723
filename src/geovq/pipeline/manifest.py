"""What an artifact's ``manifest.json`` says, and whether it can be believed.

It holds where the artifact came from, size and sha256 of every file, and a checksum of itself, so that an entry that is
lost or gained is noticed too.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictInt, ValidationError

from geovq.errors import ArtifactError

FILE = "manifest.json"
_NUMERIC = ("torch", "numpy", "scipy", "faiss-cpu", "lightning", "transformers", "torchmetrics")
_CHECKSUM = "checksum"


class _File(BaseModel):
    bytes: StrictInt
    sha256: str


class _Manifest(BaseModel):
    """The form of the part that is read."""

    stage: str
    key: str
    settings: dict[str, Any]
    inputs: dict[str, Any]
    files: dict[Annotated[str, Field(pattern=r"^[^/]+$")], _File]  # none of ours lies in another folder


class DamagedArtifactError(ArtifactError):
    """What is stored is not what was written. ``word`` is part of the name it is set aside under."""

    word = "damaged"

    def __init__(self, directory: Path, fault: str) -> None:
        super().__init__(f"the artifact {directory} is {self.word}: {fault}")


class StaleArtifactError(DamagedArtifactError):
    """What is stored is whole, but was built with other code, or on other inputs, than there are now."""

    word = "stale"


def write_manifest(directory: Path, stage: str, key: str, origin: Mapping[str, Any]) -> None:
    """Describe all files in ``directory``; ``origin`` says where they come from."""
    paths = sorted(directory.iterdir())
    manifest: dict[str, Any] = {
        "stage": stage,
        "key": key,
        **origin,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "git": _git_commit(),
        "files": {path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in paths},
    }
    manifest[_CHECKSUM] = _checksum(manifest)
    (directory / FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of the artifact in ``directory``.

    Raises DamagedArtifactError: it cannot be read, has another form, or belongs to another artifact.
    """
    try:
        manifest = json.loads((directory / FILE).read_text(encoding="utf-8"))
    except PermissionError:  # no damage
        raise
    except (OSError, ValueError):
        raise DamagedArtifactError(directory, f"{FILE} cannot be read") from None
    if fault := _fault(manifest, directory):
        raise DamagedArtifactError(directory, f"{FILE} {fault}")
    return dict(manifest)


def _fault(manifest: Any, directory: Path) -> str | None:
    try:
        known = _Manifest.model_validate(manifest)
    except ValidationError:
        return "has another form"
    if (known.stage, known.key) != (directory.parent.name, directory.name):
        return f"is that of {known.stage} {known.key}"
    if _CHECKSUM in manifest and manifest[_CHECKSUM] != _checksum(manifest):
        return "differs from its checksum"
    return None if known.files else "lists no files"


def _checksum(manifest: Mapping[str, Any]) -> str:
    """Hex digest of everything else in the manifest, however it is laid out."""
    rest = {name: value for name, value in manifest.items() if name != _CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in (*_NUMERIC, "vector-quantize-pytorch")}


def _git_commit() -> str | None:
    """Commit of the source, with ``+`` when it is changed, or None outside a checkout."""
    command, folder = ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"], Path(__file__).parent
    try:
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=10)
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
