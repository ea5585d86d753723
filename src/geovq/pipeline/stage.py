"""What a stage is, and what it is given to work with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from geovq.configuration.config import Config
from geovq.configuration.section import blamed
from geovq.configuration.settled import settled
from geovq.data import DataInfo, ImageData, ImageSource
from geovq.geometry.computing import set_working_memory
from geovq.pipeline.artifacts import Artifact, ArtifactWriter
from geovq.pipeline.device import choose_device, choose_precision, forbid_tf32, set_threads
from geovq.pipeline.prepared import load_images

Inputs = Mapping[str, Artifact]
StageLog = Callable[[str, dict[str, float], int], None]


@dataclass
class Context:
    """A validated configuration and its images, loaded only when a stage has to be built.

    Making one sets the threads, digits and working memory of the process and checks the device.
    ``trainer.precision=auto`` and ``vae.grid=auto`` are replaced by what they stand for here: keys and manifests hold
    what was computed with. ``log`` receives curves: stage, metrics, step.
    """

    config: Config
    source: ImageSource
    info: DataInfo
    log: StageLog = field(default=lambda stage, metrics, step: None)

    def __post_init__(self) -> None:
        self.config = settled(self.config, self.info)
        trainer = self.config.trainer
        set_threads(trainer)
        forbid_tf32()
        set_working_memory(trainer.memory_gb)
        resolved = trainer.model_copy(update={"precision": choose_precision(trainer, self.device)})
        self.config = self.config.model_copy(update={"trainer": resolved})

    @cached_property
    def data(self) -> ImageData:
        """The images, in memory or mapped from files; what only reading them tells goes to standard error."""
        config = self.config
        with blamed(self.source, "load"):
            data = load_images(
                config.data, self.source, self.info, config.root, config.trainer.threads, stale=config.stale
            )
        for remark in data.remarks:
            print(f"data: {remark}", file=sys.stderr)
        return data

    @cached_property
    def device(self) -> torch.device:
        """Where networks run."""
        return choose_device(self.config.trainer)


@dataclass(frozen=True)
class Stage:
    """One step of the way of the data.

    Attributes:
        name: as in ``stages=[…]`` and in the artifact folder.
        work: what it does, in words for people who wait, given the configuration.
        build: writes the artifact.
        inputs: names of the stages whose artifacts it reads, given the configuration.
        settings: the part of the configuration that it depends on, as plain JSON values.
        uses_data: whether it reads the images themselves, so that its key holds their fingerprint.
        classes: groups whose ``_target_`` it makes or calls, given the configuration: their code counts as its own.
        applies: whether a configuration has this stage at all.
        added_modules: other people's modules that it runs, given the configuration.
        on_ranks: whether several processes build it together, given the configuration: ``geovq.pipeline.workers``.
        schema: raised when what it writes changes, so that older artifacts are not taken for newer ones.
        made_as: name of the stage that makes the same of the same inputs, with which it shares artifacts.
    """

    name: str
    work: Callable[[Config], str]
    build: Callable[[Context, Inputs, ArtifactWriter], None]
    inputs: Callable[[Config], tuple[str, ...]] = lambda config: ()
    settings: Callable[[Config], dict[str, Any]] = lambda config: {}
    uses_data: bool = False
    classes: Callable[[Config], tuple[str, ...]] = lambda config: ()
    applies: Callable[[Config], bool] = lambda config: True
    added_modules: Callable[[Config], Iterable[str]] = lambda config: ()
    on_ranks: Callable[[Config], bool] = lambda config: False
    schema: int = 1
    made_as: str = ""

    @property
    def folder(self) -> str:
        """Where its artifacts are kept, and the name that their keys hold."""
        return self.made_as or self.name


def those(**needed: bool) -> tuple[str, ...]:
    """The names of what is needed: ``those(vae=True, graph=False)`` is ``("vae",)``."""
    return tuple(name for name, is_needed in needed.items() if is_needed)
