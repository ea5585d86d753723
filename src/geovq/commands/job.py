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
from omegaconf import OmegaConf

from geovq.commands.launchers import option_of, spread_devices
from geovq.locks import VARIABLE as LOCKS

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).parents[1]
_SECONDS_TO_CLOSE = 10.0
_FAILED = "failed.txt"
_sweep: tuple[Path, bool] | None = None
"""Folder of the sweep that this process has started, and whether its jobs print elsewhere."""


class PrepareJob(Callback):
    """Configure as the first of ``hydra.callbacks``; reads ``paths.root`` of the config."""

    def __init__(self) -> None:
        from geovq.tracking.process import host

        self.host, self.process = host(), os.getpid()
        self.devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        self.locks = os.environ.get(LOCKS)

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the one job of a run, and before the other callbacks of a sweep."""
        _use_caches(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the other callbacks of a sweep."""
        global _sweep
        _sweep = (Path(config.hydra.sweep.dir), _writes_elsewhere(config))
        _use_caches(config)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """In the process of each job, which may be a worker with an environment of its own."""
        from geovq.tracking.process import host

        _use_caches(config)
        is_here = host() == self.host
        if is_here and os.getpid() == self.process:
            return
        if self.locks is not None:
            os.environ[LOCKS] = self.locks
        if is_here:
            end_with(self.process)
        if OmegaConf.select(config, "trainer.device", default="cpu") != "cpu":
            wanted = OmegaConf.select(config, "trainer.devices", default=1)
            spread_devices(int(config.hydra.job.num), wanted, self.devices if is_here else None)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """A job of a sweep that fails says so at once: Hydra would tell of the first one alone, at the very end.

        Where its terminal is not that of the sweep, `failed_jobs` has the line told there.
        """
        from hydra.core.hydra_config import HydraConfig
        from hydra.core.utils import JobStatus
        from hydra.types import RunMode

        if HydraConfig.get().mode == RunMode.MULTIRUN and job_return.status == JobStatus.FAILED:
            from geovq.launch import describe

            error = describe(job_return._return_value)
            words = " ".join(job_return.overrides or [])
            line = f"error: {error} (job {HydraConfig.get().job.num}: {words})"
            Path(HydraConfig.get().runtime.output_dir, _FAILED).write_text(line, encoding="utf-8")
            if not _writes_elsewhere(config):
                print(line, file=sys.stderr)


def failed_jobs() -> tuple[list[str], bool]:
    """The line of each job of this process' sweep that failed, and whether they still have to be told."""
    if _sweep is None:
        return [], False
    folder, still = _sweep
    files = [file for file in folder.glob(f"*/{_FAILED}") if file.parent.name.isdigit()]
    return [file.read_text(encoding="utf-8") for file in sorted(files, key=lambda file: int(file.parent.name))], still


def _writes_elsewhere(config: DictConfig) -> bool:
    """Whether what jobs print does not appear, or not as it is, where the sweep was started."""
    return option_of(config.hydra.launcher) != ""


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


def end_with(sweep: int) -> None:
    """End this process soon after that of its sweep has died: a killed sweep must not go on by itself.

    SIGTERM first, so that a recorded run is closed; then at once, for a worker would wait for more work.
    """
    if any(thread.name == "end with sweep" for thread in threading.enumerate()):
        return
    from geovq.tracking.process import started

    begun = started(sweep)

    def watch() -> None:
        while started(sweep) == begun:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SECONDS_TO_CLOSE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="end with sweep", daemon=True).start()
