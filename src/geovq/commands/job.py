"""Hydra callback that makes a process ready for its job, whoever runs it and wherever the source lies.

Where libraries find no place for their caches, as in containers, these go below ``paths.root``. Hydra imports this
module at every start, so nothing heavy is imported here; launchers pickle the callback, so it holds plain values only.
"""

from __future__ import annotations

import getpass
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).parents[1]
_SECONDS_TO_CLOSE = 10.0


class PrepareJob(Callback):
    """Configure as the first of ``hydra.callbacks``; reads ``paths.root`` of the config."""

    def __init__(self) -> None:
        self.process = os.getpid()

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the one job of a run, and before the other callbacks of a sweep."""
        _use_caches(config)

    on_multirun_start = on_run_start

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """In the process of each job, which may be a worker with an environment of its own."""
        _use_caches(config)
        if os.getpid() != self.process and os.getppid() == self.process:
            end_with_parent(self.process)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """A job of a sweep that fails says so at once: Hydra would tell of the first one alone, at the very end."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.core.utils import JobStatus
        from hydra.types import RunMode

        if HydraConfig.get().mode == RunMode.MULTIRUN and job_return.status == JobStatus.FAILED:
            from geovq.launch import describe

            error = describe(job_return._return_value)
            words = " ".join(job_return.overrides or [])
            print(f"error: {error} (job {HydraConfig.get().job.num}: {words})", file=sys.stderr)


def _use_caches(config: DictConfig) -> None:
    from geovq.configuration.sections import Paths

    try:
        root = Paths.model_validate({"root": config.paths.root}).absolute
    except (ValueError, RuntimeError):
        return  # the command itself refuses the root
    use_caches_below(root)


def use_caches_below(root: Path) -> None:
    """Point libraries to caches below ``root`` where their own places cannot be written, before they are imported.

    What the environment says already stays. Some libraries also ask for the user's name, which not every id has.
    """
    home = Path(os.path.expanduser("~"))
    if not home.is_absolute():  # nobody knows one, which some libraries take for an error
        os.environ["HOME"] = str(root / "caches")
    if not _writable(_PACKAGE / "geometry"):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(root / "caches" / "numba"))
    if not _writable(home):
        for variable, name in (("MPLCONFIGDIR", "matplotlib"), ("HF_HOME", "huggingface")):
            os.environ.setdefault(variable, str(root / "caches" / name))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


def end_with_parent(parent: int) -> None:
    """End this process soon after its parent has died, once per process: a killed sweep must not go on by itself.

    SIGTERM first, so that a recorded run is closed; then at once, for a worker would wait for more work.
    """
    if any(thread.name == "end with parent" for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SECONDS_TO_CLOSE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
