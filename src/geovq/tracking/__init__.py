"""Tracking: runs, their params, metrics and figures, kept with MLflow.

The only importer of mlflow, and only inside functions, since that import takes seconds.
"""

from geovq.tracking.params import flatten
from geovq.tracking.run import NullRun, Run, start_run
from geovq.tracking.search import RunRecord, find_run

__all__ = ["CONFIG_FILE", "NullRun", "Run", "RunRecord", "find_run", "flatten", "start_run"]

CONFIG_FILE = "config.json"
"""Where a run keeps its whole configuration, for all that reads runs."""
