"""A recorded run brought back: its configuration, its data, its artifacts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from geovq.configuration.config import Config, validate
from geovq.configuration.fields import StalePolicy
from geovq.configuration.renamed import in_words_of_today, merged, option
from geovq.configuration.section import Section
from geovq.configuration.sections import Paths, Tracking, Trainer
from geovq.errors import ConfigError
from geovq.tracking import CONFIG_FILE, flatten

if TYPE_CHECKING:
    from collections.abc import Collection

    from geovq.data import DataInfo, ImageSource, RawImages
    from geovq.pipeline.runner import Runner
    from geovq.pipeline.stage import Context
    from geovq.tracking import RunRecord


WEIGHTS_ARE_TRAINED = {"path": None, "download": False, "checkpoint": None, "weights_sha256": None}
MEASUREMENTS = ("unquantized", "report")
"""Stages that nothing else is made of."""
MADE_FROM_CODES = ("classifier", "features", "samples", *MEASUREMENTS)
"""Stages that nothing which codes images or decodes them reads."""


class RecordedSettings(Section):
    """What sample.py, evaluate.py and explore.py share."""

    run: str
    stale: StalePolicy
    tracking: Tracking
    trainer: Trainer
    paths: Paths


def find(settings: RecordedSettings) -> RunRecord:
    """The run meant by ``latest``, an id, its beginning, or a name."""
    from geovq.tracking import find_run

    if not settings.tracking.enabled:
        raise ConfigError("tracking.enabled=false: a run is looked up where runs are recorded; take tracking=mlflow")
    return find_run(settings.tracking, settings.paths.absolute, settings.run)


def restore(
    record: RunRecord,
    settings: RecordedSettings,
    changes: dict[str, Any] | None = None,
    rebuild: bool | None = None,
    indifferent: Collection[str] = (),
    images: bool = True,
) -> tuple[Runner, bool]:
    """A runner for the run's configuration with ``changes`` per group, on this machine's device and data.

    Beside it, whether its artifacts are those that the run recorded (before the changes). Raises ConfigError, which
    says what changed, where they would be others and ``rebuild`` is not true; None where a command does not offer that.
    Artifacts of the stages ``indifferent`` may be others. Without ``images`` their facts are those that the run has
    recorded, where it has: then they need not be there.
    """
    from geovq.commands.train import open_data
    from geovq.pipeline.runner import Runner, plan, to_standard_error
    from geovq.pipeline.stage import Context

    values = in_words_of_today(record.load_dict(CONFIG_FILE))
    values |= {"stages": "all", "stale": settings.stale, "tracking": settings.tracking.model_dump()}
    values["paths"]["root"] = str(settings.paths.absolute)
    values["data"]["root"] = os.environ.get("GEOVQ_DATA", values["data"]["root"])
    # keys that came after the run
    values["evaluation"] = option("evaluation", "default") | values["evaluation"]
    values["samples"] = {"guidance": 1.0, "steps": None} | values["samples"]
    values["vae"] = {"condition": "none", "condition_dropout": 0.1, **WEIGHTS_ARE_TRAINED} | values["vae"]
    values["data"] = merged(option("data", "_base"), values["data"])
    if values["finetune"]["name"] == "adversarial":
        values["finetune"] = {"averaging": 0.0, "frechet_weight": 0.0} | values["finetune"]
    values["vae"].setdefault("image_loss", option("vae", "_base")["image_loss"])
    values["vae"]["image_loss"] = {"frechet_weight": 0.0} | values["vae"]["image_loss"]
    values["trainer"] |= settings.trainer.model_dump(include={"device", "devices", "threads"})
    config: Config = validate(values)
    source, info = (None if images else recorded_images(record, config)) or open_data(config, told=True)
    context = Context(config, source, info)
    keys = plan(context)
    recorded = {stage: record.tags.get(f"artifact.{stage}", key) for stage, key in keys.items()}
    recorded |= {stage: keys[stage] for stage in indifferent if stage in keys}
    if keys != recorded and not rebuild:
        told = "; ".join(changes_since(context, keys, recorded))
        remedy = "put that back as it was" + ("" if rebuild is None else ", or rebuild=true goes on as a new run")
        raise ConfigError(f"run={record.run_id[:12]} ({record.name}) would not be the same again: {told}; {remedy}")
    for group, replaced in (changes or {}).items():
        values[group] |= {key: value for key, value in replaced.items() if value is not None}
    config = validate(values | {"trainer": context.config.trainer.model_dump()})
    return Runner(Context(config, source, info), to_standard_error), keys == recorded


class MissingImages:
    """The images of a run that are not asked for."""

    def __init__(self, info: DataInfo) -> None:
        self.location, self._info = "the images of the run", info

    def info(self) -> DataInfo:
        """As recorded."""
        return self._info

    def load(self) -> RawImages:
        """Nothing here may need them."""
        raise AssertionError("images are read where their facts alone were asked for")


def recorded_images(record: RunRecord, config: Config) -> tuple[ImageSource, DataInfo] | None:
    """The facts of a run's images as its autoencoder's artifact has them; None where it has not."""
    from geovq.data import DataInfo
    from geovq.pipeline.artifacts import ArtifactStore
    from geovq.pipeline.stages.networks import autoencoder_stage

    stage = autoencoder_stage(config)
    artifact = ArtifactStore(config.root).peek(stage, record.tags.get(f"artifact.{stage}", "-"))
    if artifact is None or "images" not in artifact.manifest:
        return None
    facts, data = artifact.manifest["images"], artifact.manifest["settings"]["data"]
    names = tuple(facts["class_names"])
    shape = facts["n_train"], facts["n_test"], facts["channels"], facts["height"], facts["width"]
    info = DataInfo(config.data.name, *shape, len(names), names, data["fingerprint"])
    return MissingImages(info), info


def changes_since(context: Context, keys: dict[str, str], recorded: dict[str, str]) -> list[str]:
    """What differs between the recorded artifacts and those that a configuration has now, where that began."""
    from geovq.pipeline.artifacts import ArtifactStore
    from geovq.pipeline.runner import image_facts, settings_of, stages_of

    store = ArtifactStore(context.config.root)
    told: list[str] = []
    changed = {stage for stage, key in keys.items() if recorded[stage] != key}
    for stage in stages_of(context.config):
        if stage.name not in changed or changed & set(stage.inputs(context.config)):
            continue  # the same, or only because its inputs are not
        artifact = store.peek(stage.folder, recorded[stage.name])
        if artifact is None:
            told.append(f"{stage.name} was {recorded[stage.name]} (no longer there) and is {keys[stage.name]}")
            continue
        if (schema := artifact.manifest.get("schema", stage.schema)) != stage.schema:
            told.append(f"{stage.name} has format {schema}, and this program writes {stage.schema}")
        now = {"settings": settings_of(stage, context), **image_facts(stage, context)}
        now = {name: value for name, value in now.items() if name in artifact.manifest}
        before = {name: artifact.manifest[name] for name in now}
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
