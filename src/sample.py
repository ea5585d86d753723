"""Images from the prior of a recorded run:  python src/sample.py run=latest 'temperature=[0.5,1.0]' label=0.

Settings are in ``configs/sample.yaml``.
"""

import hydra
from omegaconf import DictConfig

from geovq.launch import launch, single_message


@hydra.main(version_base="1.3", config_path="../configs", config_name="sample")
@single_message
def main(config: DictConfig) -> None:
    """Find the run, draw, save."""
    from geovq.commands.sample import sample  # torch loads here, so that --help answers at once

    sample(config)


if __name__ == "__main__":
    launch(main)
