"""Classes of someone else's package: the example in ``examples/plugin``, copied elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geovq.configuration.config import validate
from geovq.errors import ConfigError, ForeignCodeError
from tiny import REPOSITORY, TINY, command

CHOICES = ("quantizer=d4", "vae=perceptrons", "prior=independent", "evaluation=sharp")
SMALL = [word for word in TINY if not word.startswith(("vae.width", "vae.max_width"))]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the example whose package can be imported."""
    folder = shutil.copytree(REPOSITORY / "examples" / "plugin", tmp_path / "lab")
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


@pytest.fixture
def values(plugin: Path, tmp_path: Path, compose: Callable[..., Any]) -> Callable[..., Any]:
    """``values(*overrides)``: plain values of a run with the example's options."""

    def composed(*overrides: str) -> Any:
        path = f"hydra.searchpath=[file://{plugin / 'configs'}]"
        return compose(*SMALL, *CHOICES, "tracking=none", f"paths.root={tmp_path}", path, *overrides)

    return composed


def run(values: Any) -> dict[str, Any]:
    from geovq.commands.train import open_data
    from geovq.pipeline.runner import Runner
    from geovq.pipeline.stage import Context

    config = validate(values)
    return Runner(Context(config, *open_data(config))).run()


def test_one_of_each_runs_from_images_to_a_report(values: Callable[..., Any]) -> None:
    results = run(values("data=shapes", "data.n_images=200", "data.limit=null"))
    metrics = results["report"].artifact.json("metrics")
    assert metrics["rate_prior_bits_per_image"] > 0
    assert metrics["n_test_images"] == 40
    assert 0 < metrics["sharpness"] < 2
    code = results["codebook"].artifact.manifest["code"]
    assert "my_lab.lattice" in code


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["quantizer.n_scales=0"], r"^quantizer\.n_scales=0: input should be greater than or equal to 1$"),
        (["quantizer.order=up"], r"^quantizer\.order='up': input should be 'sorted' or 'random'$"),
        (["+quantizer.depth=1"], r"^quantizer\.depth: no such key"),
        (["vae.hidden=true"], r"^vae\.hidden=true: "),
        (
            ["quantizer._target_=my_lab.lattice.Nothing"],
            r"^quantizer\._target_=my_lab\.lattice\.Nothing: ",
        ),
        (["quantizer._target_=my_lab.shapes.Shapes"], r"has to extend geovq\.quantizers\.base\.CodebookEstimator or "),
        (
            ["quantizer=vqvae"],
            r"networks that the autoencoder's class makes: vae=perceptrons has no method networks",
        ),
    ],
)
def test_wrong_settings_are_told_like_ours(values: Callable[..., Any], overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(values(*overrides))


def test_wrong_settings_of_a_score_are_told_before_compute(values: Callable[..., Any]) -> None:
    from geovq.commands.train import open_data

    config = validate(values("evaluation.evaluators=[{_target_: my_lab.scores.Sharpness, power: 0}]"))
    with pytest.raises(ConfigError, match=r"^evaluation\.evaluators\[0\]\.power=0: input should be greater than 0$"):
        open_data(config)


def test_what_a_class_needs_is_asked_of_it(values: Callable[..., Any]) -> None:
    from my_lab.lattice import D4Lattice  # type: ignore[import-not-found]

    validate(values("geo=euclidean"))
    D4Lattice.needs_metrics = True
    with pytest.raises(ConfigError, match=r"quantizer=d4 needs the tokens' metrics: geo\.metric=none"):
        validate(values("geo=euclidean"))


def test_a_failing_fit_names_the_class(values: Callable[..., Any]) -> None:
    from my_lab.lattice import D4Lattice

    def fit(self: Any, *arguments: Any, **named: Any) -> None:
        raise KeyError("lost")

    D4Lattice.fit = fit
    with pytest.raises(ForeignCodeError, match=r"^my_lab\.lattice\.D4Lattice: fit failed: KeyError: 'lost' "):
        run(values("vae=spatial", "transformer=none", "stages=[codebook]"))


@pytest.mark.slow
def test_the_commands_find_the_classes_and_say_when_they_do_not(plugin: Path, tmp_path: Path) -> None:
    root, where = tmp_path / "root", ("--config-dir", str(plugin / "configs"))
    done = command(root, "train", *where, *SMALL, *CHOICES, "data=digits")
    assert done.returncode == 0, done.stderr
    for script in ("sample", "evaluate"):
        done = command(root, script, *where, "trainer.threads=1")
        assert done.returncode == 0, done.stderr
        done = command(root, script, "trainer.threads=1")
        assert done.returncode == 1
        assert "quantizer._target_=my_lab.lattice.D4Lattice: quantizer=d4 needs it" in done.stderr
        assert "Traceback" not in done.stderr
