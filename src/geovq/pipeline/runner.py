"""Runs the stages that a configuration asks for, building what is missing and reading what is there."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from geovq.configuration.config import Config
from geovq.pipeline.artifacts import Artifact, ArtifactStore, ArtifactWriter, artifact_key
from geovq.pipeline.manifest import DamagedArtifactError, StaleArtifactError
from geovq.pipeline.prepared import data_in_key
from geovq.pipeline.source_code import Code, changed_files, code_of, read_code
from geovq.pipeline.stage import Context, Stage
from geovq.pipeline.stages import STAGES
from geovq.pipeline.workers import Workers
from geovq.progress import under_way

_CHECKED_BYTES = 64 * 2**20
"""Finished artifacts up to this size are checked whole when a run reads them, larger ones when a stage builds on them.
"""


@dataclass(frozen=True)
class StageRun:
    """What happened to a stage: its artifact, whether it was read or built, and the seconds that took."""

    stage: Stage
    artifact: Artifact
    cached: bool
    seconds: float


def plan(context: Context) -> dict[str, str]:
    """Key of every stage's artifact, before anything is built.

    It depends on settings, inputs' keys and, where a stage reads images, on these; not on device, paths or threads.
    """
    keys: dict[str, str] = {}
    for stage in stages_of(context.config):
        inputs = {name: keys[name] for name in stage.inputs(context.config)}
        keys[stage.name] = artifact_key(stage.folder, stage.schema, settings_of(stage, context), inputs)
    return keys


def stages_of(config: Config) -> list[Stage]:
    """The stages that a configuration has, in order."""
    return [stage for stage in STAGES if stage.applies(config)]


def stage_named(name: str) -> Stage:
    """A stage by its name."""
    return next(stage for stage in STAGES if stage.name == name)


def settings_of(stage: Stage, context: Context) -> dict[str, Any]:
    """All that a stage depends on beside its inputs; the manifest keeps it."""
    settings = stage.settings(context.config)
    if not stage.uses_data:
        return settings
    data, skips = context.config.data, context.config.data.on_error == "skip"
    # Where files may be left out, results are no others' that would have stopped.
    return settings | {"data": data_in_key(data, context.info) | ({"on_error": "skip"} if skips else {})}


def image_facts(stage: Stage, context: Context) -> dict[str, Any]:
    """What the manifest of a stage that reads images says of them, so that a change can be named."""
    names = ("class_names", "n_train", "n_test", "channels", "height", "width")
    return {"images": {name: getattr(context.info, name) for name in names}} if stage.uses_data else {}


def wanted(config: Config) -> list[Stage]:
    """The stages asked for and all they need, in order; ``all`` is what the last one needs."""
    return with_inputs(config, [stages_of(config)[-1].name] if config.stages == "all" else config.stages)


def with_inputs(config: Config, names: Iterable[str]) -> list[Stage]:
    """Some stages and all they need, in order."""
    stages, names = stages_of(config), set(names)
    for stage in reversed(stages):
        if stage.name in names:
            names |= set(stage.inputs(config))
    return [stage for stage in stages if stage.name in names]


class Runner:
    """Brings the artifacts of one configuration into being."""

    def __init__(self, context: Context, announce: Callable[[str], None] = lambda line: None) -> None:
        self.context, self.announce = context, announce
        self.store = ArtifactStore(context.config.root)
        self.keys = plan(context)
        self._workers = self._ranks()
        self._verified: set[str] = set()
        self._built: set[str] = set()

    def run(self) -> dict[str, StageRun]:
        """Every wanted stage in order, read where it is there and built where it is not."""
        stages = wanted(self.context.config)
        self._warn_of_stale(stages)
        with self._ranks() as self._workers:
            return {stage.name: self._obtain(stage) for stage in stages}

    def obtain(self, names: tuple[str, ...]) -> dict[str, Artifact]:
        """Verified artifacts of some stages, built where missing."""
        stages = with_inputs(self.context.config, names)
        self._warn_of_stale(stages)
        if self.context.config.stale == "rebuild":
            for stage in stages:  # what they were built on first, where it is there
                if self._peek(stage.name) is not None:
                    self._verified_input(stage.name)
        with self._ranks() as self._workers:
            return {name: self._verified_input(name) for name in names}

    def _ranks(self) -> Workers:
        return Workers(self.context.config.trainer.devices)

    def present(self, names: Iterable[str] | None = None) -> dict[str, Artifact]:
        """The artifacts of some stages, of all by default, that are there; nothing is built, and nothing set aside.

        Raises:
            DamagedArtifactError: one is not what was written, or from other inputs.
        """
        stages = [stage for stage in stages_of(self.context.config) if names is None or stage.name in names]
        self._warn_of_stale(stages)
        found = {stage.name: (stage, self._peek(stage.name)) for stage in stages}
        there = {name: (stage, artifact) for name, (stage, artifact) in found.items() if artifact is not None}
        for stage, artifact in there.values():
            self._check(stage, artifact, whole=False)
        return {name: artifact for name, (_, artifact) in there.items()}

    def _obtain(self, stage: Stage) -> StageRun:
        begun = time.perf_counter()
        work = f"{stage.name}: {stage.work(self.context.config)}"
        artifact = self._find(stage, whole=False)
        if artifact is None:
            with under_way(work, self.announce):
                artifact = self._build(stage)
        seconds = time.perf_counter() - begun
        cached = stage.name not in self._built  # another process may have built it while this one waited
        self.announce(f"{work} – {'read' if cached else f'built in {seconds:.1f} s'} ({artifact.key})")
        return StageRun(stage, artifact, cached, seconds)

    def _build(self, stage: Stage) -> Artifact:
        """Build from verified inputs; inputs found damaged are set aside and built again."""
        inputs = {name: self._verified_input(name) for name in stage.inputs(self.context.config)}

        def build(out: ArtifactWriter) -> None:
            out.origin |= {
                "code": self._begun_with(stage, out.scratch),
                "input_tensors": {name: artifact.tensors_digest for name, artifact in inputs.items()},
                "threads": torch.get_num_threads(),
                **image_facts(stage, self.context),
            }
            self._workers.build(stage, self.context, inputs, out)
            self._built.add(stage.name)

        settings, check = settings_of(stage, self.context), partial(self._check, stage, whole=True)
        keys = self._input_keys(stage)
        artifact = self.store.build(stage.folder, self.keys[stage.name], settings, keys, build, stage.schema, check)
        self._verified.add(stage.name)
        return artifact

    def _verified_input(self, name: str) -> Artifact:
        stage = stage_named(name)
        return self._find(stage, whole=True) or self._build(stage)

    def _peek(self, name: str) -> Artifact | None:
        return self.store.peek(stage_named(name).folder, self.keys[name])

    def _find(self, stage: Stage, whole: bool) -> Artifact | None:
        """The stored artifact; one at fault is set aside."""
        return self.store.find(stage.folder, self.keys[stage.name], partial(self._check, stage, whole=whole))

    def _check(self, stage: Stage, artifact: Artifact, whole: bool) -> None:
        """Whether an artifact is what was written, from these inputs, and of this code where that is asked for."""
        if artifact.manifest["inputs"] != self._input_keys(stage):
            raise DamagedArtifactError(artifact.directory, "it was built from other inputs than its key stands for")
        reason = self._stale(artifact) if self.context.config.stale == "rebuild" else None
        if reason is not None:
            raise StaleArtifactError(artifact.directory, reason)
        if stage.name not in self._verified and (whole or artifact.bytes <= _CHECKED_BYTES):
            artifact.verify()
            self._verified.add(stage.name)

    def _input_keys(self, stage: Stage) -> dict[str, str]:
        return {name: self.keys[name] for name in stage.inputs(self.context.config)}

    def _begun_with(self, stage: Stage, scratch: Path) -> Code:
        """The code of a build; that of a training's checkpoint where it goes on from one."""
        code, path = code_used(stage, self.context), scratch / "code.json"
        begun = read_code(path)
        if begun is not None and any(file != path for file in scratch.iterdir()) and (files := changed_files(begun)):
            reason = f"{stage.name}: its checkpoint was made with other code ({', '.join(files)} changed)"
            if self.context.config.stale != "rebuild":
                print(f"warning: {reason}; training goes on from it, stale=rebuild trains anew", file=sys.stderr)
                return begun
            print(f"warning: {reason}; training starts anew", file=sys.stderr)
            shutil.rmtree(scratch)
            scratch.mkdir()
        path.write_text(json.dumps(code), encoding="utf-8")
        return code

    def _stale(self, artifact: Artifact) -> str | None:
        """Why the code and inputs of today would not give this artifact; manifests of old do not tell."""
        if files := changed_files(artifact.manifest.get("code", {})):
            return f"built with other code ({', '.join(files)} changed)"
        for name, recorded in artifact.manifest.get("input_tensors", {}).items():
            now = self._peek(name)
            if now is not None and now.tensors_digest != recorded:
                return f"built on another {name} than the one that is there now"
        return None

    def _warn_of_stale(self, stages: list[Stage]) -> None:
        """One warning for all artifacts that are stale for the same reason; they are read all the same."""
        if self.context.config.stale != "warn":
            return
        reasons: dict[str, list[str]] = {}
        for name in (stage.name for stage in stages):
            artifact = self._peek(name)
            if artifact is not None and (reason := self._stale(artifact)) is not None:
                reasons.setdefault(reason, []).append(f"{name} {artifact.key}")
        for reason, artifacts in reasons.items():
            print(f"warning: {', '.join(artifacts)}: {reason}; stale=rebuild builds it anew", file=sys.stderr)


def code_used(stage: Stage, context: Context) -> Code:
    """The code that a stage runs under a configuration."""
    config, source, stages = context.config, context.source, "geovq.pipeline.stages"
    used = [stage.build.__module__, *stage.added_modules(config)]
    used += [type(getattr(config, group)).owner.__module__ for group in stage.classes(config)]
    if stage.uses_data:
        used += ["geovq.data.split", *(type(part).__module__ for part in (source, getattr(source, "source", source)))]
    # Modules that serve other kinds of runs.
    unused = [f"{stages}.vae" if config.is_joint else f"{stages}.joint"]
    unused += [f"{stages}.assignment_rules"] if config.assign.name == "own" else []
    return code_of(used, unused)


def to_standard_error(line: str) -> None:
    """Announce progress where bars go, leaving standard output to results."""
    print(line, file=sys.stderr)
