"""The table of runs as a person wants to see it: the headlines among the scores side by side, best PSNR first.

MLflow's own table starts without any metric column, and hides the jobs of a multirun under their parent. A saved view
of the experiment (what its "Share view" button makes) shows them; ``scripts/mlflow_ui.sh`` prints the link. Columns of
scores that no run has are not drawn.
"""

from __future__ import annotations

import json

from geovq.command_line import CONFIGS

VIEW_NAME = "geovq"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_NAME}"
PARAM_COLUMNS = ("data.name", "quantizer.name", "quantizer.K", "assign.name", "finetune.name", "seed")


def saved_view() -> str:
    """Value of the experiment tag `VIEW_TAG`: filter, order and columns of the table, as JSON."""
    from geovq.evaluation.evaluators import SCORES

    data_sets = sorted(path.stem for path in (CONFIGS / "data").glob("[!_]*.yaml"))
    names = [score.name for score in SCORES if score.headline]
    scores = dict.fromkeys(name.replace("<data>", data) for name in names for data in data_sets)
    columns = [f"params.`{name}`" for name in PARAM_COLUMNS] + [f"metrics.`{name}`" for name in scores]
    return json.dumps(
        {
            "searchFilter": "tags.`geovq.kind` = 'train'",
            "orderByKey": "metrics.`psnr`",
            "orderByAsc": False,
            "selectedColumns": columns,
        }
    )
