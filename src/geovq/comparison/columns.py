"""The columns of the table: what a score is called, its unit, which way is better, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from geovq.evaluation.evaluator import Score
from geovq.evaluation.evaluators import score_of
from geovq.evaluation.generation import BESIDE_FLOORS, RECONSTRUCTIONS, TRAINING

if TYPE_CHECKING:
    from geovq.comparison.runs import ComparedRun

OPTIONAL = ("psnr_validation", "search_gain_db", "encoding_milliseconds_per_image")
"""Metrics that older runs lack without a reason of their own; where no run has one, there is no column for it."""


class Column(NamedTuple):
    """How a metric is shown; ``unit`` is empty for numbers without one."""

    metric: str
    title: str
    unit: str
    better: str
    form: str


def column_of(metric: str, runs: Sequence[ComparedRun] = ()) -> Column:
    """The column of a metric, as its evaluator declares it; the reports of runs hold declarations that are not ours."""
    reports = (run.report for run in runs if run.report.has("added_scores.json"))
    score = score_of(metric, (Score(**each) for report in reports for each in report.json("added_scores")))
    return Column(metric, score.title, score.unit, score.better, score.form)


def shown_metrics(metrics: Sequence[str], runs: Sequence[ComparedRun]) -> list[str]:
    """Without the optional ones that no run has; scores of samples with their floors beside them."""
    floored = [score.name.removesuffix("_<data>_cnn") for score in BESIDE_FLOORS]
    beside = {name: [name + suffix for suffix in (TRAINING, RECONSTRUCTIONS)] for name in floored}
    names = dict.fromkeys(each for name in metrics for each in (name, *beside.get(name, ())))
    return [name for name in names if name not in OPTIONAL or any(run.metric(name) is not None for run in runs)]
