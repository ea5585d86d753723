"""The table of runs as a person wants to see it: the quality measures side by side, best PSNR first.

MLflow's own table starts without any metric column, and hides the jobs of a multirun under their parent. A
saved view of the experiment (what its "Share view" button makes) shows them; ``scripts/mlflow_ui.sh``
prints the link. Columns of metrics no run has are not drawn.
"""

from __future__ import annotations

import json

VIEW_NAME = "geovq"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_NAME}"
PARAM_COLUMNS = ("data.name", "quantizer.name", "quantizer.K", "assign.name", "finetune.name", "seed")
METRIC_COLUMNS = (
    "psnr",
    "psnr_continuous",
    "psnr_quantization",
    "ssim",
    "lpips",
    "perceptual_digits_cnn",
    "perceptual_mnist_cnn",
    "perceptual_fashion_cnn",
    "perceptual_cifar10_cnn",
    "perceptual_folder_cnn",
    "perplexity",
    "active_codes",
)


def saved_view() -> str:
    """Value of the experiment tag `VIEW_TAG`: filter, order and columns of the table, as JSON."""
    columns = [f"params.`{name}`" for name in PARAM_COLUMNS] + [f"metrics.`{name}`" for name in METRIC_COLUMNS]
    return json.dumps(
        {
            "searchFilter": "tags.`geovq.kind` = 'train'",
            "orderByKey": "metrics.`psnr`",
            "orderByAsc": False,
            "selectedColumns": columns,
        }
    )
