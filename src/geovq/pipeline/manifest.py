"""What an artifact's ``manifest.json`` says, and whether it can be believed.

It holds where the artifact came from (settings, inputs, code, versions) and the size and sha256 of every file. It
carries a checksum of itself, so that a manifest that lost or gained an entry is noticed too.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from geovq.errors import ArtifactError

FILE = "manifest.json"
_VERSIONS = (
    "torch",
    "numpy",
    "scipy",
    "faiss-cpu",
    "lightning",
    "transformers",
    "torchmetrics",
    "vector-quantize-pytorch",
)
_FORM = {"stage": str, "key": str, "settings": dict, "inputs": dict, "files": dict}
_CHECKSUM = "checksum"


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
    manifest: dict[str, Any] = {
        "stage": stage,
        "key": key,
        **origin,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _VERSIONS},
        "git": _git_commit(),
        "files": {
            path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in sorted(directory.iterdir())
        },
    }
    manifest[_CHECKSUM] = _checksum(manifest)
    (directory / FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of the artifact in ``directory``.

    Raises:
        DamagedArtifactError: it cannot be read, has another form, or belongs to another artifact.
    """
    try:
        manifest = json.loads((directory / FILE).read_text(encoding="utf-8"))
    except PermissionError:  # no damage
        raise
    except (OSError, ValueError):
        raise DamagedArtifactError(directory, f"{FILE} cannot be read") from None
    fault = _fault(manifest, directory)
    if fault is not None:
        raise DamagedArtifactError(directory, f"{FILE} {fault}")
    return dict(manifest)


def _fault(manifest: Any, directory: Path) -> str | None:
    if not (
        isinstance(manifest, dict)
        and all(isinstance(manifest.get(name), kind) for name, kind in _FORM.items())
        and all(_is_record(name, record) for name, record in manifest["files"].items())
    ):
        return "has another form"
    if (manifest["stage"], manifest["key"]) != (directory.parent.name, directory.name):
        return f"is that of {manifest['stage']} {manifest['key']}"
    if _CHECKSUM in manifest and manifest[_CHECKSUM] != _checksum(manifest):
        return "differs from its checksum"
    return None if manifest["files"] else "lists no files"


def _is_record(name: str, record: Any) -> bool:
    """Whether this holds a file's size and sha256; a name with a folder in it is none of ours."""
    return (
        Path(name).name == name
        and isinstance(record, dict)
        and type(record.get("bytes")) is int
        and isinstance(record.get("sha256"), str)
    )


def _checksum(manifest: Mapping[str, Any]) -> str:
    """Hex digest of everything else in the manifest, however it is laid out."""
    rest = {name: value for name, value in manifest.items() if name != _CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_commit() -> str | None:
    """Commit of the source, with ``+`` when it is changed, or None outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
