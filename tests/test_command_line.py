"""What a person types: text stays text, paths reach the program letter by letter, folders are where they should be."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st

from geovq.command_line import prepared, quoted, text_keys
from geovq.commands import settings_of
from geovq.commands.sweep import jobs_of
from geovq.configuration.config import validate
from geovq.configuration.parse import parse
from geovq.errors import ConfigError
from geovq.folders import output_folder
from geovq.launch import NOTHING_WRITTEN, describe, launch, single_message


@pytest.mark.parametrize(
    ("name", "key", "text"),
    [
        ("sample", "run", "923"),
        ("sample", "run", "7e4154"),
        ("evaluate", "run", "1e5"),
        ("compare", "baseline", "0.5"),
        ("train", "tracking.run_name", "2024_11_27"),
        ("train", "tracking.experiment", "true"),
        ("train", "tracking.experiment", "nan"),
    ],
)
def test_text_is_taken_as_it_is_typed(compose: Callable[..., Any], name: str, key: str, text: str) -> None:
    words, _ = prepared([f"{key}={text}"])
    value: Any = parse(settings_of(name), compose(*words, name=name))
    for part in key.split("."):
        value = getattr(value, part)
    assert value == text


def test_text_in_lists_and_sweeps_is_taken_as_it_is_typed(compose: Callable[..., Any]) -> None:
    words, _ = prepared(["runs=[923,7e4154, abc]", "seed=1"])
    assert words == ["runs=['923','7e4154', abc]", "seed=1"]
    assert compose(*words, name="compare")["runs"] == ["923", "7e4154", "abc"]
    jobs = jobs_of({}, prepared(["-m", "run=7e4154,abc,923"])[0][1:])
    assert [compose(*job, name="sample")["run"] for job in jobs] == ["7e4154", "abc", "923"]


def test_null_and_numbers_of_other_keys_stay_what_they_are() -> None:
    words = ["tracking.run_name=null", "seed=5", "geo.recall=1e-1", "trainer.profile=true", "run='923'", "--cfg", "job"]
    assert prepared(words)[0] == words


@pytest.mark.parametrize("word", ["geo=_base", "quantizer=pullback,_base", "quantizer.name=pullback"])
def test_what_is_no_option_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=f"^{word}: "):
        prepared([word])


def test_keys_that_hold_text_are_known_by_their_types() -> None:
    assert text_keys() >= {"run", "runs", "baseline", "query", "output", "out", "data.path", "data.root", "paths.root"}
    assert text_keys() >= {"tracking.uri", "tracking.experiment", "tracking.run_name", "evaluation.lpips_weights"}
    assert not text_keys() & {"seed", "quantizer.K", "geo.metric"}


@pytest.mark.parametrize(
    "path",
    ["/my pics (1)/x", "/a [old]/b", "/x=y", "/a#1", "/it's", '/say "a"', "/a${b}$c", "/a\\b!", "a,b", "{}"],
)
def test_a_quoted_path_reaches_the_program_letter_by_letter(compose: Callable[..., Any], path: str) -> None:
    (word,) = shlex.split(quoted(f"data.path={path}"))
    assert compose("data=folder", word)["data"]["path"] == path


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1))
def test_any_text_can_be_quoted(text: str) -> None:
    (word,) = shlex.split(quoted(f"data.path={text}"))
    (override,) = OverridesParser.create().parse_overrides([word])
    assert str(override.value()).replace("\\${", "${") == text


def test_a_word_that_hydra_cannot_read_is_printed_as_it_must_be_typed() -> None:
    word = "data.path=/my pics (1)/x"
    with pytest.raises(HydraException) as caught:
        OverridesParser.create().parse_overrides([word])
    assert describe(caught.value) == f"{word}: Hydra cannot read it; quote the value: \"data.path='/my pics (1)/x'\""
    with pytest.raises(ConfigError, match=r"pics/x: no key=value; .* quote both: \"data.path='/my pics/x'\""):
        prepared(["data.path=/my", "pics/x"])


@pytest.mark.parametrize("words", [["a=1", "-m", "b=1,2"], ["--multirun", "a=1", "b=1,2"], ["a=1", "b=1,2", "-m"]])
def test_m_is_understood_anywhere(words: list[str]) -> None:
    from hydra._internal.utils import get_args_parser

    arguments = get_args_parser().parse_args(prepared(words)[0])
    assert arguments.multirun
    assert arguments.overrides == ["a=1", "b=1,2"]


def test_what_is_given_twice_is_remarked_on() -> None:
    words = ["data=digits", "seed=1", "data=fashion", "seed=1"]
    assert prepared(words) == (words, ["data=digits is without effect: data=fashion comes after it"])


@pytest.mark.parametrize("empty", ["range(0,0)", "range(3, 1)", "range(0)"])
def test_a_range_without_a_value_is_refused(empty: str) -> None:
    with pytest.raises(ConfigError, match=r"seed=range.*: this range has no value"):
        prepared(["-m", f"seed={empty}"])
    assert prepared(["-m", "seed=range(0,2)"])[0] == ["-m", "seed=range(0,2)"]


@pytest.mark.parametrize("word", ["vae=null", "data=5", "quantizer=true"])
def test_an_option_that_is_no_word_is_told_of_as_any_other(compose: Callable[..., Any], word: str) -> None:
    with pytest.raises(HydraException) as caught:
        compose(*prepared([word])[0])
    assert describe(caught.value).startswith(f"{word}: no such option; choose ")


def test_a_home_folder_is_found_wherever_a_path_is_given(
    compose: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GEOVQ_ROOT", "~/runs")
    monkeypatch.chdir(tmp_path)
    words = ["data=folder", "data.path=~/pictures", "data.root=~/data", "evaluation.lpips_weights=~/alex.pth"]
    config = validate(compose(*prepared(words)[0]))
    assert config.root == home / "runs"
    assert output_folder("~/runs") == str(home / "runs")
    assert (config.data.path, config.data.root) == (str(home / "pictures"), str(home / "data"))
    assert config.evaluation.lpips_weights == str(home / "alex.pth")
    for name, key in (("sample", "output"), ("compare", "out")):
        settings = parse(settings_of(name), compose(*prepared([f"{key}=~/drawn"])[0], name=name))
        assert getattr(settings, key) == str(home / "drawn")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (None, r"paths\.root=null .*: name a folder"),
        ("", r"paths\.root='' .*: an empty path"),
        ("FILE", r"paths\.root='.*FILE' .*: it is a file"),
        ("FILE/below", r"paths\.root='.*below' .*FILE is a file"),
        ("locked/below", r"locked is read-only"),
        ("x" * 300, r"cannot be used"),
        ("~nobody-here/x", r"write the path in full"),
    ],
)
def test_a_root_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str | None, message: str
) -> None:
    (tmp_path / "FILE").touch()
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "locked")  # root may write anywhere
    given_root = root if root is None or root in ("",) or root.startswith("~") else str(tmp_path / root)
    with pytest.raises(ConfigError, match=message):
        output_folder(given_root)


def run_in_process(monkeypatch: pytest.MonkeyPatch, task: Callable[[Any], Any], *words: str) -> int:
    """``python src/compare.py`` with another task: its exit status."""
    import hydra

    configs = str(Path(__file__).parents[1] / "configs")
    monkeypatch.setattr(sys, "argv", ["src/compare.py", *words])
    main = hydra.main(version_base="1.3", config_path=configs, config_name="compare")(single_message(task))
    try:
        launch(main)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_single_job_ends_in_one_line_and_logs_go_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import logging

    monkeypatch.chdir(tmp_path)

    def task(config: Any) -> None:
        logging.getLogger("somebody").warning("a warning")
        raise ConfigError("seed=1: wrong")

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert run_in_process(monkeypatch, task, "seed=1") == 1
    told = capsys.readouterr()
    assert told.out == ""
    warning, message = told.err.splitlines()
    assert warning.endswith("a warning")
    assert message == "error: seed=1: wrong"


def test_all_jobs_share_one_root_whatever_folder_they_run_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from omegaconf import OmegaConf

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOVQ_ROOT", "out")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    seen = []

    def task(config: Any) -> None:
        settings: Any = parse(settings_of("compare"), OmegaConf.to_container(config, resolve=True))
        seen.append((settings.paths.absolute, os.getcwd()))

    status = run_in_process(monkeypatch, task, "seed=1,2", "-m", "hydra.job.chdir=true", "out=table")
    told = capsys.readouterr()
    assert (status, told.out) == (0, ""), told.err
    roots, folders = zip(*seen, strict=True)
    assert set(roots) == {tmp_path / "out"}
    assert len(set(folders)) == 2
    assert all(str(tmp_path / "out" / "runs") in folder for folder in folders)


def test_after_ctrl_c_a_command_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["compress.py"])
    with pytest.raises(SystemExit, match="130"):
        launch(stopped)
    assert capsys.readouterr().err == "error: interrupted; the same command goes on from here\n"
    with pytest.raises(SystemExit, match="130"):
        launch(stopped, interrupted=NOTHING_WRITTEN)
    assert capsys.readouterr().err == "error: interrupted; nothing was written\n"
