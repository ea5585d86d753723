"""Every prior through the pipeline on digits, on codes of one slot, of several and on two grids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from geovq.commands.recorded import in_words_of_today
from geovq.commands.sample import SampleSettings, check_scored
from geovq.commands.sample_scores import score_draws, table
from geovq.commands.sample_sheet import draw_all
from geovq.configuration.config import validate
from geovq.configuration.parse import parse
from geovq.errors import ConfigError, DataError
from geovq.evaluation.frechet import frechet
from geovq.evaluation.neighbourhoods import Neighbourhoods
from geovq.pipeline.stages.classifier import load_classifier
from geovq.pipeline.stages.codes import load_codes
from geovq.pipeline.stages.samples import Sampler
from geovq.viz.distance_recall import distance_recall_figure

GEOMETRY = ("prior.embedding=codewords", "prior.targets=smoothed")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, begin: Callable[[Path], Path]) -> Path:
    return begin(tmp_path_factory.mktemp("priors"))


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


def test_what_a_picture_shows_white_is_kept(
    root: Path, make_runner: Callable[..., Any], compose: Any, tmp_path: Path
) -> None:
    picture = tmp_path / "mask.png"
    Image.fromarray(np.kron([[255, 0], [0, 0]], np.ones((20, 30))).astype(np.uint8)).save(picture)
    runner = make_runner(root, "geo=euclidean", "samples.per_class=1", "stages=[samples]")
    settings = parse(SampleSettings, compose(f"complete={picture}", "n=1", name="sample"))
    _, drawn = draw_all(runner, settings, runner.context.info.class_names, None)
    known = load_codes(runner.obtain(("codes",))["codes"], "test")[drawn["test_images"]].long()
    assert drawn["mask"].tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2
    codes = drawn["codes_temperature_1"]
    assert torch.equal(codes[:, :2, :2], known[:, :2, :2])
    assert not torch.equal(codes[:, 2:], known[:, 2:])
    for value, given in ((0, "no code"), (255, "all codes")):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(picture)
        with pytest.raises(ConfigError, match=f"^complete=.*mask.png: this picture gives {given}"):
            draw_all(runner, settings, runner.context.info.class_names, None)
    picture.write_text("no picture")
    with pytest.raises(ConfigError, match=r"^complete=.*mask\.png: "):
        draw_all(runner, settings, runner.context.info.class_names, None)
    with pytest.raises(ConfigError, match="complete=uper: upper, left, or a picture, and there is no file"):
        parse(SampleSettings, compose("complete=uper", name="sample"))


def test_own_images_are_completed(root: Path, make_runner: Callable[..., Any], compose: Any, tmp_path: Path) -> None:
    runner = make_runner(root, "geo=euclidean", "samples.per_class=1", "stages=[samples]")
    test = runner.context.data.test.images[:3]
    np.savez(tmp_path / "mine.npz", images=test[:, 0].numpy())
    words = ("complete=upper", f"images={tmp_path / 'mine.npz'}", "n=2")
    _, drawn = draw_all(runner, parse(SampleSettings, compose(*words, name="sample")), tuple("0123456789"), -1)
    known = load_codes(runner.obtain(("codes",))["codes"], "test")[:2].long()
    assert drawn["labels"].tolist() == [-1, -1]
    assert torch.equal(drawn["codes_temperature_1"][:, :2], known[:, :2])
    np.savez(tmp_path / "large.npz", images=np.zeros((2, 9, 9), np.uint8))
    with pytest.raises(DataError, match=r"large\.npz: are 1x9x9 \(channels, height, width\), and the run reads 1x8x8"):
        draw_all(
            runner,
            parse(SampleSettings, compose(*words[:1], f"images={tmp_path / 'large.npz'}", name="sample")),
            tuple("0123456789"),
            -1,
        )


def test_ways_of_drawing_are_scored_as_sets(root: Path, make_runner: Callable[..., Any], compose: Any) -> None:
    runner = make_runner(root, "geo=euclidean", "samples.per_class=1", "stages=[samples]")
    words = ("temperature=[0.2,1]", "guidance=[1,2]", "scored_images=60")
    settings = parse(SampleSettings, compose(*words, name="sample"))
    rows = score_draws(runner, settings)
    assert [(row["temperature"], row["guidance"]) for row in rows] == [(0.2, 1), (0.2, 2), (1, 1), (1, 2)]
    assert table(rows).splitlines()[0] == "temperature,guidance,frechet_distance,precision,recall,class_agreement"
    # the first row by another route
    inputs = runner.obtain(("vae", "codes", "prior", "classifier", "features"))
    labels = torch.arange(60) % 10
    _, images = Sampler(runner.context, inputs).draw(labels, temperature=0.2, top_k=None, top_p=None, seed=0)
    classifier = load_classifier(runner.context, inputs)
    with torch.no_grad():
        features, found = classifier.embedding(images), classifier(images).argmax(1)
    real = inputs["features"].tensors("test")["features"]
    assert rows[0]["frechet_distance"] == pytest.approx(frechet(real, features), rel=1e-4)
    assert rows[0]["recall"] == pytest.approx(Neighbourhoods(real).scores(features)["recall"], abs=0.01)
    assert rows[0]["class_agreement"] == pytest.approx(float((found == labels).float().mean()), abs=1e-6)
    assert [line.get_label() for line in distance_recall_figure(rows, "two").axes[0].lines] == [
        "guidance 1",
        "guidance 2",
    ]


def test_sets_that_cannot_be_scored_are_refused() -> None:
    for told, message in (((9, 10, True), "at least 10"), ((50, 1, True), "classes"), ((50, 10, False), "complete")):
        with pytest.raises(ConfigError, match=f"^scored_images={told[0]}: .*{message}"):
            check_scored(*told)
