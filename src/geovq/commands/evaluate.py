"""``src/evaluate.py``: the report of a recorded run, under other evaluation settings where given."""

from __future__ import annotations

from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, create_model

from geovq.commands.recorded import RecordedSettings, find, restore
from geovq.commands.train import print_report, record_config, record_results, run_name, tags
from geovq.pipeline.config import parse
from geovq.pipeline.sections import Evaluation, Paths, Section

_fields: dict[str, Any] = {
    name: (Annotated[field.annotation, Field(), *field.metadata] | None, ...)
    for name, field in Evaluation.model_fields.items()
    if name != "classifier"  # other features would give other scores than the run's
}
EvaluationChanges = create_model("EvaluationChanges", __base__=Section, **_fields)
"""The settings of ``evaluation`` with null for those of the run."""


class EvaluateSettings(RecordedSettings):
    """``configs/evaluate.yaml``."""

    evaluation: EvaluationChanges  # type: ignore[valid-type]
    paths: Paths


def evaluate(composed: DictConfig) -> float | None:
    """Print the report; where it had to be measured again, record it as a run of its own."""
    settings = parse(EvaluateSettings, OmegaConf.to_container(composed, resolve=True))
    root = settings.paths.absolute
    record = find(settings.tracking, root, settings.run)
    changes = settings.evaluation.model_dump()  # type: ignore[attr-defined]
    runner = restore(record, root, settings.trainer, {"evaluation": changes})
    results = runner.run()
    config = runner.context.config
    if not results["report"].cached:
        from geovq.tracking import start_run

        labels = tags(config, runner) | {"geovq.kind": "evaluate", "evaluated_run": record.run_id}
        with start_run(settings.tracking, root, f"{run_name(config)}-evaluate", labels) as run:
            record_config(run, config)
            record_results(run, results)
    return print_report(config, results)
