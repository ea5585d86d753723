"""``src/evaluate.py``: the report of a recorded run, under other evaluation settings where given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from geovq.commands.recorded import RecordedSettings, find, restore
from geovq.commands.train import print_report, record_config, record_results, run_name, tags
from geovq.pipeline.config import parse
from geovq.pipeline.sections import Paths, Tracking

if TYPE_CHECKING:
    from pathlib import Path


class EvaluateSettings(RecordedSettings):
    """``configs/evaluate.yaml``."""

    evaluation: dict[str, Any]
    paths: Paths


def evaluate(composed: DictConfig) -> float | None:
    """Print the report; where it had to be measured again, record it as a run of its own."""
    settings = parse(EvaluateSettings, OmegaConf.to_container(composed, resolve=True))
    root = settings.paths.absolute
    record = find(settings.tracking, root, settings.run)
    changes = {"evaluation": settings.evaluation, "tracking": settings.tracking.model_dump()}
    runner = restore(record, root, settings.trainer, changes)
    results = runner.run()
    config = runner.context.config
    psnr = print_report(config, results)  # first: it is done, whatever becomes of the recording
    if not is_recorded(settings.tracking, root, runner.keys["report"]):
        from geovq.tracking import start_run

        labels = tags(config, runner) | {"geovq.kind": "evaluate", "evaluated_run": record.run_id}
        with start_run(settings.tracking, root, f"{run_name(config)}-evaluate", labels) as run:
            record_config(run, config)
            record_results(run, results)
    return psnr


def is_recorded(tracking: Tracking, root: Path, report: str) -> bool:
    """Whether a finished run holds this very report; the file alone may stem from a run that could not be recorded."""
    from geovq.tracking.search import find_runs

    query = f"tags.`artifact.report` = '{report}' and attributes.status = 'FINISHED' and tags.`geovq.kind` != 'stages'"
    return bool(find_runs(tracking, root, query))
