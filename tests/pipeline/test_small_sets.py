"""Sets of images that are too small for some scores: left out with the reason, and told before any compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from geovq.errors import ConfigError
from geovq.evaluation import generation
from geovq.evaluation.evaluator import measure
from geovq.models.classifier import SmallClassifier
from geovq.pipeline.runner import settings_of
from geovq.pipeline.stages import STAGES
from geovq.pipeline.stages.evaluated_run import EvaluatedRun

SMALL = ("data=folder", "quantizer=euclidean", "quantizer.K=4", "geo.k=4", "data.limit=null", "vae.steps=10")


def save(folder: Path, n_train: int, n_test: int) -> Path:
    arrays = {}
    for part, n_images in (("train", n_train), ("test", n_test)):
        arrays[f"{part}_images"] = np.random.default_rng(n_images).integers(0, 256, (n_images, 8, 8), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(n_images) % 2
    np.savez(folder / "small.npz", **arrays)
    return folder / "small.npz"


@pytest.mark.parametrize(
    ("n_test", "left_out"),
    [
        (6, set()),
        (4, {"density", "coverage"}),
        (2, {"density", "coverage", "precision", "recall", "error"}),
        (1, {"density", "coverage", "precision", "recall", "error", "fid", "kid", "prior_fid", "rfid"}),
    ],
)
def test_scores_of_samples_that_few_test_images_do_not_allow(n_test: int, left_out: set[str]) -> None:
    torch.manual_seed(0)
    classifier = SmallClassifier(1, 8, 8, 2).eval()
    images = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8)
    drawn = SimpleNamespace(
        tensors=lambda name: {"images": images, "labels": torch.arange(10) % 2, "codes": images[:, 0, :2, :2]}
    )
    context: Any = SimpleNamespace(
        info=SimpleNamespace(name="x"),
        device=torch.device("cpu"),
        data=SimpleNamespace(test=SimpleNamespace(images=images[:n_test])),
        config=SimpleNamespace(
            latents_are_points=True,
            evaluation=SimpleNamespace(seed=0, geodesic_codewords=0),
            geo=SimpleNamespace(metric="none"),
            data=SimpleNamespace(memory_gb=None),
            root=Path("/nowhere"),
        ),
    )
    with torch.no_grad():
        embedded = classifier.embedding(images.float() / 255)
    inputs: Any = {
        "samples": drawn,
        "prior": SimpleNamespace(json=lambda name: {}),
        "features": SimpleNamespace(
            tensors=lambda split: {"features": embedded if split == "train" else embedded[:n_test]}
        ),
    }
    run = EvaluatedRun(context, inputs)
    run.classifier = classifier
    run.quantized = run.unquantized = images[:n_test].flip(0).float() / 255
    ours = [generation.samples, generation.sample_classes, generation.prior_alone, generation.reconstructed_set]
    with torch.no_grad():
        found = measure(ours, run)
    families = {"error" if name.endswith("error") else name.partition("_x_cnn")[0] for name in found.omitted}
    assert families == left_out
    assert all(f"{n_test} images in the smallest set are too few" in reason for reason in found.omitted.values())
    assert found.values["n_compared_images"] == n_test
    assert "sample_class_accuracy" in found.values
    assert not found.omitted.keys() & found.values.keys()
    assert np.isfinite(list(found.values.values())).all()


def test_what_a_small_set_leaves_out_is_told_before_compute(
    tmp_path: Path, make_runner: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    make_runner(tmp_path, *SMALL, f"data.path={save(tmp_path, 20, 1)}")
    told = capsys.readouterr().err
    assert "remark: 1 test images are too few for precision, recall, density, coverage, fid, kid, intervals" in told
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.slow
@pytest.mark.parametrize("vae", ["spatial", "flat"])
def test_a_single_test_image_goes_all_the_way(tmp_path: Path, make_runner: Callable[..., Any], vae: str) -> None:
    runner = make_runner(tmp_path, *SMALL, f"data.path={save(tmp_path, 20, 1)}", f"vae={vae}", "vae.dim=4")
    report = runner.run()["report"].artifact
    assert np.isfinite(list(report.json("metrics").values())).all()
    assert "psnr_interval_low" in report.json("omitted")


def test_full_scale_is_in_the_keys_only_where_it_is_set(tmp_path: Path, make_runner: Callable[..., Any]) -> None:
    plain, stretched = make_runner(tmp_path), make_runner(tmp_path, "data.full_scale=100")
    assert plain.keys["vae"] != stretched.keys["vae"]
    for runner, expected in ((plain, False), (stretched, True)):
        [stage] = [stage for stage in STAGES if stage.name == "vae"]
        assert ("full_scale" in settings_of(stage, runner.context)["data"]) is expected


@pytest.mark.parametrize("word", ["data.validation=1.0", "data.validation=0.0", "data.validation=0.99999"])
def test_a_validation_part_that_leaves_nothing(tmp_path: Path, make_runner: Callable[..., Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word.replace(".", r"\.")):
        make_runner(tmp_path, word)
