"""Wrong words in a training command: one line that names key, value and remedy, before any compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from geovq.commands.train import train
from geovq.errors import ConfigError, GeoVQError
from geovq.launch import composing_fault, describe
from tiny import command, command_here


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        (
            command,
            "data=imagenet",
            "error: data=imagenet: no such option; choose cifar10, digits, fashion, folder, huggingface, mnist\n",
        ),
        (command_here, "datta=digits", "error: datta=digits: no such key or group; did you mean data?\n"),
        (command_here, "data=folder data.path=/nowhere", "/nowhere: no such file or folder"),
    ],
)
def test_a_wrong_word_ends_in_one_message_and_a_non_zero_exit(
    tmp_path: Path, run: Callable[..., Any], arguments: str, message: str
) -> None:
    result = run(tmp_path, "train", *arguments.split())
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("quantizer.K=abc", "quantizer.K='abc': input should be a valid integer"),
        ("quantizer.K=1000000", "quantizer.K=1000000: there are"),
        ("vae.grid=3", "vae.grid=3: images of 8x8 allow"),
        ("tracking.uri=./mlruns", "tracking.uri="),
    ],
)
def test_what_types_images_or_the_store_refuse_is_one_message_before_any_compute(
    tmp_path: Path, compose: Callable[..., Any], override: str, message: str
) -> None:
    with pytest.raises(GeoVQError) as caught:
        train(OmegaConf.create(compose(override, f"paths.root={tmp_path}")))
    told = describe(caught.value)
    assert message in told
    assert "\n" not in told
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            "Could not override 'assign.rate_lambda'.\nTo append to your config use +assign.rate_lambda=0.1",
            "assign.rate_lambda=0.1: the option chosen has no such key; it belongs to assign=search",
        ),
        (
            "Could not override 'finetune.patience'.\nTo append to your config use +finetune.patience=3",
            "finetune.patience=3: the option chosen has no such key; it belongs to finetune=adversarial or both or "
            "codebook or decoder",
        ),
        (
            "Could not override 'quantizer.codes'.\nTo append to your config use +quantizer.codes=3",
            "quantizer.codes=3: no such key; configs/quantizer lists those there are",
        ),
        (
            "Could not override 'foo.bar'.\nTo append to your config use +foo.bar=1",
            "foo.bar=1: no such key; configs/ lists those there are",
        ),
        (
            "Could not override 'nothing'.\nTo append to your config use +nothing=1",
            "nothing=1: no such key or group; --help lists the groups",
        ),
        ("Something else\nConfig search path:\n\tprovider=main", "Something else"),
    ],
)
def test_what_hydra_says_of_keys_becomes_a_line_with_a_remedy(told: str, expected: str) -> None:
    assert composing_fault(told) == expected


def test_debug_leaves_the_error_to_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOVQ_DEBUG", "1")
    with pytest.raises(ConfigError, match=r"quantizer\.K='abc'"):
        command_here(tmp_path, "train", "quantizer.K=abc")


def test_without_any_run_sample_says_what_to_do(tmp_path: Path) -> None:
    result = command_here(tmp_path, "sample")
    assert result.returncode == 1
    assert "no run is recorded yet" in result.stderr
