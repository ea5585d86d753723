"""Images as a file of bits, by the codes of a recorded run:  python src/compress.py run=latest images=photos/.

Settings are in ``configs/compress.yaml``.
"""

import hydra
from omegaconf import DictConfig

from geovq.launch import NOTHING_WRITTEN, launch, single_message


@hydra.main(version_base="1.3", config_path="../configs", config_name="compress")
@single_message
def main(config: DictConfig) -> None:
    """Find the run, give the images their codes, write and read them back."""
    from geovq.commands.compress import compress  # torch loads here, so that --help answers at once

    compress(config)


if __name__ == "__main__":
    launch(main, interrupted=NOTHING_WRITTEN)
