"""Bars: silent without a terminal, one display for bars inside bars, and only for work that takes long."""

from __future__ import annotations

import io
import time

import pytest

import geovq.progress
from geovq.progress import progress, track, under_way


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:  # no fixture: pytest sets standard error after these
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    return terminal


@pytest.fixture
def any_work_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geovq.progress, "WORTH_A_BAR", 0.0)
    monkeypatch.setattr(geovq.progress, "_FIRST_LOOK", 0.0)


def test_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", total=2) as advance:
        advance()
        advance(1)
    assert capsys.readouterr() == ("", "")


def test_bars_inside_bars_share_a_display(monkeypatch: pytest.MonkeyPatch, any_work_is_long: None) -> None:
    terminal = at_terminal(monkeypatch)
    with progress("outer", total=2) as advance:
        for _ in range(2):
            assert list(track(range(3), "inner", total=3)) == [0, 1, 2]
            advance()
        time.sleep(0.4)  # it is drawn four times a second
    text = terminal.getvalue()
    assert "outer" in text
    assert "2/2" in text


def test_short_work_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    with progress("work", total=2) as advance:
        advance()
        advance()
    assert "work" not in terminal.getvalue()


def test_work_under_way_is_shown_on_a_terminal_and_goes_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    announced: list[str] = []
    with under_way("vae: training", announced.append):
        assert "vae: training" in terminal.getvalue()
    assert not announced
    assert terminal.getvalue().endswith("\x1b[1A\x1b[2K")  # the line is wiped, for what it came to


def test_work_under_way_is_announced_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    announced: list[str] = []
    with under_way("vae: training", announced.append):
        assert announced == ["vae: training"]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_that_takes_no_line_back_is_told_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    announced: list[str] = []
    with under_way("vae: training", announced.append), progress("work", total=1) as advance:
        advance()
    assert announced == ["vae: training"]
    assert terminal.getvalue() == ""


def test_an_error_closes_the_display(monkeypatch: pytest.MonkeyPatch) -> None:
    at_terminal(monkeypatch)
    with pytest.raises(KeyError), progress("first", total=1):
        raise KeyError
    with progress("second", total=1) as advance:
        advance()
