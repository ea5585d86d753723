"""Configurations as Hydra composes them, each choice of options read from its files once in a session."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

CONFIGS = Path(__file__).parents[1] / "configs"


def composed(*overrides: str, name: str = "train") -> Any:
    """Plain values. Hydra chooses options first and then sets values: the first is kept, the second done anew."""
    options = tuple(word for word in overrides if not _sets_a_value(word))
    config = copy.deepcopy(_of_options(name, options))
    values = [_parsed(word) for word in overrides if _sets_a_value(word)]
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return OmegaConf.to_container(config, resolve=True)


def by_hydra(*overrides: str, name: str = "train", hydra_too: bool = False) -> DictConfig:
    """All of it by Hydra, with its own settings or without."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, list(overrides), return_hydra_config=hydra_too)


@cache
def _sets_a_value(word: str) -> bool:
    key = re.match(r"\+{0,2}([\w.]+)=", word)
    return key is not None and not key[1].startswith("hydra") and not (CONFIGS / key[1]).is_dir()


@cache
def _of_options(name: str, options: tuple[str, ...]) -> DictConfig:
    return by_hydra(*options, name=name)


@cache
def _parsed(word: str) -> Any:
    return OverridesParser.create().parse_override(word)
