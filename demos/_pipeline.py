"""What all demos share: the words of the command line, the run that they describe, the figures it leaves.

``python demos/<name>.py --help`` prints the demo's docstring. A wrong word ends in one line, Ctrl-C in another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "src"))

from geovq.errors import ConfigError, DataError
from geovq.launch import launch

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from geovq.pipeline.runner import Runner


def run_demo(main: Callable[[list[str]], None], description: str | None) -> None:
    """Call ``main`` with the overrides of the command line; every fault ends in one line and a non-zero exit."""
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print((description or "").strip())
        return
    launch(lambda: main(sys.argv[1:]))


def runner_of(*words: str) -> Runner:
    """The runner of a configuration, from words such as ``data=fashion``; of two words for one key the later counts.

    Raises:
        ConfigError: words that describe no run, or one whose codebook is trained with its autoencoder.
    """
    from hydra import compose, initialize_config_dir

    for word in words:
        if word.startswith("-"):
            raise ConfigError(f"{word}: demos take key=value alone, such as data=fashion")
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        composed = compose("train", ["tracking=none", *words])

    from geovq.commands.train import open_data, read_config
    from geovq.pipeline.runner import Runner, to_standard_error
    from geovq.pipeline.stage import Context

    config = read_config(composed)
    if config.is_joint:
        raise ConfigError(
            f"quantizer={config.quantizer.name} is trained with its autoencoder, and this demo looks at latents of a "
            "VAE without codes; leave it out"
        )
    return Runner(Context(config, *open_data(config)), to_standard_error)


def labels_of(runner: Runner, split: str) -> Tensor:
    """The class of every image of a split, (N,).

    Raises:
        DataError: the images have fewer than two classes.
    """
    labels: Tensor | None = getattr(runner.context.data, split).labels
    if labels is None or len(labels.unique()) < 2:
        name = runner.context.config.data.name
        raise DataError(f"data={name}: this demo compares classes, and there are fewer than two; take data=digits")
    return labels


def save(figure: Figure, runner: Runner, name: str) -> Path:
    """Write a figure to ``<output folder>/demos/<name>.png`` and say so."""
    target = runner.context.config.root / "demos" / f"{name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=figure.dpi)
    print(f"figure: {target}")
    return target
