"""Recorded runs side by side: table, rate-distortion plot, reconstructions, one page:  python src/compare.py.

Settings are in ``configs/compare.yaml``.
"""

import hydra
from omegaconf import DictConfig

from geovq.launch import launch, single_message


@hydra.main(version_base="1.3", config_path="../configs", config_name="compare")
@single_message
def main(config: DictConfig) -> None:
    """Find the runs, compare, write, print."""
    from geovq.commands.compare import compare  # torch loads here, so that --help answers at once

    compare(config)


if __name__ == "__main__":
    launch(main)
