"""Words of the configuration that had other names: whoever writes an old one is told the new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geovq.errors import ConfigError

STAGES = {"metrics": "metric_tensors", "metrics_held_out": "metric_tensors_held_out", "ceiling": "unquantized"}
"""Names of stages, as in ``stages=[…]``: old, new."""


CONFIGS = Path(__file__).parents[3] / "configs"


def option(group: str, name: str) -> dict[str, Any]:
    """Plain values of an option of ours and of those that it is based on; references to other groups stay text."""
    import yaml

    values: dict[str, Any] = yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8"))
    for base in reversed([each for each in values.pop("defaults", []) if each != "_self_"]):
        values = merged(option(group, base), values)
    return values


def merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values over those of a base, section by section, as Hydra composes them."""
    result = {**base, **values}
    for key in base.keys() & values.keys():
        if isinstance(base[key], dict) and isinstance(values[key], dict):
            result[key] = merged(base[key], values[key])
    return result


def in_words_of_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a recorded run, with what was not said in its time: classes, later keys."""
    known = _with_prior(values)
    for group in ("data", "vae", "quantizer"):
        section = values.get(group)
        if isinstance(section, dict) and "_target_" not in section:
            known[group] = option(group, section["name"]) | section
    return dict(values) | known


def _with_prior(values: Mapping[str, Any]) -> dict[str, Any]:
    """The groups ``prior`` and ``transformer`` of a run from when one group held class, sizes and training."""
    before = values.get("transformer")
    if "prior" in values or not isinstance(before, dict):
        return {}
    shared = option("transformer", "_base") | option("transformer", "small")
    sizes = {key: value for key, value in before.items() if key in shared}
    target = before.get("_target_")
    if target is None or target.startswith("geovq."):
        return {"prior": option("prior", "autoregressive"), "transformer": sizes}
    own = {key: value for key, value in before.items() if key not in shared}  # of a class that is not ours
    return {"prior": {"name": before["name"], **own}, "transformer": shared | sizes}


def refuse_old_words(values: Mapping[str, Any]) -> None:
    """Raise ConfigError where a run is described in old words, with the new ones."""
    stages = values.get("stages")
    if not isinstance(stages, list):
        return
    if old := [name for name in stages if name in STAGES]:
        told = ", ".join(f"{name} is {STAGES[name]}" for name in old)
        raise ConfigError(f"stages=[{','.join(map(str, stages))}]: stages have other names now: {told}")
