from __future__ import annotations

from types import SimpleNamespace

import pytest

from geovq.tracking.params import RENAMED_METRICS
from geovq.tracking.search import record_of


def test_a_run_recorded_under_old_names_is_read_under_those_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RENAMED_METRICS, "old_score", "score")
    info = SimpleNamespace(run_id="0123456789", run_name="digits", status="FINISHED")
    data = SimpleNamespace(
        tags={"data": "digits", "omitted.old_score": "no weights"},
        params={"seed": "0"},
        metrics={"old_score": 0.5, "psnr": 20.0},
    )
    record = record_of(SimpleNamespace(info=info, data=data), "sqlite:///", None)  # type: ignore[arg-type]
    assert record.metrics == {"score": 0.5, "psnr": 20.0}
    assert record.params == {"seed": "0"}
    assert record.tags == {"data": "digits", "omitted.score": "no weights"}
    assert record.title == "digits (01234567)"
