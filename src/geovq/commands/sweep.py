"""Hydra callback that validates every job of a multirun before the first one starts.

Hydra itself composes a job when its turn comes, hours later. It imports this module at every start: nothing heavy here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

import geovq.folders  # noqa: F401  (registers a resolver, in the workers of a parallel launcher too)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from omegaconf import DictConfig

_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class CheckJobs(Callback):
    """Configure as ``hydra.callbacks.check_jobs``, before the callback that records the multirun.

    Sweepers that choose jobs while they run are left alone. What only the images tell is asked when a job begins.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """End the program where a job is no valid configuration or the launcher cannot be used; one line per fault."""
        from geovq.commands.launchers import prepare_launcher
        from geovq.errors import ConfigError

        # Hydra turns exceptions of callbacks into warnings, so all ends by sys.exit here.
        self._check(config)
        try:
            prepare_launcher(config.hydra.launcher)
        except ConfigError as error:
            sys.exit(f"error: {error}")

    def _check(self, config: DictConfig) -> None:
        sweeper = config.hydra.sweeper
        if sweeper.get("_target_") != _BASIC:
            return
        from hydra.errors import HydraException

        try:
            jobs = jobs_of(sweeper.get("params") or {}, config.hydra.overrides.task)
        except HydraException:
            return  # no sweep that the basic sweeper could make: it says so itself
        if faults := faults_of(jobs, str(config.hydra.job.config_name)):
            lines = "\n".join(f"{fault} (job: {' '.join(job)})" for fault, job in faults.items())
            sys.exit(f"error: {lines}\nnone of the {len(jobs)} jobs was started")


def jobs_of(params: Mapping[str, Any], overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of each job, as Hydra's basic sweeper makes them from ``hydra.sweeper.params`` and overrides."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    listed = [f"{key}={value}" for key, value in params.items()] + list(overrides)
    [jobs] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(listed), None)
    return [tuple(job) for job in jobs]


def faults_of(jobs: Sequence[Sequence[str]], config_name: str) -> dict[str, Sequence[str]]:
    """What is wrong with jobs, each fault with the first job that has it; Hydra must be initialized."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from geovq.commands import settings_of
    from geovq.configuration.parse import parse
    from geovq.errors import GeoVQError
    from geovq.launch import describe

    faults: dict[str, Sequence[str]] = {}
    for job in jobs:
        try:
            parse(settings_of(config_name), OmegaConf.to_container(compose(config_name, list(job)), resolve=True))
        except (GeoVQError, HydraException, OmegaConfBaseException) as error:
            for line in describe(error).splitlines():
                faults.setdefault(line, job)
    return faults
