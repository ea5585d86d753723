"""``src/evaluate.py``: the report of a recorded run, under other evaluation settings where given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from geovq.commands.recorded import RecordedSettings, find, restore
from geovq.commands.train import print_report, record_config, record_results, run_name, tags
from geovq.pipeline.config import parse
from geovq.pipeline.sections import Paths


class EvaluateSettings(RecordedSettings):
    """``configs/evaluate.yaml``."""

    evaluation: dict[str, Any]
    paths: Paths


def evaluate(composed: DictConfig) -> float | None:
    """Print the report; where it had to be measured again, record it as a run of its own."""
    settings = parse(EvaluateSettings, OmegaConf.to_container(composed, resolve=True))
    root = settings.paths.absolute
    record = find(settings.tracking, root, settings.run)
    runner, same = restore(record, root, settings, {"evaluation": settings.evaluation})
    results = runner.run()
    config = runner.context.config
    if not same or not results["report"].cached:
        from geovq.tracking import start_run

        labels = tags(config, runner)
        name = run_name(config)
        if same:
            labels |= {"geovq.kind": "evaluate", "evaluated_run": record.run_id}
            name += "-evaluate"
        else:
            labels |= {"rebuilt_from": record.run_id}
        with start_run(settings.tracking, root, name, labels) as run:
            record_config(run, config)
            # Nothing was recorded while stages were built: all curves come from their artifacts.
            record_results(run, {stage: replace(result, cached=True) for stage, result in results.items()})
    return print_report(config, results)
