"""Any wrong value for any key of any entry point ends in lines that name the key, before any compute."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from geovq.commands import ENTRY_POINTS, settings_of
from geovq.configuration.checks import check
from geovq.configuration.parse import parse
from geovq.data import DataInfo
from geovq.errors import ConfigError
from geovq.pipeline.memory import check_memory
from geovq.pipeline.stages import STAGES

DIGITS = DataInfo("digits", 1437, 360, 1, 8, 8, 10, tuple("0123456789"), "")
WRONG: list[Any] = [None, True, "", "abc", -1, 0.5, 10**15, float("nan"), [-1], {}]
CHANGED = ("quantizer", "assign", "finetune", "geo")
"""The groups that differ between the variants below."""
VARIANTS = {
    "train": [
        [],
        ["quantizer=product", "assign=search", "finetune=both"],
        ["quantizer=fsq", "geo=exact", "assign=sequential"],
        ["quantizer=vqvae2"],
        ["quantizer=gumbel"],
        ["quantizer=conditional"],
        ["quantizer=residual_vq"],
    ]
}
CASES = [(name, overrides) for name in ENTRY_POINTS for overrides in VARIANTS.get(name, [[]])]


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all keys, groups among them."""
    if path:
        yield path
    if isinstance(values, dict):
        for key, child in values.items():
            yield from leaves(child, (*path, key))


def ask(name: str, values: Any) -> None:
    """All that is asked before any compute and without recorded runs."""
    settings = parse(settings_of(name), values)
    if name == "train":
        check(settings, DIGITS)
        check_memory(settings, DIGITS, [stage.name for stage in STAGES])


@pytest.mark.parametrize(("name", "overrides"), CASES, ids=str)
def test_a_wrong_value_is_told_of_by_its_key(compose: Callable[..., Any], name: str, overrides: list[str]) -> None:
    right = compose(*overrides, name=name)
    ask(name, right)
    refused, missed = 0, []
    paths = [path for path in leaves(right) if not overrides or path[0] in CHANGED]
    for path in paths:
        for value in WRONG:
            values = copy.deepcopy(right)
            section = values
            for part in path[:-1]:
                section = section[part]
            section[path[-1]] = value
            key = ".".join(path)
            try:
                ask(name, values)
            except ConfigError as error:
                refused += 1
                # A word that chooses the kind of a group changes which other keys belong to it.
                subject = f"{path[0]}." if path[-1] in ("name", "_target_") else key
                if not any(subject in line for line in str(error).splitlines()):
                    missed.append((key, value, str(error)))
            except Exception as error:
                missed.append((key, value, repr(error)))
    assert missed == []
    assert refused > 4 * len(paths)
