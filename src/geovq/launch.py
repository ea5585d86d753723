"""Runs an entry point so that every fault ends in one clear message and a non-zero exit.

Nothing heavy is imported here: ``--help`` and mistakes in the configuration answer at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import OverrideParseException
from hydra.types import RunMode

import geovq.folders  # noqa: F401  (registers the resolver that configs/common.yaml asks)
from geovq.command_line import CONFIGS, prepared, quoted, with_key
from geovq.commands.launchers import missing_extra, worker_fault

EXIT_INTERRUPTED = 130
_GO_ON = "interrupted; the same command goes on from here"
NOTHING_WRITTEN = "interrupted; nothing was written"


class _Ended(BaseException):
    """Carries the error of a single job past Hydra, which would print a line of its own before our message."""


def single_message(task: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Decorate what ``hydra.main`` calls; in a sweep Hydra's line stays, for it tells which job it was."""

    @wraps(task)
    def run(config: Any) -> Any:
        try:
            return task(config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN or _debugging():
                raise
            raise _Ended from error

    return run


def _debugging() -> bool:
    return os.environ.get("GEOVQ_DEBUG") == "1"


def launch(main: Callable[[], object], first: str | None = None, interrupted: str = _GO_ON) -> None:
    """Call a Hydra entry point; turn exceptions into one message unless ``GEOVQ_DEBUG=1``.

    ``first`` is the key that a first word without one is meant for: ``decompress.py photos.gvq``; ``interrupted`` is
    said after Ctrl-C.
    """
    # Hydra then hands exceptions to us instead of printing a shortened traceback itself.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.argv[1:], remarks = prepared(sys.argv[1:] if first is None else with_key(sys.argv[1:], first))
        _find_packages_of(sys.argv[1:])
        for remark in remarks:
            print(f"remark: {remark}", file=sys.stderr)
        main()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `… --help | head`
    except BaseException as error:
        # The tracked run turns SIGTERM and SIGHUP into the codes 129 and 143, to be closed as KILLED.
        is_signal = isinstance(error, SystemExit) and error.code in (129, 143)
        if _debugging() or (isinstance(error, SystemExit) and not is_signal):
            raise
        if isinstance(error, KeyboardInterrupt | SystemExit):
            _leave(interrupted, EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else error.code)
        _leave(_of_sweep(error) or describe(error.__cause__ if isinstance(error, _Ended) else error), 1)


def _of_sweep(error: BaseException) -> str | None:
    """How a sweep ended of which jobs failed, after the line of each; None where none did."""
    from geovq.commands.job import failed_jobs

    lines, still = failed_jobs()
    if still:
        print("\n".join(lines), file=sys.stderr)
    if not lines:
        return None
    died = worker_fault(error)
    count = f"{len(lines)} job{'s' if len(lines) > 1 else ''} of the sweep failed"
    return f"{count}{f'; {died}' if died else ''}; the same command goes on with what is not finished"


def _find_packages_of(arguments: list[str]) -> None:
    """Let classes be imported that lie beside a folder given as ``--config-dir``, here and in workers."""
    from argparse import ArgumentParser

    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    given = parser.parse_known_args(arguments)[0].config_dir
    folders = [str(Path(__file__).parents[1])]  # workers are to run this source, whichever is installed
    if given is not None:
        folders.insert(0, str(Path(given).expanduser().resolve().parent))
        sys.path.insert(0, folders[0])
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])


def describe(error: BaseException | None) -> str:
    """The message a person sees."""
    from geovq.errors import GeoVQError

    text = str(error).strip() or type(error).__name__
    if isinstance(error, GeoVQError):
        return text
    if isinstance(error, OverrideParseException):
        return f"{error.override}: Hydra cannot read it; quote the value: {quoted(error.override)}"
    if type(error).__module__.startswith(("hydra", "omegaconf")):
        # A resolver of ours that refuses is raised again by OmegaConf, several times over.
        while error is not None and not isinstance(error, GeoVQError):
            error = error.__cause__ or error.__context__
        return composing_fault(text) if error is None else str(error)
    if isinstance(error, OSError) and error.errno == 28:
        return f"the disk is full ({text}): free some space and run the same command again"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}; name another file or folder, or make this one accessible"
    if error is not None and (fault := worker_fault(error)):
        return f"{fault}; the same command goes on with what is not finished"
    return f"{type(error).__name__}: {text} (a fault of the program; GEOVQ_DEBUG=1 shows where)"


def composing_fault(text: str) -> str:
    """Hydra's message about a key or an option that is not there, as one line with key, value and remedy."""
    if found := re.search(r"Could not find '(.+)/(.+)'\s+Available options in '.+':\n([\s\S]*?)(?:\nConfig|$)", text):
        if found[1] == "hydra/launcher" and (fault := missing_extra(found[2])):
            return fault
        known = [name for name in found[3].split() if not name.startswith("_")]
        return f"{found[1]}={found[2]}: no such option; choose {', '.join(known)}"
    if found := re.search(r"Could not override '.+'\.\s+To append to your config use \+(.+?)=(.*)", text):
        return f"{found[1]}={found[2]}: {_where_instead(found[1])}"
    if found := re.match(r"Ambiguous value for argument '(.*)'", text):
        instead = f"one value with a comma in it is quoted: {quoted(found[1])}"
        return f"{found[1]}: -m runs one job for each value; {instead}"
    if found := re.search(r"node `(\w+)` is not a container", text):
        return f"{found[1]} is a group of settings, not a value; set those of its keys that you mean"
    if found := re.search(r"^(.*)\n\s*full_key: (\S+)", text):
        return f"{found[2]}: {found[1]}"
    return text.split("\nConfig search path:")[0]


def _where_instead(key: str) -> str:
    group, _, name = key.rpartition(".")
    if not group:
        words = [path.stem for path in CONFIGS.iterdir() if path.is_dir()] + ["seed", "stages", "samples"]
        near = get_close_matches(key, words, n=1)
        return f"no such key or group; {f'did you mean {near[0]}?' if near else '--help lists the groups'}"
    options = sorted((CONFIGS / group).glob("[!_]*.yaml"))
    have = [path.stem for path in options if re.search(rf"^{re.escape(name)}:", _with_base(path), re.MULTILINE)]
    if have:
        return f"the option chosen has no such key; it belongs to {group}={' or '.join(have)}"
    return f"no such key; configs/{group if options else ''} lists those there are"


def _with_base(option: Path) -> str:
    """Text of an option, and of the one whose keys it takes over."""
    text = option.read_text(encoding="utf-8")
    base = re.search(r"^defaults: \[(\w+), _self_\]", text, re.MULTILINE)
    return text if base is None else text + _with_base(option.with_stem(base[1]))


def _leave(message: str, code: Any) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
