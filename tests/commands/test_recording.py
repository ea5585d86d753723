"""What a person gets when the work is done and cannot be recorded."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from geovq.commands.evaluate import evaluate, is_recorded
from geovq.commands.train import train
from geovq.configuration.config import validate
from geovq.errors import TrackingError
from geovq.pipeline.runner import Runner
from geovq.tracking import find_run, start_run
from tiny import TINY, runs


@pytest.fixture
def root(database: Path, tmp_path: Path) -> Path:
    shutil.copy(database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.mark.parametrize("fault", ["deleted", "locked"])
def test_the_report_is_printed_first_and_the_same_command_records_it(
    digits_run: Any,
    compose: Callable[..., Any],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    from filelock import FileLock

    composed = OmegaConf.create(compose(*TINY, f"paths.root={root}", "tracking.wait_seconds=0.3"))
    lock = FileLock(root / "mlflow.db.lock", thread_local=False)

    def run_and_break(self: Runner) -> Any:
        if fault == "deleted":
            (root / "mlflow.db").unlink()
        else:
            lock.acquire()
        return digits_run[1]

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "run", run_and_break)
        with pytest.raises(TrackingError, match="give the same command again: it records what is finished") as caught:
            train(composed)
    lock.release()
    assert "\n" not in str(caught.value)
    printed = capsys.readouterr().out
    assert "PSNR" in printed
    assert (root / "runs" / "digits-geodesic-K16-s0" / "report.html").is_file()
    monkeypatch.setattr(Runner, "run", lambda self: digits_run[1])
    train(composed)
    assert capsys.readouterr().out == printed
    statuses = [status for _, status in runs(root)]
    assert statuses[-1] == "FINISHED"
    assert statuses[:-1] == ([] if fault == "deleted" else ["RUNNING"])  # its process, this one, still lives
    record = find_run(validate(OmegaConf.to_container(composed)).tracking, root, "latest")
    assert record.metrics["psnr"] == digits_run[1]["report"].artifact.json("metrics")["psnr"]


def test_a_report_counts_as_recorded_only_where_a_run_finished(compose: Callable[..., Any], root: Path) -> None:
    tracking = validate(compose(*TINY)).tracking
    start_run(tracking, root, "failed", {"geovq.kind": "evaluate", "artifact.report": "abc"}).end("FAILED")
    assert not is_recorded(tracking, root, "abc")
    start_run(tracking, root, "stages", {"geovq.kind": "stages", "artifact.report": "abc"}).end("FINISHED")
    assert not is_recorded(tracking, root, "abc")
    start_run(tracking, root, "whole", {"geovq.kind": "evaluate", "artifact.report": "abc"}).end("FINISHED")
    assert is_recorded(tracking, root, "abc")


def test_evaluate_prints_a_recorded_report_and_records_it_once(
    digits_run: Any,
    compose: Callable[..., Any],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Runner, "run", lambda self: digits_run[1])
    train(OmegaConf.create(compose(*TINY, f"paths.root={root}")))
    capsys.readouterr()
    [config] = root.glob("mlartifacts/*/artifacts/config.json")
    recorded = json.loads(config.read_text())
    del recorded["tracking"]["wait_seconds"]  # a run of before there was such a key
    config.write_text(json.dumps(recorded))
    again = OmegaConf.create(compose("run=latest", f"paths.root={root}", "trainer.device=cpu", name="evaluate"))
    evaluate(again)
    printed = capsys.readouterr().out
    metrics = digits_run[1]["report"].artifact.json("metrics")
    rows = {line.split()[0] for line in printed.splitlines()[2:]}
    assert {name.removesuffix("_continuous") for name in metrics} <= rows
    assert re.search(rf"^  psnr .* {metrics['psnr']:.2f}  dB ↑$", printed, re.MULTILINE)
    assert len(runs(root)) == 1
    with sqlite3.connect(root / "mlflow.db") as connection:
        connection.execute("delete from tags where key = 'artifact.report'")
    evaluate(again)
    evaluate(again)
    assert [status for _, status in runs(root)] == ["FINISHED"] * 2
