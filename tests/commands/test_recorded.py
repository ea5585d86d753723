"""A run brought back from its record: only as what it was, or as a run of its own."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from geovq.commands.evaluate import evaluate
from geovq.commands.recorded import _differences, restore
from geovq.commands.sample import SampleSettings, sample
from geovq.commands.train import train
from geovq.configuration.parse import parse
from geovq.errors import ConfigError
from tiny import TINY, runs


def add_class(folder: Path, name: str, seed: int) -> None:
    (folder / name).mkdir(parents=True)
    for i, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (20, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / name / f"{i}.png")


SMALL = (*TINY[1:], "data.limit=null", "vae.steps=5", "transformer.steps=2", "quantizer=euclidean", "quantizer.K=8")


def folder_of(images: Path) -> tuple[str, ...]:
    for seed, name in enumerate(("a", "b")):
        add_class(images, name, seed)
    return "data=folder", f"data.path={images}", "vae.grid=4"


def test_what_changed_since_is_named_and_refused_before_compute(
    tmp_path: Path, make_runner: Callable[..., Any], compose: Callable[..., Any]
) -> None:
    data = folder_of(tmp_path / "images")
    untuned = ("finetune=adversarial", "finetune.frechet_weight=0")
    runner = make_runner(tmp_path, *data, *SMALL, *untuned, "stages=[vae]")
    runner.run()
    recorded = runner.context.config.model_dump(mode="json")
    assert "finetune" in runner.keys
    for losses in (recorded["finetune"], recorded["vae"]["image_loss"]):
        del losses["frechet_weight"]
    for key in [key for key in recorded["data"] if key.startswith("default_")]:  # as before there were these
        del recorded["data"][key]
    del recorded["data"]["steps"]["codebook"]
    record = SimpleNamespace(
        run_id="0123456789abcdef",
        name="mine",
        tags={f"artifact.{stage}": key for stage, key in runner.keys.items()},
        load_dict=lambda path: deepcopy(recorded),
    )

    def restored(**changes: Any) -> tuple[Any, bool]:
        words = ("trainer.device=cpu", f"paths.root={tmp_path}")
        settings = parse(SampleSettings, compose(*words, name="sample") | changes)
        return restore(record, settings, rebuild=settings.rebuild)  # type: ignore[arg-type]

    same, is_same = restored()
    assert is_same
    assert same.keys == runner.keys
    add_class(tmp_path / "images", "c", 7)
    with pytest.raises(ConfigError) as refused:
        restored()
    assert 'images.class_names was ["a", "b"] and is ["a", "b", "c"]' in str(refused.value)
    assert "data.fingerprint was" in str(refused.value)
    assert "rebuild=true" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    other, is_same = restored(rebuild=True)
    assert not is_same
    assert not set(other.keys.values()) & set(runner.keys.values())


@pytest.mark.slow
def test_images_that_changed_are_refused_and_rebuilt_as_another_run(
    tmp_path: Path, compose: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    images, root = tmp_path / "images", tmp_path / "root"
    train(OmegaConf.create(compose(*folder_of(images), *SMALL, "stages=[prior]", f"paths.root={root}")))
    [(name, _)] = runs(root)

    def call(command: Callable[[Any], Any], *overrides: str) -> None:
        words = [f"run={name}", f"paths.root={root}", "trainer.device=cpu", *overrides]
        command(OmegaConf.create(compose(*words, name=command.__name__)))

    drawn = ("n=1", f"output={tmp_path}")
    call(sample, *drawn)
    [artifact] = (root / "artifacts/vae").glob("*/manifest.json")
    pictures = sorted((root / "mlartifacts").rglob("samples.png"))
    assert len(pictures) == 1

    add_class(images, "c", 7)
    for command in (sample, evaluate):
        with pytest.raises(ConfigError, match="class_names was"):
            call(command)
    assert list((root / "artifacts/vae").glob("*/manifest.json")) == [artifact]

    capsys.readouterr()
    call(sample, *drawn, "rebuild=true")
    assert len(list((root / "artifacts/vae").glob("*/manifest.json"))) == 2
    first, second = pictures[0].parents[2].name, capsys.readouterr().err.split("samples of run ")[1].split()[0]
    assert first != second
    assert len(runs(root)) == 2
    drawn_of = sorted(path.parents[2].name for path in (root / "mlartifacts").rglob("samples.png"))
    assert drawn_of == sorted([first, second])


def test_a_setting_that_changed_is_named_by_itself() -> None:
    before = {"schema": 1, "settings": {"steps": 5, "data": {"limit": None, "name": "digits"}}}
    now = {"schema": 2, "settings": {"steps": 5, "data": {"limit": 30, "name": "digits"}}}
    assert _differences(before, now) == ["schema was 1 and is 2", "data.limit was null and is 30"]
