"""What a run says at its end."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geovq.commands.closing import as_tag, close, next_command, words_recorded
from geovq.configuration.config import validate
from tiny import TINY


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "python src/train.py -m quantizer=geodesic,euclidean && python src/compare.py"),
        (
            ["data=fashion", "quantizer=euclidean", "quantizer.K=64"],
            "python src/train.py -m data=fashion quantizer.K=64 quantizer=euclidean,whitened && python src/compare.py",
        ),
        (["quantizer=product", "quantizer.slots=2"], "python src/sample.py run=latest"),
        (["quantizer.seed=1", "transformer=none"], "python src/compare.py"),
    ],
)
def test_what_to_try_next(compose: Callable[..., Any], words: list[str], expected: str) -> None:
    known = [word for word in words if not word.startswith("quantizer.s")]
    config = validate(compose(*known))
    assert next_command(config, words) == expected
    assert next_command(config, words, "0123456789abcdef") == expected.replace(
        "latest", "0123456789ab"
    )  # of evaluate.py


def test_words_are_recorded_as_they_were_given() -> None:
    words = ["data=folder", "data.path='/a b/c'", "samples.temperatures=[0.5, 1.0]"]
    assert words_recorded(as_tag(words)) == words
    assert as_tag(None) == {}
    assert words_recorded({}) is None
    assert words_recorded({"geovq.overrides": "data.path='/a b"}) is None


def test_a_page_that_cannot_be_written_is_a_warning(
    digits_run: Any, compose: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = validate(compose(*TINY, f"paths.root={tmp_path}"))
    (tmp_path / "runs").write_text("a file in its way")
    assert close(config, digits_run[1], "mine", "", None) is None
    page = tmp_path / "runs" / "mine" / "report.html"
    assert capsys.readouterr().err == f"warning: the page {page} cannot be written: Not a directory\n"


def test_another_root_is_named(
    digits_run: Any, compose: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "my root"
    config = validate(compose(*TINY, f"paths.root={root}"))
    close(config, digits_run[1], "mine", "", ["data=digits"])
    page, look, ahead = capsys.readouterr().err.splitlines()
    assert page == f"page: {root}/runs/mine/report.html"
    assert look == f"all runs: GEOVQ_ROOT={shlex.quote(str(root))} ./scripts/mlflow_ui.sh"
    assert ahead.startswith("next: python src/train.py -m data=digits quantizer=")
    close(validate(compose(*TINY, f"paths.root={root}", "tracking=none")), digits_run[1], "mine", "", [])
    assert "all runs" not in capsys.readouterr().err
    assert close(config, {}, "mine", "", []) is None
