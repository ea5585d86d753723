"""What processes of a test run; in a module of its own, since packages exist that install another ``tests``."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from geovq.pipeline.artifacts import ArtifactStore, ArtifactWriter


def slow_build(root: str, log: str) -> None:
    """Build one artifact, taking half a second, and say so in ``log``."""

    def slow(out: ArtifactWriter) -> None:
        with Path(log).open("a") as file:
            file.write("built\n")
        time.sleep(0.5)
        out.tensors("x", {"x": torch.zeros(1)})

    ArtifactStore(Path(root)).build("stage", "0123", {"a": 1}, {}, slow)
