"""Every prior through the pipeline on digits, on codes of one slot, of several and on two grids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from geovq.commands.recorded import in_words_of_today
from geovq.commands.sample import SampleSettings, draw_all
from geovq.configuration.config import validate
from geovq.configuration.parse import parse
from geovq.pipeline.stages.codes import load_codes

GEOMETRY = ("prior.embedding=codewords", "prior.targets=smoothed")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("priors")


@pytest.mark.parametrize(
    "words",
    [
        ("prior=masked", "samples.guidance=2", "samples.steps=3"),
        ("prior=pixelcnn", "samples.guidance=2"),
        ("prior.positions=grid", *GEOMETRY),
        ("quantizer=residual", "quantizer.metric=euclidean", "prior=masked", *GEOMETRY),
        ("quantizer=residual", "quantizer.metric=euclidean", "prior=pixelcnn", *GEOMETRY),
        ("quantizer=vqvae2", "prior=masked"),
        ("quantizer=vqvae2", "prior=pixelcnn"),
        ("quantizer=vqvae2", "prior.positions=grid", "samples.guidance=1.5"),
    ],
    ids=" ".join,
)
def test_priors_train_and_draw(root: Path, make_runner: Callable[..., Any], words: tuple[str, ...]) -> None:
    runner = make_runner(root, "geo=euclidean", "samples.per_class=1", "stages=[samples]", *words)
    results = runner.run()
    summary = results["prior"].artifact.json("summary")
    codes = results["samples"].artifact.tensors("measured")["codes"]
    assert 0 < summary["test_bits_per_image_given_class"] < 200
    assert len(codes) == 20


def test_settings_that_came_later_are_in_keys_where_they_do_something(
    tmp_path: Path, make_runner: Callable[..., Any]
) -> None:
    keys = make_runner(tmp_path).keys
    for words in (["prior.positions=grid"], ["prior.embedding=codewords"], ["prior=masked"], ["transformer.heads=8"]):
        assert make_runner(tmp_path, *words).keys["prior"] != keys["prior"]
    guided = make_runner(tmp_path, "samples.guidance=2").keys
    assert guided["prior"] == keys["prior"]
    assert guided["samples"] != keys["samples"]
    pixelcnn = make_runner(tmp_path, "prior=pixelcnn").keys
    assert pixelcnn == make_runner(tmp_path, "prior=pixelcnn", "transformer.heads=8").keys  # it has none


def test_runs_from_before_there_were_priors_to_choose_are_read(compose: Callable[..., Any]) -> None:
    today = compose()
    before = {key: value for key, value in today.items() if key != "prior"}
    before["transformer"] = {**today["transformer"], "_target_": "geovq.models.prior.CodePrior"}
    assert validate(in_words_of_today(before)) == validate(today)
    before["transformer"] |= {"name": "none", "_target_": "geovq.models.prior.NoPrior"}
    assert not validate(in_words_of_today(before)).has_prior


@pytest.mark.parametrize("half", ["upper", "left"])
def test_halves_of_test_images_are_completed(
    root: Path, make_runner: Callable[..., Any], compose: Any, half: str
) -> None:
    words = ("prior=masked", "samples.guidance=2", "samples.steps=3")
    runner = make_runner(root, "geo=euclidean", "samples.per_class=1", "stages=[samples]", *words)
    settings = parse(SampleSettings, compose(f"complete={half}", "n=2", "guidance=[1,2]", name="sample"))
    _, drawn = draw_all(runner, settings, runner.context.info.class_names, None)
    known = load_codes(runner.obtain(("codes",))["codes"], "test")[drawn["test_images"]]
    mask = drawn["mask"]
    assert int(mask.sum()) == 8
    for guidance in (1, 2):
        codes = drawn[f"codes_temperature_1_guidance_{guidance}"]
        assert torch.equal(codes[:, mask], known[:, mask].long())
        assert not torch.equal(codes, known.long())
    assert torch.equal(runner.context.data.test.labels[drawn["test_images"]], drawn["labels"])
