"""Plain values to typed sections; faults in the words of the command line, one line each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from geovq.configuration.section import Section
from geovq.errors import ConfigError

SectionType = TypeVar("SectionType", bound=Section)


def parts_of(annotation: Any) -> Iterator[Any]:
    """The types that a field may have, down to the entries of lists: ``int | list[str]`` is made of int and str."""
    if isinstance(annotation, type) or not get_args(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from parts_of(part)


def parse(kind: type[SectionType], values: object, prefix: str = "") -> SectionType:
    """A typed section from plain values by key; ``prefix`` is the group that they belong to, for messages.

    Raises:
        ConfigError: with one line per fault: the key, the value and what is allowed.
    """
    if isinstance(values, dict):
        kind = kind.for_values(values, prefix)
    faults: dict[str, list[str]] = {}
    for subject, message in _switches(kind, values, prefix):
        faults[subject] = [message]
    try:
        section = kind.model_validate(values)
    except ValidationError as error:
        switches = set(faults)
        for subject, message in sorted({_describe(kind, fault, prefix) for fault in error.errors()}):
            if subject in switches:
                continue
            # A key that takes a word or a number has a fault for each; together they are one line.
            known = faults.setdefault(subject, [])
            known.append(message.removeprefix("input should be ") if known else message)
        # Where an entry of a list is at fault, that the list is no word either goes without saying.
        entries = {subject.split("[")[0] for subject in faults if re.match(r"[\w.]+\[\d+\]=", subject)}
        faults = {subject: told for subject, told in faults.items() if subject.split("=")[0] not in entries}
    if faults:
        raise ConfigError("\n".join(subject + " or ".join(told) for subject, told in faults.items())) from None
    return section


def _switches(annotation: Any, value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Where true or false is given for a number or a word, which pydantic would take for 1 or 0."""
    parts = list(parts_of(annotation))
    if isinstance(value, bool) and not {bool, Any} & set(parts):
        yield f"{key}={_spelled(value)}: ", "true and false are for switches; give a number or a word"
    elif isinstance(value, list):
        for place, entry in enumerate(value):
            yield from _switches(annotation, entry, f"{key}[{place}]")
    elif isinstance(value, dict):
        for name, child in value.items():
            fields = [part.model_fields[name] for part in _sections_in(parts) if name in part.model_fields]
            if fields:
                yield from _switches(fields[0].annotation, child, f"{key}.{name}" if key else str(name))


def _sections_in(parts: Iterable[Any]) -> list[type[Section]]:
    return [part for part in parts if isinstance(part, type) and issubclass(part, Section)]


def _describe(kind: type[Section], fault: Any, prefix: str) -> tuple[str, str]:
    """One fault in the words of the command line: what it is about, and what is wrong with it."""
    key, value = _key(kind, fault, prefix), _spelled(fault["input"])
    if fault["type"] == "extra_forbidden":
        return f"{key}: ", "no such key; configs/ lists those there are"
    if fault["type"] == "missing":
        return f"{key}: ", "missing; give it a value"
    if fault["type"] == "union_tag_not_found":
        return f"{key}.name: ", "missing; give it a value"
    if fault["type"] == "union_tag_invalid":
        named = fault["input"]["name"]
        return f"{key}.name={_spelled(named)}: ", f"input should be {fault['ctx']['expected_tags']}"
    if fault["type"] == "list_type":
        return f"{key}={value}: ", f"give a list: {key}=[{fault['input']}]"
    if fault["type"] in ("model_type", "model_attributes_type"):
        return f"{key}={value}: ", f"a group of settings, of which one is chosen by {key}=name"
    message = fault["msg"].removeprefix("Value error, ")
    # The rules of a whole section name their keys themselves.
    if fault["type"] == "value_error" and (isinstance(fault["input"], dict) or message.startswith(f"{key}=")):
        return message, ""
    return f"{key}={value}: ", f"{message[0].lower()}{message[1:]}"


def _key(kind: type[Section], fault: Any, prefix: str) -> str:
    """The key at fault. Where a union was tried, the location holds tags too, which are fields of no section."""
    key, sections = prefix, [kind]
    for place, part in enumerate(fault["loc"]):
        unknown = fault["type"] == "extra_forbidden" and place == len(fault["loc"]) - 1
        part = "target" if part == "_target_" else part
        fields = [section.model_fields[part] for section in sections if part in section.model_fields]
        part = "_target_" if part == "target" else part
        if isinstance(part, int):
            key += f"[{part}]"
        elif fields or unknown:
            key = f"{key}.{part}" if key else str(part)
            sections = _sections_in(part for field in fields for part in parts_of(field.annotation))
    return key


def _spelled(value: Any) -> str:
    """A value as on the command line, words in quotes."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
