"""What may be written to a run, and what it was called earlier.

MLflow keeps a param for ever, cuts values silently at 6,000 characters, and takes only some characters in names.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from geovq.errors import InputError

MAX_VALUE_LENGTH = 6000
MAX_NAME_LENGTH = 250
NAME = re.compile(r"[\w./ -]+")
RENAMED_METRICS: dict[str, str] = {"n_arms": "n_methods"}
"""Old name of a score to its name today; a reason of omission, the tag ``omitted.<name>``, moves with it."""

Value = TypeVar("Value")


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Nested config to dotted names and text values, in the config's order.

    Scalars are spelled as in YAML, lists as JSON, so that a value can be pasted into an override. Values over 6,000
    characters are cut, with a note. Raises InputError for a name MLflow cannot keep.
    """
    return {checked_name(name, "param"): cut(_as_text(value)) for name, value in _leaves("", config)}


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of everything in ``value`` that is no non-empty mapping."""
    if isinstance(value, Mapping) and (value or not name):
        for key, child in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), child)
    else:
        yield name, value


def _as_text(value: Any) -> str:
    """One value as YAML would spell it on one line."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    as_json = value is None or is_list or isinstance(value, bool | Mapping)
    return json.dumps(value, default=str) if as_json else str(value)


def cut(text: str) -> str:
    """The text, or its beginning and a note on its full length, within MLflow's limit."""
    if len(text) <= MAX_VALUE_LENGTH:
        return text
    note = f" ... [cut, {len(text)} characters in all]"
    return text[: MAX_VALUE_LENGTH - len(note)] + note


def checked_name(name: str, kind: str) -> str:
    """The name of a param, metric or tag unchanged, or InputError when MLflow cannot keep it."""
    if not NAME.fullmatch(name):
        raise InputError(f"{kind} name {name!r} is not allowed; use letters, digits and / . - _ space")
    if len(name) > MAX_NAME_LENGTH:
        raise InputError(f"{kind} name of {len(name)} characters ({name[:40]}...); at most {MAX_NAME_LENGTH}")
    # MLflow uses names as paths.
    if posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == ".":
        raise InputError(f"{kind} name {name!r} is no clean relative path; leave out leading /, .., ./ and //")
    return name


def under_new_names(recorded: Mapping[str, Value], prefix: str = "") -> dict[str, Value]:
    """What is recorded, with every ``prefix`` + old name of a score replaced."""
    names = {prefix + old: prefix + new for old, new in RENAMED_METRICS.items()}
    return {names.get(name, name): value for name, value in recorded.items()}


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Consecutive parts of at most ``size`` items."""
    return [items[first : first + size] for first in range(0, len(items), size)]
