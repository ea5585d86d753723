"""Evaluators of other people: added by the configuration, refused before compute, measured, told and in the key."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reference_pages import print_metrics

from geovq.commands.table import report_table
from geovq.comparison.summary import column_of
from geovq.errors import ConfigError, InputError
from geovq.evaluation.evaluator import Score, measure
from geovq.evaluation.evaluators import OURS, SCORES, evaluators_of, score_of
from geovq.pipeline.source_code import code_of

SHARPNESS = "{_target_: my_scores.Sharpness, power: 2}"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def asked(*entries: dict[str, Any]) -> Any:
    return SimpleNamespace(evaluation=SimpleNamespace(evaluators=entries))


def a_run() -> Any:
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(info=SimpleNamespace(name="some"), unit="pixel", images=images, quantized=images, prior=None)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"_target_": "my_scores.Sharpnes"}, r"_target_=my_scores.Sharpnes: .*no attribute 'Sharpnes'"),
        ({"_target_": "nowhere.Sharpness"}, "_target_=nowhere.Sharpness: .*No module named 'nowhere'"),
        ({"_target_": "Sharpness"}, "_target_: 'Sharpness'; name a class, as package.module.Class"),
        ({"power": 2}, "_target_: missing; name a class, as package.module.Class"),
        (
            {"_target_": "my_scores.Score"},
            "_target_=my_scores.Score: the class has to extend",
        ),
        ({"_target_": "my_scores.Unwritten"}, "_target_=my_scores.Unwritten: the class has to write measure$"),
        ({"_target_": "my_scores.Psnr"}, "_target_=my_scores.Psnr: its score psnr is another's"),
        ({"_target_": "my_scores.Fid"}, "_target_=my_scores.Fid: its score fid_digits_cnn is another's"),
        ({"_target_": "my_scores.Sharpness", "width": 3}, "width: no such key"),
        (
            {"_target_": "my_scores.Sharpness", "power": -1},
            "Sharpness: the constructor failed: ValueError: power=-1.0 must be",
        ),
    ],
)
def test_what_cannot_be_an_evaluator_is_refused_in_a_line(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^evaluation.evaluators\[1\].*{message}") as told:
        evaluators_of(asked({"_target_": "my_scores.NeedsAPrior"}, entry))
    assert len(str(told.value).splitlines()) == 1


def test_two_evaluators_cannot_share_a_score() -> None:
    entry = {"_target_": "my_scores.Sharpness"}
    with pytest.raises(ConfigError, match=r"evaluators\[1\].*sharpness is another's"):
        evaluators_of(asked(entry, entry))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "my_scores.Fails: KeyError: 'nothing'"),
        ("missing", "some is neither measured nor omitted"),
        ("undeclared", "third is not among its scores"),
        ("infinite", "some=inf is not finite"),
        ("shape", r"some has values per image of shape \(3,\), not \(5,\)"),
    ],
)
def test_an_evaluator_that_fails_is_named(how: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^evaluator my_scores.Fails.*{message}|{message}"):
        measure(evaluators_of(asked({"_target_": "my_scores.Fails", "how": how})), a_run())


def test_needs_are_asked_before_anything_is_measured() -> None:
    found = measure(evaluators_of(asked({"_target_": "my_scores.NeedsAPrior"})), a_run())
    assert found.omitted == {"needs_a_prior": "transformer=none: there is no prior"}
    assert not found.values


def test_a_score_is_known_by_its_name_in_a_report_and_by_that_without_the_classifier() -> None:
    assert score_of("fid").title == score_of("fid_my_data_cnn").title == "FID (our network)"
    assert score_of("fid_digits_cnn_without_prior").title == "FID of random codes"
    assert score_of("perceptual_digits_cnn_continuous").better == score_of("perceptual_continuous").better == "↓"
    assert score_of("distortion_geodesic_latent2").unit == "latent²"
    assert score_of("sharpness_of_digits", [Score("sharpness_of_<data>", "it")]).title == "it"
    assert score_of("mine") == Score("mine", "mine")
    assert score_of("mine", [Score("mine", "my own")]).title == "my own"


def test_the_reference_has_a_line_for_every_score_and_all_that_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    print_metrics()
    page = capsys.readouterr().out
    assert all(page.count(f"|`{score.name}`|") == 1 for score in SCORES)
    assert all(each.__doc__ and f"## {each.__doc__}\n" in page for each in OURS)
    assert "Needs images of two classes or more, for a classifier; a prior" in page
    assert all(score.better in ("↑", "↓", "") and score.title and f"{1.5:{score.form}}" for score in SCORES)


def test_an_added_evaluator_is_measured_told_and_in_the_key(
    tmp_path: Path, digits_run: Any, make_runner: Callable[..., Any]
) -> None:
    plain = digits_run[0]
    shutil.copytree(plain.context.config.root, tmp_path, dirs_exist_ok=True)
    runner = make_runner(tmp_path, f"evaluation.evaluators=[{SHARPNESS}]")
    assert {name for name, key in runner.keys.items() if key != plain.keys[name]} == {"report"}
    report = runner.run()["report"].artifact
    [values] = (report.tensors("per_image")["sharpness"],)
    assert report.json("metrics")["sharpness"] == pytest.approx(float(values.double().mean()))
    assert report.json("omitted")["sharpness_of_digits"] == "none"
    assert "my_scores" in report.manifest["code"]
    assert "evaluation/reconstruction.py" in report.manifest["code"]

    added = [Score(**each) for each in report.json("added_scores")]
    [line] = [line for line in report_table("", report.json("metrics"), {}, added).splitlines() if "sharpness" in line]
    assert line.endswith(f"{report.json('metrics')['sharpness']:.3f}  edges ↑")
    column: Any = column_of("sharpness", [SimpleNamespace(report=report)])  # type: ignore[list-item]
    assert (column.title, column.unit, column.form) == ("sharpness", "edges", ".3f")


def test_the_code_of_an_added_module_is_followed_through_its_own_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_lab"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "scores.py").write_text("import torch\nfrom .helpers import blur\nfrom geovq.evaluation import needs\n")
    (package / "helpers.py").write_text("def blur(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    code = code_of(["some_lab.scores"])
    assert {"some_lab.scores", "some_lab.helpers", "evaluation/needs.py"} <= set(code)
    assert "torch" not in code
    sys.modules.pop("some_lab", None)
