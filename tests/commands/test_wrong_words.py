"""Wrong words in a training command: one line that names key, value and remedy, before any compute."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("data=imagenet", "Could not find 'data/imagenet'"),
        ("datta=digits", "Could not override 'datta'"),
        ("quantizer.codes=3", "Could not override 'quantizer.codes'"),
        ("quantizer.K=abc", "quantizer.K='abc'"),
        ("quantizer.K=1000000", "quantizer.K=1000000: there are"),
        ("vae.grid=3", "vae.grid=3: images of 8x8 allow"),
        ("data=folder data.path=/nowhere", "/nowhere: no such file or folder"),
        ("tracking.uri=./mlruns", "tracking.uri="),
    ],
)
def test_a_wrong_word_ends_in_one_message_and_a_non_zero_exit(tmp_path: Path, arguments: str, message: str) -> None:
    result = command(tmp_path, "train", *arguments.split())
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "artifacts").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = command(tmp_path, "train", "quantizer.K=abc", GEOVQ_DEBUG="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_without_any_run_sample_says_what_to_do(tmp_path: Path) -> None:
    result = command(tmp_path, "sample")
    assert result.returncode == 1
    assert "no run is recorded yet" in result.stderr
