from __future__ import annotations

import signal
import threading

import pytest

from geovq.tracking.process import SignalWatch

TRAIN = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from geovq.tracking import start_run
settings = SimpleNamespace(enabled=True, uri=None, experiment=sys.argv[2], run_name=None, log_every=50, wait_seconds=60)
with start_run(settings, Path(sys.argv[1]), "killed", {}) as run:
    run.log_metric("loss", 2.5, 7)
    print(run.run_id, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, -signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_killed_process_ends_its_run_with_its_metrics(root, settings, client, start_python, number, code):
    process = start_python(TRAIN, root, settings.experiment)
    run_id = process.stdout.readline().strip()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    stored = client.get_run(run_id)
    assert stored.info.status == "KILLED"
    assert stored.data.metrics == {"loss": 2.5}


def test_handlers_are_put_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    watch = SignalWatch()
    watch.install()
    try:
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.code == 143
        assert watch.received == signal.SIGTERM
    finally:
        watch.restore()
    assert {number: signal.getsignal(number) for number in before} == before


def test_ignored_and_foreign_handlers_are_left_alone():
    def foreign(number, frame):
        raise AssertionError

    hangup, terminate = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, foreign)
    watch = SignalWatch()
    try:
        watch.install()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is foreign
    finally:
        watch.restore()
        signal.signal(signal.SIGHUP, hangup)
        signal.signal(signal.SIGTERM, terminate)


def test_other_threads_install_nothing():
    before, after = signal.getsignal(signal.SIGTERM), []

    def work():
        watch = SignalWatch()
        watch.install()
        after.append(signal.getsignal(signal.SIGTERM))
        watch.restore()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert after == [before]
