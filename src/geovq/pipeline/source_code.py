"""The code that an artifact was built with: a hash for every module that its stage uses.

Comments, docstrings and layout do not count. Modules are followed from import to import through this package by reading
their source; those that only print, record or store are left out, since they cannot change results. Two hashes of
each file are kept: of its bytes, which is quick to compare, and of what counts, which is compared where bytes differ.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_SOURCE = Path(__file__).parents[1]
_OURS = "geovq"
_CANNOT_CHANGE_RESULTS = (
    "geovq.commands",
    "geovq.configuration",
    "geovq.errors",
    "geovq.launch",
    "geovq.progress",
    "geovq.tracking",
    "geovq.pipeline.artifacts",
    "geovq.pipeline.checkpoint",
    "geovq.pipeline.runner",
    "geovq.pipeline.stage",
)
"""Settings are in the key, so their declarations are left out too."""

Code = dict[str, list[str]]
"""By file of this package, or by module of another one: the hash of its bytes, and of what counts in it."""


def code_of(modules: Iterable[str], chosen: Mapping[str, Iterable[str]]) -> Code:
    """Hashes of modules and of all that they import from this package, or from their own.

    Args:
        modules: names of modules.
        chosen: for a package that imports every one of a kind, the modules that are used of it.
    """
    found: set[str] = set()
    ahead = list(modules)
    while ahead:
        module = ahead.pop()
        if module in chosen:
            ahead += chosen[module]
        elif module not in found and _counts(module):
            found.add(module)
            path = _file(module)
            ahead += () if path is None else _imports(path, module.partition(".")[0])
    files = {module: path for module in sorted(found) if (path := _file(module)) is not None}
    return {_name(module, path): list(_hashes(path)) for module, path in files.items()}


def changed_files(code: Mapping[str, list[str]]) -> list[str]:
    """Which of the files recorded by :func:`code_of` are gone or hold other code now."""
    files = {name: _SOURCE / name if name.endswith(".py") else _file(name) for name in code}
    return [name for name, (raw, counting) in code.items() if not _is_same(files[name], raw, counting)]


def read_code(path: Path) -> Code | None:
    """What :func:`code_of` gave when it was written as JSON, or None."""
    try:
        return {str(name): [str(raw), str(counting)] for name, (raw, counting) in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _is_same(path: Path | None, raw: str, counting: str) -> bool:
    if path is None or not path.is_file():
        return False
    return _digest(_bytes(path)) == raw or _hashes(path)[1] == counting


def _counts(module: str) -> bool:
    """Whether a module could change results."""
    return not any(name in _CANNOT_CHANGE_RESULTS for name in (module, module.rpartition(".")[0]))


def _file(module: str) -> Path | None:
    """The source of a module, where it has one."""
    package, *parts = module.split(".")
    if package == _OURS:
        path = _SOURCE.joinpath(*parts)
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None


def _name(module: str, path: Path) -> str:
    return str(path.relative_to(_SOURCE)) if module.partition(".")[0] == _OURS else module


@cache
def _bytes(path: Path) -> bytes:
    return path.read_bytes()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(_bytes(path))


@cache
def _hashes(path: Path) -> tuple[str, str]:
    return _digest(_bytes(path)), _digest(ast.dump(_without_docstrings(_tree(path))).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """In place: no string stands alone as a statement."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _imports(path: Path, package: str) -> tuple[str, ...]:
    """Modules of this package, or of the file's own, that a file imports anywhere but for its type annotations."""
    return tuple(name for name in _imported(_tree(path)) if name.partition(".")[0] in (_OURS, package))


def _imported(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0:
            parent = child.module or ""
            for alias in child.names:
                module = f"{parent}.{alias.name}"
                path = _file(module) if parent.startswith(_OURS) else None
                yield module if path is not None and path.is_file() else parent
        elif not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield from _imported(child)
