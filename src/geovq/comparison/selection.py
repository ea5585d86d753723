"""Which recorded runs a comparison is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geovq.comparison.runs import CHOOSE_TEST_IMAGES, title_of
from geovq.errors import ConfigError
from geovq.tracking import RunRecord, TrackingSettings, find_run
from geovq.tracking.search import find_runs, last_sweep


@dataclass(frozen=True)
class Selection:
    """The runs, where they come from in words, and what was left out."""

    records: tuple[RunRecord, ...]
    origin: str
    remarks: tuple[str, ...]


def select_runs(settings: TrackingSettings, root: Path, runs: Sequence[str] | None, query: str | None) -> Selection:
    """The runs that are named, those that a filter keeps, or without either the last sweep.

    Without any sweep: all finished training runs on the test images of the one that ended last. Runs that are named
    are all taken, one that did not finish to be refused later; of the others such runs are left out with a remark.

    Raises:
        ConfigError: both are given, or no finished run is left.
        TrackingError: a run is unknown, or there is nothing recorded.
    """
    if runs is not None and query is not None:
        raise ConfigError(f"runs=[{','.join(runs)}] and query={query!r}: give one of them, and leave the other null")
    if runs is not None:
        named = {record.run_id: record for record in (find_run(settings, root, which) for which in runs)}
        return Selection(tuple(named.values()), f"{len(named)} named runs", ())
    key = "runs=null"
    if query is not None:
        key = f"tracking.experiment={settings.experiment} query={query!r}"
        found = find_runs(settings, root, query)
        origin = f"runs with {query}" if query else "all training runs of the experiment"
    elif sweep := last_sweep(settings, root):
        parent, found = sweep
        origin = f"the last sweep, {title_of(parent)}"
    else:
        newest = find_run(settings, root, "latest")
        images = [newest.params.get(key) for key in CHOOSE_TEST_IMAGES]
        every = find_runs(settings, root, "")
        found = [record for record in every if [record.params.get(key) for key in CHOOSE_TEST_IMAGES] == images]
        origin = f"all training runs on {newest.tags['data']} (no sweep is recorded)"
    finished = tuple(record for record in found if record.status == "FINISHED")
    left_out = [f"{title_of(record)} {record.status}" for record in found if record.status != "FINISHED"]
    if not finished:
        there = f"{len(left_out)} runs, none FINISHED" if left_out else "no training run"
        raise ConfigError(f"{key} finds {there}; ./scripts/mlflow_ui.sh lists the runs, runs=[id,id] names some")
    remarks = (f"Runs that did not finish are left out: {', '.join(left_out)}.",) if left_out else ()
    return Selection(finished, origin, remarks)
