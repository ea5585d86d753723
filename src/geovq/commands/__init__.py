"""What the entry points call: compose, validate, run, record, print."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geovq.configuration.section import Section

ENTRY_POINTS = {
    "train": "geovq.configuration.config:Config",
    "sample": "geovq.commands.sample:SampleSettings",
    "evaluate": "geovq.commands.evaluate:EvaluateSettings",
    "compare": "geovq.commands.compare:CompareSettings",
    "compress": "geovq.commands.compress:CompressSettings",
    "decompress": "geovq.commands.decompress:DecompressSettings",
}
"""The typed settings of every entry point, by the name of its configuration."""


def settings_of(name: str) -> type[Section]:
    """The section that ``configs/<name>.yaml`` is parsed into; nothing heavy is imported."""
    found: type[Section] = resolve_name(ENTRY_POINTS[name])
    return found
