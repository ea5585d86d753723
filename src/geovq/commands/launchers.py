"""What Hydra's launchers need before a sweep starts, and how they end: each fault is one line, before any compute.

Hydra's plugins for ray and submitit are extras. Nothing of them is imported here unless a sweep is to run on them.
"""

from __future__ import annotations

import os
import shutil
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from geovq.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

EXTRAS = {
    "ray": ("ray", ("hydra_plugins.hydra_ray_launcher", "ray")),
    "submitit_local": ("submitit", ("hydra_plugins.hydra_submitit_launcher", "submitit")),
    "submitit_slurm": ("submitit", ("hydra_plugins.hydra_submitit_launcher", "submitit")),
}
"""For each option of ``hydra/launcher`` that needs one: the extra, and the modules that it installs."""
_TARGETS = {"RayLauncher": "ray", "LocalLauncher": "submitit_local", "SlurmLauncher": "submitit_slurm"}
_CONNECT_SECONDS = 5.0
_DEVICES = "CUDA_VISIBLE_DEVICES"
_OF_LOCAL_RAY = ("num_cpus", "num_gpus", "object_store_memory", "resources", "labels", "include_dashboard")


def option_of(launcher: DictConfig) -> str:
    """The option of ``hydra/launcher`` that a composed launcher comes from; ``""`` where it is none of `EXTRAS`."""
    return _TARGETS.get(str(launcher.get("_target_")).rpartition(".")[2], "")


def missing_extra(option: str) -> str | None:
    """What is to be installed for an option of ``hydra/launcher``, as one line; None where nothing is missing."""
    extra, modules = EXTRAS.get(option, ("", ()))
    for module in modules:
        try:
            found = find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            return f"hydra/launcher={option}: {module} is not installed; pip install -e '.[{extra}]'"
    return None


def prepare_launcher(launcher: DictConfig) -> None:
    """Bring a launcher to where it can take jobs.

    Raises ConfigError: an extra is missing, the ray cluster does not answer, or this machine has no Slurm.
    """
    option = option_of(launcher)
    if fault := missing_extra(option):
        raise ConfigError(fault)
    if option == "submitit_slurm" and shutil.which("sbatch") is None:
        instead = "start the sweep on a machine of the cluster that has it, or take submitit_local"
        raise ConfigError(f"hydra/launcher={option}: no sbatch here; {instead}")
    if option == "ray":
        from omegaconf import OmegaConf

        asked = OmegaConf.to_container(launcher.ray.init, resolve=True)
        assert isinstance(asked, dict)
        _connect({str(key): value for key, value in asked.items()})


def _connect(init: dict[str, Any]) -> None:
    """Start ray here, or connect to a cluster; Hydra's launcher then finds it initialized.

    The plugin itself would give a cluster the size of an object store, which ray refuses, and wait minutes for one that
    is gone.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without it ray hides all GPUs of jobs that ask for none; ours are spread by `device_for`.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = init.get("address") or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        _answers(address)
        init = {key: value for key, value in init.items() if key not in _OF_LOCAL_RAY}
        init.setdefault("runtime_env", {"env_vars": _environment()})
    else:
        # What passes through ray is configurations and one number per job: 78 MB, the least that it takes.
        init = {"object_store_memory": 78643200, "include_dashboard": False} | init | {"address": "local"}
    import ray

    try:
        ray.init(**({"logging_level": "WARNING"} | init))
    except Exception as error:  # ray raises plain ones too, and Hydra would go on with its own try
        ray.shutdown()
        told = " ".join(str(error).split())[:300]
        raise ConfigError(f"{_where(address)}: ray cannot be used: {told}") from error


def _answers(address: str) -> None:
    """Whether somebody listens at ``host:port`` or ``ray://host:port``; ``auto`` is ray's to find."""
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        socket.create_connection((parts.hostname or "", parts.port or 6379), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
        remedy = "start it (ray start --head), name another, or leave the address out to run on this machine"
        raise ConfigError(f"{_where(address)}: no ray cluster answers there ({reason}); {remedy}") from error


def _where(address: str | None) -> str:
    return f"hydra.launcher.ray.init.address={address} (or RAY_ADDRESS)" if address else "hydra/launcher=ray"


def _environment() -> dict[str, str]:
    """What workers elsewhere are to find in their environment as here."""
    names = [name for name in os.environ if name.startswith("GEOVQ_")] + ["PYTHONPATH", "OMP_NUM_THREADS"]
    names += ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"]
    return {name: os.environ[name] for name in names if name in os.environ}


def device_for(number: int, visible: list[str], wanted: int = 1) -> list[str]:
    """The GPUs of job ``number``: ``wanted`` of the visible ones, round and round.

    >>> [device_for(number, ["0", "1", "2"]) for number in range(4)]
    [['0'], ['1'], ['2'], ['0']]
    """
    return [visible[(number * wanted + each) % len(visible)] for each in range(min(wanted, len(visible)))]


def spread_devices(number: int, wanted: int, of_sweep: str | None) -> None:
    """Show this process only the GPUs of job ``number``, by ``CUDA_VISIBLE_DEVICES``, before CUDA is used.

    ``of_sweep`` is that variable in the process that started the sweep on this machine, for submitit hides all GPUs of
    jobs that ask for none. What a scheduler has given the job alone stays; so does the choice for a worker's first job.
    """
    shown = os.environ.get(_DEVICES) or of_sweep
    if shown is None:
        os.environ.pop(_DEVICES, None)
        import torch

        visible = [str(each) for each in range(torch.cuda.device_count())]
    else:
        visible = [each for each in shown.split(",") if each.strip()]
    if visible:
        os.environ[_DEVICES] = ",".join(device_for(number, visible, wanted))


def worker_fault(error: BaseException) -> str | None:
    """One line about a worker that died, or a cluster that went away, under a sweep; None for any other error."""
    if not type(error).__module__.startswith(("ray.", "joblib.", "submitit.")):
        return None
    lines = str(error).strip().splitlines() or [""]
    told = lines[-1 if type(error).__name__.startswith("RayTaskError") else 0][:200]  # that one ends a traceback
    causes = "memory that ran out, a time limit, a machine that went away"
    return f"a worker of the sweep ended before its job ({type(error).__name__}: {told}); usual causes: {causes}"
