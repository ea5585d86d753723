"""What the documentation shows as code does what stands beside it."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_quantizer_of_the_tutorial_is_one() -> None:
    (code,), (settings,) = blocks("tutorial/your_quantizer.md", "python"), blocks("tutorial/your_quantizer.md", "yaml")
    names: dict[str, Any] = {"__name__": "my_lab.farthest"}
    exec(code, names)
    values = yaml.safe_load(settings)
    mine = names[values["_target_"].removeprefix("my_lab.farthest.")]
    assert set(values) - {"defaults", "name", "_target_"} == set(inspect.signature(mine).parameters) - {
        "n_codes",
        "random_state",
    }
    tokens = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    fitted = mine(n_codes=8, inner=0.5).fit(tokens)
    assert np.array_equal(fitted.predict(tokens), fitted.labels_)
    assert len(np.unique(fitted.cluster_centers_, axis=0)) == 8
    # Farthest first: no two codewords are nearer to each other than some token inside is to its codeword.
    apart = np.linalg.norm(fitted.cluster_centers_[:, None] - fitted.cluster_centers_[None], axis=2)
    radius = np.linalg.norm(tokens - tokens.mean(axis=0), axis=1)
    inside = tokens[radius <= np.quantile(radius, 0.5)]
    worst = np.linalg.norm(inside - fitted.cluster_centers_[fitted.predict(inside)], axis=1).max()
    assert apart[~np.eye(8, dtype=bool)].min() >= worst


def test_sequences_of_codes_are_those_that_the_page_shows() -> None:
    from geovq.models.code_layout import CodeLayout

    shown = blocks("autoregressive_pipeline.md", "python")
    assert len(shown) == 2
    for code in shown:
        *before, last = ast.parse(code).body
        names = {"torch": torch, "CodeLayout": CodeLayout}
        exec(compile(ast.Module(before, []), "page", "exec"), names)
        value = eval(ast.unparse(last), names)
        assert repr(value) == "\n".join(re.findall(r"^# (.*)$", code, re.MULTILINE))
