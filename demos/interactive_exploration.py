"""The explorer on two small runs that this demo builds: everything in it can be clicked.

    python demos/interactive_exploration.py                   # scikit-learn's digits, a minute the first time
    python demos/interactive_exploration.py data=fashion      # Fashion-MNIST
    python demos/interactive_exploration.py port=8051         # where another explorer has the usual port

Two codebooks are fitted to the latents of one VAE, along shortest paths (geodesic) and by k-means (Euclidean), and a
prior is trained on the codes of the first. Then the explorer opens at http://127.0.0.1:8050; Ctrl-C ends it. What to
look for:

1. Map: colour by code, then by class. Codes are neighbourhoods of the decoder, classes are not.
2. Token: click a point. The nearest by latent distance and by the decoder's metric are different tokens.
3. Path: click a second one. The geodesic is the shortest; how much shorter than the straight line is it?
4. Codes: "what would search do?" until it stops, and watch the error fall and the prior's bits rise.
5. Compare: the Euclidean codebook, image by image; click a bar of the histogram.
6. Sample: complete the upper half of a test image.
"""

from __future__ import annotations

import sys

from _pipeline import run_demo, runner_of

from geovq.commands.explore import check_free, look_ahead, serve
from geovq.errors import ConfigError
from geovq.explorer.app import explorer
from geovq.explorer.explored_run import ExploredRun, explored

HOST, PORT = "127.0.0.1", 8050


def main(words: list[str]) -> None:
    port, words = port_of(words)
    check_free(HOST, port)
    run, other = runs_of(words)
    app = explorer(run, lambda: {other.run_id: other.name}, lambda run_id: other)
    look_ahead(run)
    print(f"explorer: http://{HOST}:{port} (Ctrl-C ends it)", file=sys.stderr)
    serve(app, HOST, port)


def port_of(words: list[str]) -> tuple[int, list[str]]:
    """The port among the words, and the other words."""
    given = [word.partition("=")[2] for word in words if word.startswith("port=")]
    if given and not (given[-1].isdecimal() and 0 < int(given[-1]) < 65536):
        raise ConfigError(f"port={given[-1]}: give a whole number from 1 to 65535")
    return int(given[-1]) if given else PORT, [word for word in words if not word.startswith("port=")]


def runs_of(words: list[str]) -> tuple[ExploredRun, ExploredRun]:
    """The run to explore and the one to compare it with, built where they are not there."""
    built = []
    for quantizer, more in (("geodesic", ()), ("euclidean", ("transformer=none",))):
        runner = runner_of(f"quantizer={quantizer}", *words, *more)
        runner.run()
        built.append(
            explored(runner.context, runner.present(), f"{runner.context.config.data.name}-{quantizer}", quantizer)
        )
    return built[0], built[1]


if __name__ == "__main__":
    run_demo(main, __doc__)
