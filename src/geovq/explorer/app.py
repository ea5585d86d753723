"""The page: the map beside the other panels, which follow what is picked on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dash import Dash, Input, Output, dcc, html

from geovq.explorer import codes_panel, compare_panel, first_picture, map_panel, path_panel, sample_panel, token_panel
from geovq.explorer.elements import in_browser, several

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from dash.development.base_component import Component

    from geovq.explorer.explored_run import ExploredRun

_TABS = ("token", "path", "codes", "compare", "sample")


def explorer(run: ExploredRun, others: Callable[[], Mapping[str, str]], opened: Callable[[str], ExploredRun]) -> Dash:
    """The explorer of a run as a Dash application.

    All that a person does is kept in the page itself, so several pages of one explorer do not disturb each other.

    Args:
        run: what is explored.
        others: names of other runs on the same data, by id; asked whenever the panel Compare is opened.
        opened: such a run by its id.
    """
    app = Dash(
        "geovq",
        title=f"{run.name}: explorer",
        update_title="",
        assets_folder=str(Path(__file__).parent / "assets"),
        serve_locally=True,
        suppress_callback_exceptions=True,
    )
    colouring = map_panel.first_colouring(run)
    figure = map_panel.map_figure(run.split("test"), "pca", colouring, [])
    app.layout = _layout(run, figure)
    seen = f"Map of {len(run.split('test').shown_tokens):,} tokens by {map_panel.COLOURINGS[colouring]}"
    first_picture.register(app, figure, run.name, _facts(run), seen)
    map_panel.register(app, run)
    token_panel.register(app, run)
    path_panel.register(app, run)
    codes_panel.register(app, run)
    compare_panel.register(app, run, others, opened)
    sample_panel.register(app, run)

    # The map is seen first: the other panels come once it is drawn.
    in_browser(app, "drawn", *several(Output, "drawn.data until-drawn.disabled"), Input("until-drawn", "n_intervals"))

    @app.callback(Output("panels", "children"), Input("drawn", "data"), prevent_initial_call=True)
    def fill(drawn: bool) -> list[Component]:
        fixed = token_panel.layout(), path_panel.layout(), codes_panel.layout(run), compare_panel.layout()
        return [*fixed, sample_panel.layout(run)]

    shown = [Output(f"{name}-panel", "hidden") for name in _TABS]
    in_browser(app, "turn", *shown, Input("tabs", "value"), at_once=True)
    return app


def _facts(run: ExploredRun) -> str:
    config = run.config
    facts = f"data={config.data.name} vae={config.vae.name} quantizer={config.quantizer.name} seed={config.seed}"
    return f"{facts}; run {run.run_id[:8]}"


def _layout(run: ExploredRun, figure: go.Figure) -> html.Main:
    splits = [{"label": "test images", "value": "test"}, {"label": "training images", "value": "train"}]
    return html.Main(
        [
            html.Header(
                [
                    html.H1(run.name),
                    html.Span(_facts(run), className="faint"),
                    dcc.RadioItems(splits, "test", id="split", inline=True),
                ]
            ),
            html.Div(
                [
                    map_panel.layout(run, figure),
                    html.Div(
                        [
                            dcc.Tabs(
                                [dcc.Tab(label=name.capitalize(), value=name) for name in _TABS],
                                id="tabs",
                                value="token",
                                mobile_breakpoint=0,
                            ),
                            html.Div(id="panels"),
                        ],
                        className="side",
                    ),
                ],
                className="halves",
            ),
            dcc.Store(id="picked", data={"split": "test", "tokens": []}),
            dcc.Store(id="kept", data=None),
            dcc.Store(id="drawn"),
            dcc.Interval(id="until-drawn", interval=100),
        ]
    )
