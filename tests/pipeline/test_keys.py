"""Every setting that a stage's build reads is in its key: recorded while it builds, then changed one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

from geovq.configuration.options import Quantizer
from geovq.configuration.section import Section
from geovq.pipeline import runner as runner_module
from geovq.pipeline.runner import plan

# How and where, not what; and what enters keys as what it comes to: the splits that are encoded, sections by name.
NOT_IN_KEYS = (
    *("trainer.device", "trainer.threads", "trainer.checkpoint_seconds", "trainer.profile"),
    *("tracking.log_every", "assign.training_images", "assign.rate_model", "vae.name"),
    *("data.memory_gb", "data.on_error", "paths.root", "stale"),
)
Reads = dict[str, set[str]]


def sections_of(section: Section, path: str = "") -> Iterator[tuple[str, Section]]:
    yield path, section
    for name in type(section).model_fields:
        if isinstance(value := section.__dict__[name], Section):
            yield from sections_of(value, f"{path}{name}.")


@contextmanager
def recorded(config: Section, read: set[str]) -> Iterator[None]:
    """Note the leaves of a configuration that are read, one by one or by ``model_dump``."""
    paths = {id(section): path for path, section in sections_of(config)}
    plain, dump, said = Section.__getattribute__, Section.model_dump, Quantizer.said
    aside = False

    def note(section: Section, names: Any) -> None:
        if id(section) in paths and not aside:
            fields = object.__getattribute__(section, "__dict__")
            read.update(paths[id(section)] + name for name in names if not isinstance(fields.get(name), Section))

    def getting(self: Section, name: str) -> Any:
        if name in type(self).model_fields:
            note(self, [name])
        return plain(self, name)

    def dumping(self: Section, **limits: Any) -> Any:
        names = set(limits.get("include") or type(self).model_fields) - set(limits.get("exclude") or ())
        note(self, names)
        return dump(self, **limits)

    def saying(self: Quantizer, capability: str) -> Any:
        """Of the settings that a capability asks, those count as read which change what it comes to."""
        nonlocal aside
        before, aside = aside, True
        try:
            value = said(self, capability)
            moving = (
                [
                    name
                    for name in type(self).model_fields
                    if any(
                        said(self.model_copy(update={name: other}), capability) != value
                        for other in others(type(self).model_fields[name].annotation, self.__dict__[name])
                    )
                ]
                if isinstance(getattr(type(self).owner, capability), property)
                else []
            )
        finally:
            aside = before
        note(self, moving)
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Quantizer, "said", saying)
        patch.setattr(Section, "__getattribute__", getting)
        patch.setattr(Section, "model_dump", dumping)
        yield


def others(annotation: Any, value: Any) -> list[Any]:
    """Other values that a setting may have."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return [word for word in parts if word != value]
    if origin in (Union, UnionType):
        return [other for part in parts for other in others(part, value)]
    if origin is Annotated:
        return others(parts[0], value)
    if annotation is bool:
        return [not value]
    if annotation in (int, float):
        return [value + 1, *([0] if value else [])] if isinstance(value, int | float) else [7]
    if annotation is str:
        return [__file__]  # some name files
    return [[*value, {} if get_origin(parts[0]) is dict else 2]] if origin is list else []


def changed(config: Any, path: str, value: Any) -> Any:
    first, _, rest = path.partition(".")
    return config.model_copy(update={first: changed(getattr(config, first), rest, value) if rest else value})


def leaf(config: Any, path: str) -> tuple[Any, Any]:
    *groups, name = path.split(".")
    for group in groups:
        config = getattr(config, group)
    return type(config).model_fields[name].annotation, getattr(config, name)


@pytest.mark.parametrize(
    "overrides",
    [
        ("quantizer=vqvae_ema", "geo=euclidean", "transformer=none", "stages=[report]"),
        *(
            pytest.param(words, marks=pytest.mark.slow)
            for words in (
                (),
                ("quantizer=product", "geo.length=chord", "assign=whitened"),
                ("quantizer=pullback", "assign=search", "finetune=both", "evaluation.geodesic_codewords=0"),
                ("quantizer=euclidean", "vae.loss=perceptual+adversarial", "finetune=adversarial"),
                ("quantizer=vqvae2", "assign=search", "assign.rate_model=unigram", "assign.rate_lambda=0.01"),
                ("quantizer=whitened", "assign=search", "assign.rate_model=prior", "assign.rate_lambda=0.01"),
                ("quantizer=vqvae_ema", "assign=search", "vae.condition=film", "finetune=both"),
                ("quantizer=posterior", "geo=posterior", "assign=sequential", "transformer=none"),
                ("quantizer=euclidean", "geo=euclidean", "evaluation.geodesic_codewords=0"),
            )
        ),
    ],
)
def test_every_setting_that_a_build_reads_is_in_its_key(
    tmp_path: Path, make_runner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    runner = make_runner(
        tmp_path, *overrides, "finetune.steps=5" if any("finetune" in word for word in overrides) else "seed=0"
    )
    context, keys = runner.context, runner.keys
    reads: Reads = {}

    def watched(stage: Any) -> Any:
        def build(*arguments: Any) -> None:
            with recorded(context.config, reads.setdefault(stage.name, set())):
                stage.build(*arguments)

        build.__module__ = stage.build.__module__
        return replace(stage, build=build)

    monkeypatch.setattr(runner_module, "STAGES", tuple(watched(stage) for stage in runner_module.STAGES))
    runner.run()
    assert {"classifier", "unquantized", "report"} <= set(reads)
    missing = set()
    for path in sorted(set().union(*reads.values()) - set(NOT_IN_KEYS)):
        if path.endswith(".name"):  # chooses a section, whose other settings would not fit
            continue
        moved: set[str] = set()
        for other in others(*leaf(context.config, path)):  # some of them may come to the same
            context.config, before = changed(context.config, path, other), context.config
            moved |= {stage for stage, key in plan(context).items() if key != keys.get(stage)}
            context.config = before
        missing |= {f"{stage}: {path}" for stage, read in reads.items() if path in read and stage not in moved}
    assert not missing
