"""Bars: silent without a terminal, and one display for bars inside bars."""

from __future__ import annotations

import io

import pytest

from geovq.progress import progress, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", total=2) as advance:
        advance()
        advance(1)
    assert capsys.readouterr() == ("", "")


def test_bars_inside_bars_share_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress("outer", total=2) as advance:
        for _ in range(2):
            assert list(track(range(3), "inner", total=3)) == [0, 1, 2]
            advance()
    text = terminal.getvalue()
    assert "outer" in text
    assert "2/2" in text


def test_an_error_closes_the_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    with pytest.raises(KeyError), progress("first", total=1):
        raise KeyError
    with progress("second", total=1) as advance:
        advance()
