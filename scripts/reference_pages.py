"""The pages of docs/reference, made of the declarations.

python scripts/reference_pages.py configuration     # every setting, with the values of its YAML file
python scripts/reference_pages.py metrics           # every score
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from geovq.configuration import codes
from geovq.configuration.config import Config
from geovq.configuration.renamed import CONFIGS, option
from geovq.configuration.section import ClassSection, Section
from geovq.evaluation.evaluators import OURS

_SIGNS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}
_UNIONS = {"assign": codes.Assign, "finetune": codes.Finetune}


def print_metrics() -> None:
    """For each evaluator its scores with title, unit, which way is better, and definition; what it needs."""
    print("# Scores of a report\n\nMade by `scripts/make_reference.sh` from the declarations: edit those.")
    for evaluator in OURS:
        print(f"\n## {inspect.getdoc(evaluator)}\n")
        if evaluator.needs:
            print(f"Needs {'; '.join(str(inspect.getdoc(need)) for need in evaluator.needs)}.\n")
        print("|name|title|unit|better|definition|\n|---|---|---|---|---|")
        for score in evaluator.scores:
            cells = (f"`{score.name}`", score.title, score.unit, score.better, score.description)
            print(f"|{'|'.join(cell or '–' for cell in cells)}|")


def print_configuration() -> None:
    """For each group its options, with value, kind and meaning of every setting."""
    print("# Settings\n")
    print(
        "Made from the declarations by `./scripts/make_reference.sh`; [configuration](../configuration.md) says how "
        "groups combine. Values are those of the option's file.\n"
    )
    for name, field in Config.model_fields.items():
        section = field.annotation
        if name in _UNIONS:
            _print_union(name)
        elif isinstance(section, type) and issubclass(section, ClassSection):
            _print_classes(name, section)
        elif isinstance(section, type) and issubclass(section, Section):
            values = next(iter(_options(name).values()), None) or _of_train(name)
            _heading(name, section, list(_options(name)))
            _print_table(_rows(section, values, name))
    print("## Of a whole run\n")
    own = {name: field for name, field in Config.model_fields.items() if field.description}
    _print_table([_row(name, field, _of_train().get(name)) for name, field in own.items()])


def _options(group: str) -> dict[str, dict[str, Any]]:
    folder = CONFIGS / group
    return {path.stem: option(group, path.stem) for path in sorted(folder.glob("[!_]*.yaml"))}


def _of_train(group: str | None = None) -> Any:
    import yaml

    files = ("common.yaml", "train.yaml")
    values: dict[str, Any] = {}
    for file in files:
        values |= yaml.safe_load((CONFIGS / file).read_text(encoding="utf-8"))
    return values.get(group) if group else values


def _heading(group: str, section: type, options: list[str]) -> None:
    words = (section.__doc__ or "").strip().splitlines()[0].replace("``", "`")
    listed = f" ({', '.join(options)})" if len(options) > 1 else ""
    print(f"## `{group}`{listed}\n\n{words}\n")


def _print_classes(group: str, section: type[ClassSection]) -> None:
    options = _options(group)
    _heading(group, section, list(options))
    print("Of all:\n")
    base = option(group, "_base")
    _print_table(_rows(section, base, group))
    told: dict[str, str] = {}
    explained: dict[tuple[str, str], str] = {}
    for name, values in options.items():
        made = section.for_values(values, group)
        own = {key: field for key, field in made.model_fields.items() if key not in section.model_fields}
        target = values["_target_"]
        first = told.setdefault(target, name)
        compared = base if first == name else {**base, **{key: options[first].get(key) for key in own}}
        changed = {key: value for key, value in values.items() if key in compared and compared[key] != value}
        print(f"### `{group}={name}`\n")
        words = [f"`{target}`" + (f", as `{group}={first}`" if first != name else "")]
        if changed:
            words.append(", ".join(f"`{key}: {_flat(value)}`" for key, value in changed.items()))
        rows, again = [], dict[str, list[str]]()
        for key, field in own.items() if first == name else ():
            row = _row(f"{group}.{key}", field, values.get(key))
            known = explained.setdefault((key, row), name)
            if known == name:
                rows.append(row)
            else:
                again.setdefault(known, []).append(f"`{key}`")
        words += [f"{', '.join(keys)} as for `{group}={known}`" for known, keys in again.items()]
        print("; ".join(words) + ".\n")
        _print_table(rows)


def _print_union(group: str) -> None:
    options = _options(group)
    listed = ", ".join(options)
    print(f"## `{group}` ({listed})\n")
    for section in get_args(get_args(_UNIONS[group])[0]):
        names = get_args(section.model_fields["name"].annotation)
        print(f"### {', '.join(f'`{group}={name}`' for name in names)}\n\n{section.__doc__.strip().splitlines()[0]}\n")
        _print_table(_rows(section, options[names[0]], group))


def _rows(section: type[Section], values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, field in section.model_fields.items():
        if key in ("name", "target"):
            continue
        part = field.annotation
        if isinstance(part, type) and issubclass(part, Section):
            yield from _rows(part, values.get(key) or {}, f"{prefix}.{key}")
        else:
            yield _row(f"{prefix}.{key}", field, values.get(key))


def _row(key: str, field: FieldInfo, value: Any) -> str:
    meaning = " ".join((field.description or "").split()).replace("|", "\\|").replace("``", "`")
    constrained = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return f"|`{key}`|`{_flat(value)}`|{_kind(constrained)}|{meaning}|"


def _print_table(rows: Any) -> None:
    rows = list(rows)
    if rows:
        print("|key|value|allowed|meaning|\n|---|---|---|---|")
        print("\n".join(rows) + "\n")


def _flat(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str({None: "null", True: "true", False: "false"}[value])
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flat(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flat, value)) + "]"
    return str(value)


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        kind, *constraints = get_args(annotation)
        limits = [*map(_limit, _flattened(constraints))]
        return " ".join([_kind(kind), ", ".join(filter(None, limits))]).strip()
    if origin is Literal:
        return ", ".join(_flat(value) for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in get_args(annotation))
    if origin is list:
        return f"list of {_kind(get_args(annotation)[0])}"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(annotation, "anything")


def _flattened(constraints: list[Any]) -> Iterator[Any]:
    for constraint in constraints:
        yield from getattr(constraint, "metadata", None) or [constraint]


def _limit(constraint: Any) -> str:
    for kind, sign in _SIGNS.items():
        if isinstance(constraint, kind):
            return f"{sign} {getattr(constraint, kind.__name__.lower())}"
    return ""


if __name__ == "__main__":
    {"configuration": print_configuration, "metrics": print_metrics}[sys.argv[1]]()
