"""``src/explore.py``: a recorded run in the browser."""

from __future__ import annotations

import os
import socket
import sys
import threading
import webbrowser
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from geovq.commands.recorded import MEASUREMENTS, RecordedSettings, find, restore
from geovq.configuration.parse import parse
from geovq.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dash import Dash

    from geovq.explorer.explored_run import ExploredRun


class ExploreSettings(RecordedSettings):
    """``configs/explore.yaml``."""

    stale: Literal["warn", "ignore"]
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    browser: bool


def explore(composed: DictConfig) -> None:
    """Read the run and serve its page until Ctrl-C."""
    settings = parse(ExploreSettings, OmegaConf.to_container(composed, resolve=True))
    check_free(settings.host, settings.port)
    app = explorer_of(settings)
    address = f"http://{settings.host}:{settings.port}"
    print(f"explorer: {address} (Ctrl-C ends it)", file=sys.stderr)
    if settings.browser and (sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY")):
        threading.Timer(0.5, webbrowser.open, (address,)).start()
    serve(app, settings.host, settings.port)


def serve(app: Dash, host: str, port: int) -> None:
    """Answer requests until Ctrl-C, several at a time, without a line for each."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:
            if type == "error":
                print(message % args, file=sys.stderr)

    with make_server(host, port, app.server, threaded=True, request_handler=Quiet) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("explorer: ended", file=sys.stderr)


def explorer_of(settings: ExploreSettings) -> Dash:
    """The application of a recorded run, what the first look needs already read.

    Raises:
        ConfigError: Dash is not installed, or the run has no codes or is not as it was.
    """
    try:
        from geovq.explorer.app import explorer
    except ModuleNotFoundError as missing:
        if missing.name not in ("dash", "plotly"):
            raise
        raise ConfigError("the explorer needs Dash and Plotly: ./scripts/setup_env.sh installs them") from None
    from geovq.tracking.search import find_runs

    record = find(settings)
    run = open_run(settings, record.run_id)
    query = f"tags.data = '{run.config.data.name}' and attributes.status = 'FINISHED'"

    def others() -> Mapping[str, str]:
        found = find_runs(settings.tracking, settings.paths.absolute, query)
        return {each.run_id: each.name for each in reversed(found) if each.run_id != record.run_id}

    @lru_cache(maxsize=4)
    def opened(run_id: str) -> ExploredRun:
        other = open_run(settings, run_id)
        if other.info == run.info and other.config.data == run.config.data:
            vars(other.context)["data"] = run.context.data  # the same images, once in memory
        return other

    app = explorer(run, others, opened)  # reads what the first look needs
    look_ahead(run)
    return app


def open_run(settings: RecordedSettings, run_id: str) -> ExploredRun:
    """A recorded run and those of its stages that are there; nothing is built.

    Its measurements may be of an earlier version: they are read as they were recorded.
    """
    from geovq.explorer.explored_run import explored

    record = find(settings.model_copy(update={"run": run_id}))
    runner, _ = restore(record, settings, indifferent=MEASUREMENTS)
    present = runner.present()
    for stage in MEASUREMENTS:
        recorded = runner.store.peek(stage, record.tags.get(f"artifact.{stage}", runner.keys[stage]))
        if recorded is not None and recorded.key != runner.keys[stage]:
            recorded.verify()
            present[stage] = recorded
    return explored(runner.context, present, record.name, record.run_id)


def look_ahead(run: ExploredRun) -> None:
    """Read and prepare, beside what goes on, what the first clicks would wait for."""
    threading.Thread(target=_look_ahead, args=(run,), daemon=True).start()


def _look_ahead(run: ExploredRun) -> None:
    from geovq.explorer.edits import original
    from geovq.explorer.paths import graph_path
    from geovq.explorer.tokens import TokenView

    try:
        split = run.split("test")
        view, codes = TokenView(split, 0), original(split, 0)
        view.neighbours(1)
        codes.alternatives(codes.slots()[0], 1)
        if run.codewords is not None:
            view.cheapest(1)
            codes.best_move()
        if run.missing("graph") is None:
            view.links()
            run.node_token  # noqa: B018  (read, and kept)
            graph_path(split, 0, split.n_tokens - 1)
        if run.no_single_codes is None:
            codes.prior_bits()
    except Exception as error:  # the click itself will say it
        print(f"warning: explorer: {error}", file=sys.stderr)


def check_free(host: str, port: int) -> None:
    """Refuse a port that is in use, before anything is read.

    Raises:
        ConfigError: it is, or there is no such host.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"host={host} port={port}: {error.strerror or error}"
            raise ConfigError(f"{reason}; take another port, such as port={port + 1}") from None
