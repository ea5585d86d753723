"""What is asked of a launcher before a sweep starts, and which GPUs its jobs see; needs neither ray nor submitit."""

from __future__ import annotations

import os
import socket
from importlib.machinery import ModuleSpec

import pytest
from omegaconf import OmegaConf

from geovq.commands import job, launchers
from geovq.commands.launchers import device_for, prepare_launcher, spread_devices, worker_fault
from geovq.errors import ConfigError
from geovq.launch import composing_fault, describe

PLUGINS = "hydra_plugins.hydra_"
RAY = f"{PLUGINS}ray_launcher.ray_launcher.RayLauncher"
SLURM = f"{PLUGINS}submitit_launcher.submitit_launcher.SlurmLauncher"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules that are there: none, until a test adds some."""
    there: set[str] = set()
    monkeypatch.setattr(launchers, "find_spec", lambda name: ModuleSpec(name, None) if name in there else None)
    return there


def test_a_launcher_that_is_not_installed_names_its_extra(installed: set[str]) -> None:
    known = "Available options in 'hydra/launcher':\n\tbasic\n\tjoblib\nConfig search path:"
    told = f"Could not find 'hydra/launcher/ray'\n\n{known}"
    plugin = f"hydra/launcher=ray: {PLUGINS}ray_launcher is not installed; pip install -e '.[ray]'"
    assert composing_fault(told) == plugin
    with pytest.raises(ConfigError, match=r"\.\[submitit\]"):
        prepare_launcher(OmegaConf.create({"_target_": SLURM}))
    installed.add(f"{PLUGINS}ray_launcher")  # without ray itself
    with pytest.raises(ConfigError, match=r"hydra/launcher=ray: ray is not installed; pip install -e '\.\[ray\]'"):
        prepare_launcher(OmegaConf.create({"_target_": RAY}))
    other = told.replace("launcher/ray", "launcher/rei")
    assert composing_fault(other) == "hydra/launcher=rei: no such option; choose basic, joblib"


def test_slurm_needs_its_own_commands(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed |= {f"{PLUGINS}submitit_launcher", "submitit"}
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="hydra/launcher=submitit_slurm: no sbatch here"):
        prepare_launcher(OmegaConf.create({"_target_": SLURM}))


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_a_ray_cluster_that_is_gone_is_one_line(installed: set[str], form: str) -> None:
    installed |= {f"{PLUGINS}ray_launcher", "ray"}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = form.format(f"127.0.0.1:{closed.getsockname()[1]}")
        launcher = OmegaConf.create({"_target_": RAY, "ray": {"init": {"address": address, "num_cpus": 2}}})
        with pytest.raises(ConfigError) as caught:
            prepare_launcher(launcher)
    assert str(caught.value).startswith(f"hydra.launcher.ray.init.address={address} (or RAY_ADDRESS): no ray cluster")
    assert "\n" not in str(caught.value)


def test_launchers_of_hydra_itself_need_nothing(installed: set[str]) -> None:
    prepare_launcher(OmegaConf.create({"_target_": f"{PLUGINS}joblib_launcher.joblib_launcher.JoblibLauncher"}))


def test_jobs_take_gpus_in_turn() -> None:
    visible = ["3", "GPU-a", "5"]
    assert [device_for(number, visible) for number in range(4)] == [["3"], ["GPU-a"], ["5"], ["3"]]
    assert [device_for(number, visible, 2) for number in range(3)] == [["3", "GPU-a"], ["5", "3"], ["GPU-a", "5"]]
    assert device_for(1, ["0"], 2) == ["0"]


@pytest.mark.parametrize(
    ("here", "of_sweep", "expected"),
    [
        (None, None, "2"),  # four of this machine, job 2
        ("6,7", None, "6"),
        ("", "6,7", "6"),  # hidden by submitit: those of the sweep count
        ("", None, "2"),
        ("4", None, "4"),  # given by a scheduler, or for the worker's first job
        (None, "", None),  # the person hides them
    ],
)
def test_a_job_sees_gpus_of_its_own(
    monkeypatch: pytest.MonkeyPatch, here: str | None, of_sweep: str | None, expected: str | None
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if here is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", here)
    spread_devices(2, 1, of_sweep)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected
    spread_devices(3, 1, of_sweep)  # the worker's next job
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected


def test_only_workers_are_given_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    config = OmegaConf.create(
        {"trainer": {"device": "auto"}, "hydra": {"job": {"num": 1}}, "paths": {"root": "/nonexistent/x"}}
    )
    callback = job.PrepareJob()
    callback.on_job_start(config)  # the sweep's own process: one job after the other
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    callback.host = "elsewhere"
    config.trainer.device = "cpu"
    callback.on_job_start(config)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    config.trainer.device = "auto"
    callback.locks = "lease"
    monkeypatch.setenv("GEOVQ_LOCKS", "")
    callback.on_job_start(config)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert os.environ["GEOVQ_LOCKS"] == "lease"  # as where the sweep was started


def test_a_worker_that_died_is_one_line() -> None:
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    line = describe(TerminatedWorkerError("A worker process was unexpectedly terminated.\nThis could be caused by"))
    assert line.startswith("a worker of the sweep ended before its job (TerminatedWorkerError: A worker process was")
    assert line.endswith("; the same command goes on with what is not finished")
    assert "\n" not in line
    assert worker_fault(ValueError("x")) is None
