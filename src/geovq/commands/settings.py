"""The typed settings of every entry point, by the name of its configuration."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geovq.configuration.section import Section

ENTRY_POINTS = {
    "train": ("geovq.configuration.config", "Config"),
    "sample": ("geovq.commands.sample", "SampleSettings"),
    "evaluate": ("geovq.commands.evaluate", "EvaluateSettings"),
    "compare": ("geovq.commands.compare", "CompareSettings"),
}


def settings_of(name: str) -> type[Section]:
    """The section that ``configs/<name>.yaml`` is parsed into; nothing heavy is imported."""
    module, section = ENTRY_POINTS[name]
    found: type[Section] = getattr(import_module(module), section)
    return found
