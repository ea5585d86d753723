"""The code that an artifact was built with: a hash for every module that its stage uses.

Comments, docstrings and layout do not count. Modules are followed from import to import, through this package and that
of a foreign module; those that only print, record or store are left out. Two hashes of each file are kept: of its
bytes, which is quick to compare, and of what counts, which is compared where bytes differ.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

_SOURCE = Path(__file__).parents[1]
_CANNOT_CHANGE_RESULTS = (
    *("geovq.commands", "geovq.configuration", "geovq.errors", "geovq.launch", "geovq.progress", "geovq.tracking"),
    "geovq.data.limits",
    *(f"geovq.pipeline.{name}" for name in ("artifacts", "checkpoint", "runner", "stage")),
)
"""Settings are in the key, so their declarations are left out too."""

Code = dict[str, list[str]]
"""By file of this package, or by name of another's module: the hash of its bytes, and of what counts in it."""


def code_of(modules: Iterable[str], unused: Collection[str] = ()) -> Code:
    """Hashes of modules, and of all but the ``unused`` ones that they import from this package and their own."""
    found: set[str] = set()
    ahead = list(modules)
    while ahead:
        module = ahead.pop()
        if module not in found and module not in unused and _counts(module):
            found.add(module)
            ahead += _imports(module)
    return {_key(module): list(_hashes(_file(module))) for module in sorted(found)}


def changed_files(code: Mapping[str, list[str]]) -> list[str]:
    """Which of the files recorded by ``code_of`` are gone or hold other code now."""
    files = {name: _SOURCE / name if name.endswith(".py") else _file(name) for name in code}
    return [name for name, (raw, counting) in code.items() if not _is_same(files[name], raw, counting)]


def read_code(path: Path) -> Code | None:
    """What ``code_of`` gave when it was written as JSON, or None."""
    try:
        return {str(name): [str(raw), str(counting)] for name, (raw, counting) in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _is_same(path: Path, raw: str, counting: str) -> bool:
    return path.is_file() and (_digest(_bytes(path)) == raw or _hashes(path)[1] == counting)


def _counts(module: str) -> bool:
    """Whether a module could change results."""
    left_out = any(name in _CANNOT_CHANGE_RESULTS for name in (module, module.rpartition(".")[0]))
    return not left_out and module != "geovq" and _file(module).is_file()


def _file(module: str) -> Path:
    """Source of a module; a path without a file where there is none."""
    if module.partition(".")[0] == "geovq":
        path = _SOURCE.joinpath(*module.split(".")[1:])
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # no module, but perhaps a function of one
        spec = None
    return Path((spec and spec.origin) or "/nowhere")


def _key(module: str) -> str:
    return str(_file(module).relative_to(_SOURCE)) if module.startswith("geovq.") else module


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
            texts = (isinstance(line, ast.Expr) and isinstance(getattr(line.value, "value", 0), str) for line in body)
            node.body = [line for line, text in zip(body, texts, strict=True) if not text]  # type: ignore[attr-defined]
    return tree


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of this package and of its own that a module imports anywhere but for its type annotations."""
    path = _file(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return tuple(_imported(_tree(path), package))


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    followed = ("geovq", package.partition(".")[0])
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names if alias.name.partition(".")[0] in followed)
        elif isinstance(child, ast.ImportFrom):
            parent = resolve_name("." * child.level + (child.module or ""), package)
            for alias in child.names if parent.partition(".")[0] in followed else ():
                module = f"{parent}.{alias.name}"
                yield module if _file(module).is_file() else parent
        elif not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield from _imported(child, package)
