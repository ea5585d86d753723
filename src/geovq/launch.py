"""Runs an entry point so that every fault ends in one clear message and a non-zero exit.

Nothing heavy is imported here: ``--help`` and mistakes in the configuration answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

EXIT_INTERRUPTED = 130
_GO_ON = "interrupted; the same command goes on from here"


def launch(main: Callable[[], object]) -> None:
    """Call a Hydra entry point; turn exceptions into one message unless ``GEOVQ_DEBUG=1``."""
    # Hydra then hands exceptions to us instead of printing a shortened traceback itself.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    debug = os.environ.get("GEOVQ_DEBUG") == "1"
    try:
        main()
    except KeyboardInterrupt:
        if debug:
            raise
        _leave(_GO_ON, EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `… --help | head`
    except SystemExit as end:
        # The tracked run turns SIGTERM and SIGHUP into these codes, to be closed as KILLED.
        if debug or end.code not in (129, 143):
            raise
        _leave(_GO_ON, int(end.code))
    except Exception as error:
        if debug:
            raise
        _leave(describe(error), 1)


def describe(error: Exception) -> str:
    """The message a person sees."""
    from geovq.errors import GeoVQError

    text = str(error).strip() or type(error).__name__
    if isinstance(error, GeoVQError):
        return text
    if type(error).__module__.startswith(("hydra", "omegaconf")):
        return text.split("\nConfig search path:")[0]
    if isinstance(error, OSError) and error.errno == 28:
        return f"the disk is full ({text}): free some space and run the same command again"
    return f"{type(error).__name__}: {text} (a fault of the program; GEOVQ_DEBUG=1 shows where)"


def _leave(message: str, code: int) -> None:
    lines = message.splitlines()
    print("\n".join([f"error: {lines[0]}", *lines[1:]]), file=sys.stderr)
    sys.exit(code)
