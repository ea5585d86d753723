"""A recorded run brought back: its configuration, its data, its artifacts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from geovq.configuration.config import Config, validate
from geovq.configuration.fields import StalePolicy
from geovq.configuration.renamed import in_words_of_today
from geovq.configuration.section import Section
from geovq.configuration.sections import Tracking, Trainer
from geovq.errors import ConfigError
from geovq.tracking import CONFIG_FILE, flatten

if TYPE_CHECKING:
    from pathlib import Path

    from geovq.pipeline.runner import Runner
    from geovq.pipeline.stage import Context
    from geovq.tracking import RunRecord


def find(tracking: Tracking, root: Path, which: str) -> RunRecord:
    """The run meant by ``latest``, an id, its beginning, or a name."""
    from geovq.tracking import find_run

    if not tracking.enabled:
        raise ConfigError("tracking.enabled=false: a run is looked up where runs are recorded; take tracking=mlflow")
    return find_run(tracking, root, which)


def restore(
    record: RunRecord, root: Path, settings: RecordedSettings, changes: dict[str, Any] | None = None
) -> tuple[Runner, bool]:
    """A runner for the run's configuration with ``changes`` per group, on this machine's device and data.

    Beside it, whether its artifacts are those that the run recorded (before the changes): with ``rebuild=true`` it
    may have others, which are not to be taken for the run's.

    Raises:
        ConfigError: its artifacts would be others, and ``rebuild=true`` was not given; the message says what changed.
    """
    from geovq.commands.train import open_data
    from geovq.pipeline.runner import Runner, plan, to_standard_error
    from geovq.pipeline.stage import Context

    values = in_words_of_today(record.load_dict(CONFIG_FILE))
    values["paths"]["root"] = str(root)
    values["stages"] = "all"
    values["stale"] = settings.stale
    values["tracking"] = settings.tracking.model_dump()
    values["data"]["root"] = os.environ.get("GEOVQ_DATA", values["data"]["root"])
    values["evaluation"].setdefault("evaluators", [])  # runs recorded before there was such a key
    for key in ("device", "threads"):
        values["trainer"][key] = getattr(settings.trainer, key)
    config: Config = validate(values)
    source, info = open_data(config)
    context = Context(config, source, info)
    keys = plan(context)
    recorded = {stage: record.tags.get(f"artifact.{stage}", key) for stage, key in keys.items()}
    if keys != recorded and not settings.rebuild:
        told = "; ".join(changes_since(context, keys, recorded))
        raise ConfigError(
            f"run={record.run_id[:12]} ({record.name}) would not be the same again: {told}; put that back as it was, "
            "or rebuild=true goes on as a new run"
        )
    for group, replaced in (changes or {}).items():
        values[group] |= {key: value for key, value in replaced.items() if value is not None}
    config = validate(values | {"trainer": context.config.trainer.model_dump()})
    return Runner(Context(config, source, info), to_standard_error), keys == recorded


def changes_since(context: Context, keys: dict[str, str], recorded: dict[str, str]) -> list[str]:
    """What differs between the recorded artifacts and those that a configuration has now, where that began."""
    from geovq.pipeline.artifacts import ArtifactStore
    from geovq.pipeline.runner import IMAGE_FACTS, settings_of, stages_of

    store, told = ArtifactStore(context.config.root), []
    changed = {stage for stage, key in keys.items() if recorded[stage] != key}
    for stage in stages_of(context.config):
        if stage.name not in changed or changed & set(stage.inputs(context.config)):
            continue  # the same, or only because its inputs are not
        artifact = store.peek(stage.name, recorded[stage.name])
        if artifact is None:
            told.append(f"{stage.name} was {recorded[stage.name]} (no longer there) and is {keys[stage.name]}")
            continue
        now: dict[str, Any] = {"schema": stage.schema, "settings": settings_of(stage, context)}
        before = {name: artifact.manifest.get(name) for name in now}
        if stage.uses_data and "images" in artifact.manifest:
            before["images"] = artifact.manifest["images"]
            now["images"] = {name: getattr(context.info, name) for name in IMAGE_FACTS}
        told += [line for line in _differences(before, now) if line not in told]
    return told or ["its stages have other inputs"]


def _differences(before: Any, now: Any) -> list[str]:
    """One entry for each setting that differs, by its dotted name."""
    was, is_ = flatten(before), flatten(now)
    return [
        f"{name.removeprefix('settings.')} was {was.get(name, 'not set')} and is {is_.get(name, 'not set')}"
        for name in sorted({*was, *is_}, key=lambda name: (not name.startswith("images"), name))
        if was.get(name) != is_.get(name)
    ]


class RecordedSettings(Section):
    """What sample.py and evaluate.py share."""

    run: str
    rebuild: bool
    stale: StalePolicy
    tracking: Tracking
    trainer: Trainer
