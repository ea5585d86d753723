"""Fixtures that several folders share: composing configurations and running the digits pipeline once."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tiny import TINY


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is marked gpu is skipped, with the reason, where there is none: before any fixture asks for it."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _one_root_per_test(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is ever written into the checkout."""
    if "GEOVQ_ROOT" not in os.environ:
        monkeypatch.setenv("GEOVQ_ROOT", str(tmp_path_factory.mktemp("experiments")))


@pytest.fixture(scope="session", autouse=True)
def _default_signals() -> Iterator[None]:
    """Started by nohup or in the background, processes inherit ignored signals; tests that send them need defaults."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    inherited = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in inherited.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def compose() -> Callable[..., Any]:
    """``compose(*overrides, name="train")``: plain values of a composed configuration."""
    from composing import composed

    return composed


@pytest.fixture(scope="session")
def make_runner(compose: Callable[..., Any]) -> Callable[..., Any]:
    """``make_runner(root, *overrides, log=…)``: a runner of the tiny digits pipeline below ``root``.

    Its figures are put together, but only where they are ``drawn`` also rendered: else that takes a fifth of the time.
    """

    def make(root: Path, *overrides: str, drawn: bool = False, **log: Any) -> Any:
        from geovq.commands.train import open_data
        from geovq.configuration.config import validate
        from geovq.pipeline.artifacts import ArtifactWriter
        from geovq.pipeline.runner import Runner
        from geovq.pipeline.stage import Context

        class Unrendered(Runner):
            def _build(self, stage: Any) -> Any:
                with mock.patch.object(ArtifactWriter, "figure", white):
                    return super()._build(stage)

        config = validate(compose(*TINY, "tracking=none", f"paths.root={root}", *overrides))
        source, info = open_data(config)
        return (Runner if drawn else Unrendered)(Context(config, source, info, **log))

    def white(self: Any, name: str, figure: Any) -> None:
        from PIL import Image

        Image.new("L", (1, 1), 255).save(self.directory / f"{name}.png")

    return make


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, make_runner: Callable[..., Any]) -> Any:
    """A finished tiny run: its runner and results. Treat its folder as read-only."""
    runner = make_runner(tmp_path_factory.mktemp("digits"), drawn=True)
    return runner, runner.run()


@pytest.fixture(scope="session")
def begin(digits_run: Any) -> Callable[[Path], Path]:
    """``begin(root)``: give a new root the finished stages of the tiny run, for tests of what differs from it."""

    def begun(root: Path) -> Path:
        shutil.copytree(digits_run[0].store.root, root / "artifacts")
        return root

    return begun


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a database of runs, to copy, since making one takes a second."""
    from geovq.tracking.store import open_client

    root = tmp_path_factory.mktemp("database")
    open_client(f"sqlite:///{root}/mlflow.db", root)
    return root / "mlflow.db"


@pytest.fixture(scope="session")
def small_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``small_autoencoder(kind)``: the folder of a small model of diffusers, made when it is first asked for."""
    pytest.importorskip("diffusers")
    from small_autoencoders import saved, trained

    root = tmp_path_factory.mktemp("models")

    def folder(kind: str) -> Path:
        path: Path = root / kind
        return path if path.exists() else saved(trained(kind), path)

    return folder
