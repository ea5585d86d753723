"""Names that scores and parameters of runs recorded earlier had: such runs are read under the names of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

RENAMED_METRICS: dict[str, str] = {"n_arms": "n_methods"}
"""Old name of a score to its name today; a reason of omission, the tag ``omitted.<name>``, moves with it."""

RENAMED_PARAMS: dict[str, str] = {}
"""Old dotted name of a setting to its name today."""


def under_new_names(recorded: Mapping[str, Value], renamed: Mapping[str, str], prefix: str = "") -> dict[str, Value]:
    """What is recorded, with every ``prefix`` + old name replaced."""
    names = {prefix + old: prefix + new for old, new in renamed.items()}
    return {names.get(name, name): value for name, value in recorded.items()}
