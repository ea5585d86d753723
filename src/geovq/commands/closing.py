"""The end of a run: its page, and the three lines that say where to look and what to try next."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from geovq.tracking.params import cut
from geovq.tracking.search import OVERRIDES_TAG

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.pipeline.runner import StageRun


def words_given() -> list[str] | None:
    """What this job of ``train.py`` was told, without where it is recorded; None where no command line is behind it."""
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    words = [word for word in hydra.overrides.task if not word.startswith("tracking")]
    return [*(word for folder in folders for word in ("--config-dir", folder)), *words]


def words_recorded(tags: Mapping[str, str]) -> list[str] | None:
    """The words that a recorded run was given, and those of this command that change its evaluation."""
    try:
        words = shlex.split(tags[OVERRIDES_TAG])
    except (KeyError, ValueError):  # of before they were recorded, or cut
        return None
    return words + [word for word in words_given() or () if word.startswith("evaluation.")]


def as_tag(words: Sequence[str] | None) -> dict[str, str]:
    """The words as ``words_recorded`` reads them."""
    return {} if words is None else {OVERRIDES_TAG: cut(shlex.join(words))}


def close(
    config: Config, results: Mapping[str, StageRun], name: str, run_id: str, words: Sequence[str] | None
) -> Path | None:
    """Write the page of a run and say where it is; its path, None where there is no report or it cannot be written.

    What was computed and is recorded does not depend on the page, so a fault of the disk is a warning here.
    """
    if "report" not in results:
        return None
    from geovq.page import FinishedRun, page_path, write_page

    path = page_path(config.root, name)
    try:
        write_page(FinishedRun(name, config, results, words, run_id), path)
    except OSError as error:
        print(f"warning: the page {path} cannot be written: {error.strerror or error}", file=sys.stderr)
        return None
    print(f"page: {path}", file=sys.stderr)
    if not (HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN):
        if config.tracking.enabled:
            print(f"all runs: {_how_to_look(config)}", file=sys.stderr)
        print(f"next: {next_command(config, words or (), run_id)}", file=sys.stderr)
    return path


def _how_to_look(config: Config) -> str:
    """What opens MLflow."""
    if config.tracking.uri is not None:
        from geovq.tracking.address import without_password

        return without_password(config.tracking.uri)
    usual = Path(os.environ.get("GEOVQ_ROOT") or "experiments").expanduser().resolve()
    return ("" if config.root == usual else f"GEOVQ_ROOT={shlex.quote(str(config.root))} ") + "./scripts/mlflow_ui.sh"


def next_command(config: Config, words: Sequence[str], run_id: str = "") -> str:
    """The same with a Euclidean codebook beside it, or samples of a run whose quantizer has settings of its own."""
    if any(word.startswith("quantizer.") and not word.startswith("quantizer.K=") for word in words):
        return f"python src/sample.py run={run_id[:12] or 'latest'}" if config.has_prior else "python src/compare.py"
    kept = [word for word in words if not word.startswith("quantizer=")]
    both = f"{config.quantizer.name},{'whitened' if config.quantizer.name == 'euclidean' else 'euclidean'}"
    return f"{shlex.join(['python', 'src/train.py', '-m', *kept, f'quantizer={both}'])} && python src/compare.py"
