"""A recorded run in the browser:  python src/explore.py run=latest            # http://127.0.0.1:8050

Settings are in ``configs/explore.yaml``.
"""

import hydra
from omegaconf import DictConfig

from geovq.launch import launch, single_message


@hydra.main(version_base="1.3", config_path="../configs", config_name="explore")
@single_message
def main(config: DictConfig) -> None:
    """Find the run, read it, serve until Ctrl-C."""
    from geovq.commands.explore import explore  # torch loads here, so that --help answers at once

    explore(config)


if __name__ == "__main__":
    launch(main)
