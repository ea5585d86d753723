"""The classes that ``configs/quantizer`` names, by option."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from geovq.configuration.renamed import CONFIGS, option

OPTIONS: dict[str, dict[str, Any]] = {
    path.stem: option("quantizer", path.stem) for path in sorted((CONFIGS / "quantizer").glob("[!_]*.yaml"))
}
CLASSES: dict[str, Any] = {}
for _name, _values in OPTIONS.items():
    _module, _, _class = _values["_target_"].rpartition(".")
    CLASSES[_name] = getattr(import_module(_module), _class)
POST_HOC = tuple(name for name, kind in CLASSES.items() if not kind.is_joint)
JOINT = tuple(name for name, kind in CLASSES.items() if kind.is_joint)


def make_quantizer(name: str, **settings: Any) -> Any:
    return CLASSES[name](**settings)
