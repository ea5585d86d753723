"""A recorded run brought back: its configuration, its data, its artifacts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from geovq.errors import ConfigError
from geovq.pipeline.config import Config, validate
from geovq.pipeline.sections import Section, Tracking, Trainer
from geovq.tracking import CONFIG_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from geovq.pipeline.runner import Runner
    from geovq.tracking import RunRecord


def find(tracking: Tracking, root: Path, which: str) -> RunRecord:
    """The run meant by ``latest``, an id, its beginning, or a name."""
    from geovq.tracking import find_run

    if not tracking.enabled:
        raise ConfigError("tracking.enabled=false: a run is looked up where runs are recorded; take tracking=mlflow")
    return find_run(tracking, root, which)


def restore(record: RunRecord, root: Path, trainer: Trainer, changes: dict[str, Any] | None = None) -> Runner:
    """A runner for the run's configuration with ``changes`` per group, on this machine's device and data."""
    from geovq.commands.train import open_data
    from geovq.pipeline.runner import Runner, to_standard_error
    from geovq.pipeline.stage import Context

    values = record.load_dict(CONFIG_FILE)
    values["paths"]["root"] = str(root)
    values["stages"] = "all"
    values["data"]["root"] = os.environ.get("GEOVQ_DATA", values["data"]["root"])
    values["data"].setdefault("full_scale", None)  # runs recorded before there was such a key
    for key in ("device", "threads"):
        values["trainer"][key] = getattr(trainer, key)
    for group, replaced in (changes or {}).items():
        values[group] |= {key: value for key, value in replaced.items() if value is not None}
    config: Config = validate(values)
    source, info = open_data(config)
    return Runner(Context(config, source, info), to_standard_error)


class RecordedSettings(Section):
    """What sample.py and evaluate.py share."""

    run: str
    tracking: Tracking
    trainer: Trainer
