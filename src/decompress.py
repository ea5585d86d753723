"""The images of a file that compress.py wrote:  python src/decompress.py photos.gvq output=decoded/.

Settings are in ``configs/decompress.yaml``.
"""

import hydra
from omegaconf import DictConfig

from geovq.launch import NOTHING_WRITTEN, launch, single_message


@hydra.main(version_base="1.3", config_path="../configs", config_name="decompress")
@single_message
def main(config: DictConfig) -> None:
    """Read the file, find its run, decode, write the images."""
    from geovq.commands.decompress import decompress  # torch loads here, so that --help answers at once

    decompress(config)


if __name__ == "__main__":
    launch(main, first="file", interrupted=NOTHING_WRITTEN)
