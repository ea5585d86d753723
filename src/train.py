"""Images to codes, samples and a report:  python src/train.py data=fashion quantizer=geodesic.

Settings are in ``configs/``; the stages, in order, in ``geovq/pipeline/stages``.
"""

import hydra
from omegaconf import DictConfig

from geovq.launch import launch, single_message


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
@single_message
def main(config: DictConfig) -> float | None:
    """Compose, validate, run."""
    from geovq.commands.train import train  # torch loads here, so that --help answers at once

    return train(config)


if __name__ == "__main__":
    launch(main)
