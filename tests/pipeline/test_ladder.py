"""Every setting of a rung reaches the function that it is a setting of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from geovq.pipeline.stages import ladder
from geovq.pipeline.stages.codes import encoder_of

QUICK = ("transformer=none", "evaluation.geodesic_codewords=0", "quantizer=whitened")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ladder")


def calls_of(name: str, run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keyword arguments of every call of a function that the ladder uses, which is then carried out."""
    calls, function = [], getattr(ladder, name)

    def spy(*arguments: Any, **keywords: Any) -> Any:
        calls.append(keywords)
        return function(*arguments, **keywords)

    monkeypatch.setattr(ladder, name, spy)
    run()
    return calls


def test_search_has_its_settings(root: Path, make_runner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("assign.n_candidates=3", "assign.n_rounds=2", "assign.damping=1.3", "assign.rate_lambda=0.1")
    runner = make_runner(root, *QUICK, "assign=search", *settings, "trainer.precision=32-true", "stages=[codes]")
    (validation, *_) = calls_of("search_codes", runner.run, monkeypatch)
    assert (validation["n_candidates"], validation["n_rounds"], validation["damping"]) == (3, 2, 1.3)
    prices = validation["penalty"]
    assert torch.exp2(-prices.double() / 0.1).sum() == pytest.approx(1.0, rel=1e-4)  # 0.1 times code lengths
    assert len(validation["alternatives"]) == 1
    assert validation["precision"] == "32"


def test_sequential_has_its_settings_and_other_probes_for_each_split(
    root: Path, make_runner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("assign.n_probes=5", "assign.shrinkage=0.2", "assign.ridge=0.3", "assign.seed=7")
    runner = make_runner(root, *QUICK, "assign=sequential", *settings, "stages=[codes]")
    calls = calls_of("sequential_codes", runner.run, monkeypatch)
    for call in calls:
        assert (call["n_probes"], call["shrinkage"], call["ridge"]) == (5, 0.2, 0.3)
    assert len({call["seed"] for call in calls}) == len(calls) == 2


@pytest.mark.parametrize(("rung", "function"), [("metric", "metric_shift"), ("whitened", "constant_metric")])
def test_rungs_by_metric_have_their_ridge(
    root: Path, make_runner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rung: str, function: str
) -> None:
    seen, original = [], getattr(ladder, function)

    def spy(*arguments: Any) -> Any:
        seen.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(ladder, function, spy)
    runner = make_runner(root, *QUICK, f"assign={rung}", "assign.ridge=0.25", "stages=[codes]")
    runner.run()
    assert seen[0][-1] == 0.25
    encode, _, rule = encoder_of(runner.context, {name: result.artifact for name, result in runner.run().items()})
    assert rule == ladder.RULES[rung] == encode.rule  # type: ignore[attr-defined]
