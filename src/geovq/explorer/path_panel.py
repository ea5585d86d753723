"""Path: three ways between two tokens, decoded frame by frame, with their lengths in pixel error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State, dcc, html, no_update

from geovq.explorer.elements import answers, in_browser, message, panel, picture, several, table, tiles
from geovq.explorer.paths import N_FRAMES, Way, expect, geodesic, ways
from geovq.page.pictures import address
from geovq.pipeline.stages.samples import to_bytes

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from geovq.explorer.explored_run import ExploredRun


_HINT = "Click two points of the map, one after the other: a path is drawn from the first to the second."


def layout() -> Component:
    """The panel, empty."""
    player = html.Div(
        [
            html.Button("play", id="play", n_clicks=0),
            dcc.Slider(0, N_FRAMES - 1, 1, value=0, marks=None, id="frame", updatemode="drag"),
            dcc.Interval(id="clock", interval=150, disabled=True),
        ],
        className="controls",
        id="player",
        hidden=True,
    )
    stores = dcc.Store(id="frames", data={}), dcc.Store(id="frame-shown"), dcc.Store(id="path-asked")
    return panel("Path", (), player, html.Div(message(_HINT), id="path"), *stores)


def register(app: Dash, run: ExploredRun) -> None:
    """Callbacks of the panel."""

    in_browser(app, "path", Output("path-asked", "data"), *several(Input, "picked.data tabs.value"))

    @answers(app, *several(Output, "path.children frames.data player.hidden"), Input("path-asked", "data"))
    def show(picked: dict[str, Any]) -> Any:
        split, tokens = run.split(picked["split"]), picked["tokens"]
        if len(tokens) < 2:
            for token in tokens:
                expect(split, token)
            return message(_HINT), {}, True
        found = ways(split, *tokens)
        return _shown(run, found, [message("The geodesic is being refined …")]), frames_of(found), False

    @answers(
        app,
        Output("path", "children", allow_duplicate=True),
        Output("frames", "data", allow_duplicate=True),
        Input("frames", "data"),
        State("path-asked", "data"),
    )
    def refine(frames: dict[str, Any], picked: dict[str, Any]) -> Any:
        """Seconds later than the others, which are there at once."""
        if not frames or "geodesic" in frames:
            return no_update, no_update
        split, tokens = run.split(picked["split"]), picked["tokens"]
        expect(split, tokens[-1])
        found = ways(split, *tokens)
        found += (geodesic(split, tokens[0], found),)
        return _shown(run, found, []), frames_of(found)

    @app.callback(
        *several(Output, "clock.disabled play.children"), Input("play", "n_clicks"), prevent_initial_call=True
    )
    def play(clicks: int) -> tuple[bool, str]:
        return clicks % 2 == 0, "pause" if clicks % 2 else "play"

    in_browser(
        app, "step", Output("frame", "value"), Input("clock", "n_intervals"), *several(State, "frame.value frame.max")
    )
    in_browser(app, "draw", Output("frame-shown", "data"), *several(Input, "frame.value frames.data"))


def frames_of(found: Sequence[Way]) -> dict[str, list[str]]:
    """The frames of each way, by its name."""
    return {way.name: [address(frame) for frame in to_bytes(way.frames)] for way in found}


def _shown(run: ExploredRun, found: Sequence[Way], more: list[Component]) -> list[Component]:
    shortest = min(way.length for way in found)
    lengths = [[way.name, f"{way.length:.4g}", f"{way.length / shortest:.3f}", f"{len(way.points)}"] for way in found]
    missing = run.missing("graph")
    return [
        table(["way", "length, pixel error", "relative to the shortest", "points"], lengths, "lengths"),
        *more,
        *([] if missing is None else [message(f"No graph path: {missing}")]),
        message("Each frame is the image of the first token with that token replaced; all others stay as they are."),
        *map(_row, found),
    ]


def _row(way: Way) -> Component:
    large = html.Div(picture(way.frames[0], side="6rem"), className="moving", id=f"moving-{way.name}")
    small = tiles([picture(frame, side="2.6rem") for frame in way.frames])
    return html.Div([html.H4(f"{way.name}: {way.length:.4g} pixel error"), html.Div([large, small], className="way")])
