"""Tracking: runs, their params, metrics and figures, kept with MLflow.

The only importer of mlflow, and only inside functions (the import takes seconds), so that importing this
package costs nothing.
"""

from geovq.tracking.address import resolve_uri
from geovq.tracking.multirun import PARENT_VARIABLE, parent_run_id
from geovq.tracking.params import flatten
from geovq.tracking.run import NullRun, Run, start_run
from geovq.tracking.search import RunRecord, find_run
from geovq.tracking.store import TrackingSettings

__all__ = [
    "CONFIG_FILE",
    "PARENT_VARIABLE",
    "NullRun",
    "Run",
    "RunRecord",
    "TrackingSettings",
    "find_run",
    "flatten",
    "parent_run_id",
    "resolve_uri",
    "start_run",
]

CONFIG_FILE = "config.json"
"""Where a run keeps its whole configuration, for all that reads runs."""
