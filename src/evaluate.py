"""The report of a recorded run, measured again where asked for:  python src/evaluate.py run=latest.

Settings are in ``configs/evaluate.yaml``.
"""

import hydra
from omegaconf import DictConfig

from geovq.launch import launch, single_message


@hydra.main(version_base="1.3", config_path="../configs", config_name="evaluate")
@single_message
def main(config: DictConfig) -> float | None:
    """Find the run, measure, print."""
    from geovq.commands.evaluate import evaluate  # torch loads here, so that --help answers at once

    return evaluate(config)


if __name__ == "__main__":
    launch(main)
