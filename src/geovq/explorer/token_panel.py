"""Token: neighbours by three distances, metric ellipse, links of the graph, cheapest codewords under each rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import torch
from dash import Dash, Input, Output, dcc, html

from geovq.explorer.elements import (
    answers,
    chart,
    in_browser,
    message,
    panel,
    patch_mark,
    picture,
    several,
    table,
    tiles,
)
from geovq.explorer.map_panel import described
from geovq.explorer.projection import plane_of
from geovq.explorer.tokens import Near, TokenView

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from geovq.explorer.explored_run import ExploredRun

_HINT = "Click a point of the map."
N_NEAREST, N_LINKS, N_CHEAPEST = 8, 10, 5


def layout() -> Component:
    """The panel, empty."""
    return panel("Token", (), html.Div(message(_HINT), id="token"), dcc.Store(id="token-asked"), hidden=False)


def register(app: Dash, run: ExploredRun) -> None:
    """Callbacks of the panel."""

    in_browser(
        app, "token", Output("token-asked", "data"), *several(Input, "picked.data kept.data tabs.value"), at_once=True
    )

    @answers(app, Output("token", "children"), Input("token-asked", "data"))
    def show(asked: dict[str, Any]) -> Any:
        picked, kept = asked["picked"], asked["kept"]
        if not picked["tokens"]:
            return message(_HINT)
        images = None if kept is None else torch.tensor(kept)
        view = TokenView(run.split(picked["split"]), picked["tokens"][-1])
        near = view.neighbours(N_NEAREST, images)
        return [
            described(view.split, view.token),
            *_neighbours(view, near, kept is not None),
            *_ellipse(view, near),
            *_links(view),
            *_codewords(view),
        ]


def _neighbours(view: TokenView, near: list[Near], within_lasso: bool) -> list[Component]:
    where = " among the images of the lasso" if within_lasso else ""
    columns = []
    for each in near:
        shown = [
            picture(view.split.patch(int(index)), f"{float(distance):.3g}", "2.6rem")
            for index, distance in zip(each.index, each.distance, strict=True)
        ]
        columns.append(html.Div([html.H4(each.title), tiles(shown)]))
    shared = len(set(near[0].index.tolist()) & set(near[2].index.tolist()))
    of = len(near[2].index)
    return [
        html.H3(f"Nearest tokens{where}"),
        html.Div(columns, className="columns", id="nearest"),
        message(f"Latent and pull-back distance have {shared} of their {of} nearest in common."),
    ]


def _ellipse(view: TokenView, near: list[Near]) -> list[Component]:
    plane = plane_of(view.split)
    radius = float(near[2].distance.median()) if len(near[2].distance) else 1.0
    here, cut = plane(view.vector[None])[0].tolist(), view.ellipse(plane, radius).numpy()
    figure = go.Figure()
    for each, symbol in ((near[0], "circle-open"), (near[2], "x")):
        at = plane(view.split.tokens[each.index]).numpy()
        figure.add_scatter(
            x=at[:, 0], y=at[:, 1], mode="markers", name=f"nearest: {each.title}", marker={"symbol": symbol, "size": 9}
        )
    figure.add_scatter(x=cut[:, 0], y=cut[:, 1], mode="lines", name=f"metric ellipse, radius {radius:.3g} pixel error")
    figure.add_scatter(x=here[:1], y=here[1:], mode="markers", name="token", marker={"size": 11, "color": "#ff5a36"})
    figure.update_layout(
        legend={"orientation": "h", "y": -0.25}, xaxis_title="principal axis 1", yaxis_title="principal axis 2"
    )
    figure.update_yaxes(scaleanchor="x", constrain="domain").update_xaxes(constrain="domain")
    values = torch.linalg.eigvalsh(view.metric).clamp(min=0)
    stretch = float((values[-1] / values.mean()).sqrt())
    return [
        html.H3("Metric"),
        chart(figure, "ellipse", "26rem"),
        message(
            f"A step of one latent unit changes the image by {float(values[-1].sqrt()):.3g} in pixel error along the "
            f"most sensitive direction, {stretch:.1f} times the root mean square over directions. The ellipse is the "
            "cut with the plane of the map."
        ),
    ]


def _links(view: TokenView) -> list[Component]:
    missing = view.run.missing("graph")
    if missing is not None:
        return [html.H3("Links of the graph"), message(missing)]
    index, latent, pixel = view.links()
    training, graph = view.run.split("train"), view.run.graph
    how = "edges of its node" if view.split.name == "train" else "how it is attached to the graph of training tokens"
    unit = "pixel error" if graph.unit == "pixel" else "pixel error (by this token's metric)"
    rows = [
        [
            picture(training.patch(int(token)), side="2.2rem"),
            training.class_name(training.place(int(token)).image) or "",
            f"{float(a):.3g}",
            f"{float(b):.3g}",
        ]
        for token, a, b in zip(index[:N_LINKS], latent, pixel, strict=False)
    ]
    title = f"Links of the graph: {how}, {min(N_LINKS, len(index))} of {len(index)}"
    return [html.H3(title), table(["token", "class", "latent L2", unit], rows, "links")]


def _codewords(view: TokenView) -> list[Component]:
    title = html.H3("Cheapest codewords under each assignment rule")
    if view.run.no_codewords is not None:
        return [title, message(f"Left out: {view.run.no_codewords}.")]
    if view.code is None:
        return [title, message("These images have no codes; take the test images.")]
    chosen = view.code
    rules = view.cheapest(N_CHEAPEST)
    shown = torch.cat([near.index for near in rules]).unique()
    decoded = dict(zip(shown.tolist(), view.decoded(shown), strict=True))
    frame = patch_mark(view.split, view.place)
    rows = []
    for near in rules:
        pictures = [
            html.Div(
                picture(decoded[code], f"{'✓ ' if code == chosen else ''}{code}: {cost:.3g}", "3.4rem", frame),
                className="chosen" if code == chosen else "",
            )
            for code, cost in zip(near.index.tolist(), near.distance.tolist(), strict=True)
        ]
        rows.append(html.Div([html.H4(near.title), tiles(pictures)]))
    said = f"Code and cost below each, decoded with the other codes as they are; ✓ is what the run chose, {chosen}."
    return [title, message(said), html.Div(rows, className="columns", id="cheapest")]
