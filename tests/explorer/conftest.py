"""A tiny finished run as the explorer reads it."""

from __future__ import annotations

from typing import Any

import pytest

from geovq.explorer.explored_run import ExploredRun, explored


@pytest.fixture(scope="session")
def run(digits_run: Any) -> ExploredRun:
    runner, _ = digits_run
    return explored(runner.context, runner.present(), "tiny", "0" * 32)
