"""Where the paths that a person writes lead, and whether something can be written there.

``~`` is the home folder, and a relative path starts where the command was started, whatever ``hydra.job.chdir`` is.
Hydra makes the folders of its runs before any of our code is called, so ``configs/common.yaml`` asks
``output_folder`` here, as a resolver; importing this module registers it.
"""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from geovq.errors import ConfigError


def absolute(path: str) -> str:
    """The path from the root of the file system.

    Raises:
        ValueError: it is empty, or the home folder of nobody.
    """
    if not path.strip():
        raise ValueError("an empty path; name a file or folder")
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{str(error).rstrip('.').lower()}; write the path in full") from None
    started = HydraConfig.get().runtime.cwd if HydraConfig.initialized() else Path.cwd()
    return str(Path(started, expanded))


def writable(path: str) -> str:
    """The folder, which need not be there yet, from the root of the file system.

    Raises:
        ValueError: nothing can be written there.
    """
    folder = Path(absolute(path))
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        reason = "is a file" if not there.is_dir() else "" if os.access(there, os.W_OK | os.X_OK) else "is read-only"
    except OSError as error:
        there, reason = folder, f"cannot be used ({error.strerror})"
    if reason:
        raise ValueError(f"{'it' if there == folder else there} {reason}; name a folder that can be written")
    return str(folder)


def output_folder(path: object) -> str:
    """``paths.root`` from the root of the file system, symbolic links followed.

    Raises:
        ConfigError: it is no folder that can be written.
    """
    try:
        if not isinstance(path, str):
            raise ValueError("name a folder, such as experiments")
        return str(Path(writable(path)).resolve())
    except ValueError as error:
        shown = "null" if path is None else repr(path)
        raise ConfigError(f"paths.root={shown} (by default GEOVQ_ROOT): {error}") from None


OmegaConf.register_new_resolver("output_folder", output_folder, replace=True)
