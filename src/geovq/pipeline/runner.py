"""Runs the stages that a configuration asks for, building what is missing and reading what is there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from geovq.pipeline.artifacts import (
    DATA_IN_KEY,
    DATA_IN_KEY_WHERE_SET,
    Artifact,
    ArtifactStore,
    ArtifactWriter,
    DamagedArtifactError,
    artifact_key,
)
from geovq.pipeline.config import Config
from geovq.pipeline.stage import Context, Stage
from geovq.pipeline.stages import STAGES

Announce = Callable[[str], None]


@dataclass(frozen=True)
class StageRun:
    """What happened to a stage: its artifact, whether it was read or built, and the seconds that took."""

    stage: Stage
    artifact: Artifact
    cached: bool
    seconds: float


def plan(context: Context) -> dict[str, str]:
    """Key of every stage's artifact, before anything is built.

    A key depends on the stage's settings, its inputs' keys and, where it reads images, on their content
    and split; not on device, paths, threads or logging.
    """
    keys: dict[str, str] = {}
    for stage in stages_of(context.config):
        inputs = {name: keys[name] for name in stage.inputs(context.config)}
        keys[stage.name] = artifact_key(stage.name, stage.schema, settings_of(stage, context), inputs)
    return keys


def stages_of(config: Config) -> list[Stage]:
    """The stages that a configuration has, in order."""
    return [stage for stage in STAGES if stage.applies(config)]


def settings_of(stage: Stage, context: Context) -> dict[str, Any]:
    """All that a stage depends on beside its inputs; the manifest keeps it."""
    settings = stage.settings(context.config)
    if stage.uses_data:
        data = context.config.data.model_dump(include=set(DATA_IN_KEY)) | {"fingerprint": context.info.fingerprint}
        later = context.config.data.model_dump(include=set(DATA_IN_KEY_WHERE_SET))
        data |= {key: value for key, value in later.items() if value is not None}
        settings = settings | {"data": data}
    return settings


# Finished artifacts up to this size are checked whole when a run reads them, larger ones when a stage builds on them.
_CHECKED_BYTES = 64 * 2**20


def wanted(config: Config) -> list[Stage]:
    """The stages asked for and all they need, in order; ``all`` is what the last one needs."""
    stages = stages_of(config)
    names = {stages[-1].name} if config.stages == "all" else set(config.stages)
    for stage in reversed(stages):
        if stage.name in names:
            names |= set(stage.inputs(config))
    return [stage for stage in stages if stage.name in names]


class Runner:
    """Brings the artifacts of one configuration into being."""

    def __init__(self, context: Context, announce: Announce = lambda line: None) -> None:
        self.context = context
        _ = context.device  # sets the threads, and refuses a GPU that is not there before any compute
        self.store = ArtifactStore(context.config.root)
        self.keys = plan(context)
        self.announce = announce
        self._verified: set[str] = set()
        self._built: set[str] = set()

    def run(self) -> dict[str, StageRun]:
        """Every wanted stage in order, read where it is there and built where it is not."""
        return {stage.name: self._obtain(stage) for stage in wanted(self.context.config)}

    def obtain(self, names: tuple[str, ...]) -> dict[str, Artifact]:
        """Verified artifacts of some stages, built where missing."""
        return {name: self._verified_input(name) for name in names}

    def _obtain(self, stage: Stage) -> StageRun:
        key = self.keys[stage.name]
        begun = time.perf_counter()
        artifact = self._find(stage.name, self._is_small)
        if artifact is None:
            self.announce(f"{stage.name:<11} {key}  building")
            artifact = self._build(stage)
        seconds = time.perf_counter() - begun
        cached = stage.name not in self._built  # another process may have built it while this one waited
        self.announce(f"{stage.name:<11} {key}  {'read' if cached else f'built in {seconds:.1f} s'}")
        return StageRun(stage, artifact, cached, seconds)

    def _build(self, stage: Stage) -> Artifact:
        """Build from verified inputs; inputs found damaged are set aside and built again."""
        inputs = {name: self._verified_input(name) for name in stage.inputs(self.context.config)}

        def build(out: ArtifactWriter) -> None:
            stage.build(self.context, inputs, out)
            self._built.add(stage.name)

        return self.store.build(
            stage.name,
            self.keys[stage.name],
            settings_of(stage, self.context),
            {name: artifact.key for name, artifact in inputs.items()},
            build,
            stage.schema,
        )

    def _verified_input(self, name: str) -> Artifact:
        artifact = self._find(name, lambda artifact: True)
        return artifact or self._build(next(stage for stage in STAGES if stage.name == name))

    def _find(self, name: str, checks: Callable[[Artifact], bool]) -> Artifact | None:
        """The stored artifact; one that is found damaged is set aside."""
        artifact = self.store.find(name, self.keys[name])
        if artifact is not None and name not in self._verified and checks(artifact):
            try:
                artifact.verify()
            except DamagedArtifactError as error:
                self.store.set_aside(error)
                return None
            self._verified.add(name)
        return artifact

    @staticmethod
    def _is_small(artifact: Artifact) -> bool:
        return artifact.bytes <= _CHECKED_BYTES


def to_standard_error(line: str) -> None:
    """Announce progress where bars go, leaving standard output to results."""
    print(line, file=sys.stderr)
