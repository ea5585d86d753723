"""``src/evaluate.py``: the report of a recorded run, under other evaluation settings where given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, create_model

from geovq.commands.closing import as_tag, close, words_recorded
from geovq.commands.recorded import RecordedSettings, find, restore
from geovq.commands.train import print_report, record_results, recording, run_name
from geovq.configuration.parse import parse
from geovq.configuration.section import Section
from geovq.configuration.sections import Evaluation, Tracking

_fields: dict[str, Any] = {
    name: (Annotated[field.annotation, Field(), *field.metadata] | None, ...)
    for name, field in Evaluation.model_fields.items()
    if name != "classifier"  # other features would give other scores than the run's
}
EvaluationChanges = create_model("EvaluationChanges", __base__=Section, **_fields)
"""The settings of ``evaluation`` with null for those of the run."""


class EvaluateSettings(RecordedSettings):
    """``configs/evaluate.yaml``."""

    rebuild: bool
    evaluation: EvaluationChanges  # type: ignore[valid-type]


def evaluate(composed: DictConfig) -> float | None:
    """Print the report; where it had to be measured again, record it as a run of its own."""
    settings = parse(EvaluateSettings, OmegaConf.to_container(composed, resolve=True))
    from geovq.evaluation.evaluators import evaluators_of

    record = find(settings)
    changes = {"evaluation": settings.evaluation.model_dump()}  # type: ignore[attr-defined]
    runner, same = restore(record, settings, changes, settings.rebuild)
    evaluators_of(runner.context.config)  # refuses what cannot measure, before any compute
    results = runner.run()
    config = runner.context.config
    psnr = print_report(config, results, whole=True)  # first: it is done, whatever becomes of the recording
    words = words_recorded(record.tags)
    if not same or not is_recorded(settings.tracking, settings.paths.absolute, runner.keys["report"]):
        labels = {"geovq.kind": "evaluate", "evaluated_run": record.run_id} if same else {"rebuilt_from": record.run_id}
        suffix = "-evaluate" if same else ""
        with recording(runner, labels | as_tag(words), suffix) as run:
            name = settings.tracking.run_name or run_name(config) + suffix
            page = close(config, results, name, run.run_id, words)
            # Nothing was recorded while stages were built: all curves come from their artifacts.
            record_results(run, {stage: replace(result, cached=True) for stage, result in results.items()}, page)
    else:
        close(config, results, record.name, record.run_id, words)
    return psnr


def is_recorded(tracking: Tracking, root: Path, report: str) -> bool:
    """Whether a finished run holds this very report; the file alone may stem from a run that could not be recorded."""
    from geovq.tracking.search import find_runs

    query = f"tags.`artifact.report` = '{report}' and attributes.status = 'FINISHED' and tags.`geovq.kind` != 'stages'"
    return bool(find_runs(tracking, root, query))
