"""Map: tokens in two dimensions; hover shows one, a click picks it, the lasso keeps some images for all panels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import torch
from dash import Dash, Input, Output, State, ctx, dcc, html, no_update
from torch import Tensor

from geovq.explorer.elements import (
    GRAPH_SETTINGS,
    answers,
    dress,
    in_browser,
    message,
    patch_mark,
    picture,
    several,
    table,
    tiles,
)
from geovq.explorer.projection import has_umap, plane_of, positions, principal_plane
from geovq.viz.style import COLORS

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from geovq.explorer.explored_run import ExploredRun, SplitTokens

COLOURINGS = {"class": "class", "code": "code", "error": "decoded error of the patch", "bits": "KL divergence"}
_MOST_PICTURES = 24
_MOST_BELOW = 12
"""Classes in a legend below the map; that of more stands beside it and scrolls."""
_PALETTE = (*COLORS[:6], "#F0E442", "#999999", "#882255", "#44AA99", "#332288", "#AA4499")


def first_colouring(run: ExploredRun) -> str:
    """By class, where there are classes."""
    return "error" if run.context.data.test.labels is None else "class"


def layout(run: ExploredRun, figure: go.Figure) -> Component:
    """The panel with the first map, which so needs no question and answer of its own."""
    first, colouring = run.split("test"), first_colouring(run)
    umap = {} if has_umap() else {"disabled": True, "title": "not installed: pip install umap-learn"}
    projections = [{"label": "PCA", "value": "pca"}, {"label": "UMAP", "value": "umap", **umap}]
    colours = [{"label": words, "value": name} for name, words in COLOURINGS.items()]
    return html.Section(
        [
            html.H2("Map"),
            html.Div(
                [
                    dcc.RadioItems(projections, "pca", id="projection", inline=True),
                    html.Label(
                        [html.Span("coloured by "), dcc.Dropdown(colours, colouring, id="colouring", clearable=False)]
                    ),
                ],
                className="controls",
            ),
            html.Div(
                dcc.Loading(
                    dcc.Graph(
                        figure=figure,
                        id="map",
                        config={**GRAPH_SETTINGS, "modeBarButtonsToAdd": ["lasso2d"]},
                        clear_on_unhover=True,
                        style={"height": "34rem"},
                    ),
                    delay_show=400,
                ),
                className="map-place",
            ),
            dcc.Tooltip(
                id="map-tooltip", direction="bottom", background_color="var(--paper)", border_color="var(--line)"
            ),
            html.Div(note(first, "pca"), id="map-note"),
            html.Div(id="lasso"),
            dcc.Store(id="marked"),
        ],
        id="map-panel",
    )


def register(app: Dash, run: ExploredRun) -> None:
    """Callbacks of the panel."""

    @answers(
        app,
        *several(Output, "map-note.children map.figure"),
        *several(Input, "projection.value colouring.value split.value"),
        State("picked", "data"),
    )
    def draw(projection: str, colouring: str, split: str, picked: dict[str, Any]) -> Any:
        tokens = run.split(split)
        fault = why_not(tokens, colouring)
        said = note(tokens, projection) if fault is None else message(fault)
        return said, map_figure(tokens, projection, None if fault else colouring, marked(picked, split))

    @answers(
        app,
        *several(Output, "map-tooltip.children map-tooltip.show map-tooltip.bbox"),
        Input("map", "hoverData"),
        State("split", "value"),
        at_once=True,
    )
    def hover(data: dict[str, Any] | None, split: str) -> Any:
        if data is None:
            return no_update, False, no_update
        point = data["points"][0]
        return described(run.split(split), int(point["customdata"])), True, point["bbox"]

    in_browser(
        app, "pick", Output("picked", "data"), *several(Input, "map.clickData split.value"), State("picked", "data")
    )
    in_browser(app, "forget", *several(Input, "projection.value colouring.value split.value"))
    in_browser(app, "mark", Output("marked", "data"), Input("picked", "data"))

    @answers(
        app, *several(Output, "lasso.children kept.data"), *several(Input, "map.selectedData split.value"), at_once=True
    )
    def select(data: dict[str, Any] | None, split: str) -> Any:
        chosen = [int(point["customdata"]) for point in (data or {}).get("points", [])]
        if ctx.triggered_id == "split" or not chosen:
            return message("Draw around points with the lasso to keep their images for all panels."), None
        tokens = run.split(split)
        images = sorted({tokens.place(token).image for token in chosen})
        return summary(tokens, chosen, images), images


def why_not(tokens: SplitTokens, colouring: str) -> str | None:
    """Why tokens cannot be coloured so; None where they can."""
    if colouring == "class" and tokens.data.labels is None:
        return "These images have no classes; colour by another."
    if colouring == "bits" and tokens.bits is None:
        return "This autoencoder has no posterior and so no KL divergence; colour by another."
    if colouring in ("code", "error") and tokens.raw_codes is None:
        return "The training images of this run have no codes (only a prior needs them); take the test images."
    if colouring == "code" and tokens.codes is None:
        return f"No colours by code: {tokens.run.no_codewords}; colour by another."
    return None


def colour_scale(tokens: SplitTokens, colouring: str) -> dict[str, Any]:
    """Colours of the shown tokens by code, error or bits, with a bar that says the unit."""
    scale, title, top = "Viridis", "", 99
    if colouring == "error":
        values, title = tokens.shown_errors, "squared pixel error"
    elif colouring == "bits":
        values, title = None if tokens.bits is None else tokens.bits[tokens.shown].flatten(), "bits per token"
    else:
        assert tokens.codes is not None
        assert tokens.run.codewords is not None
        along = principal_plane(tokens.run.codewords)(tokens.run.codewords)[:, 0]
        rank = along.argsort().argsort()  # codewords that are near get colours that are
        values, scale, title, top = rank[tokens.codes[tokens.shown].flatten()], "Turbo", "code, by its first axis", 100
    assert values is not None
    low, high = np.percentile(values.numpy(), [0, top]).tolist()
    bar = {"title": {"text": title, "side": "right"}, "thickness": 12}
    bounds = {"cmin": low, "cmax": max(high, low + 1e-9)}
    return {"color": values.numpy(), "colorscale": scale, "colorbar": bar, **bounds}


def map_figure(tokens: SplitTokens, projection: str, colouring: str | None, picked: list[int]) -> go.Figure:
    """The map, the numbers of tokens as ``customdata``; without colours where ``colouring`` is None."""
    place, numbers = positions(tokens, projection).numpy(), tokens.shown_tokens.numpy()
    figure = dress(go.Figure())
    size = 3.5 if len(place) > 5000 else 6
    if colouring == "class":
        assert tokens.data.labels is not None
        per_image = tokens.grid[0] * tokens.grid[1]
        labels = tokens.data.labels[tokens.shown].repeat_interleave(per_image).numpy()
        for label in np.unique(labels):
            at, colour = labels == label, _PALETTE[int(label) % len(_PALETTE)]
            figure.add_scattergl(
                x=place[at, 0],
                y=place[at, 1],
                customdata=numbers[at].tolist(),  # of an array the page keeps no part for clicks
                name=tokens.run.info.class_names[int(label)],
                mode="markers",
                marker={"size": size, "opacity": 0.6, "color": colour},
                hoverinfo="none",
            )
    else:
        marker: dict[str, Any] = {"size": size, "opacity": 0.7, "color": COLORS[0]}
        if colouring is not None:
            marker |= colour_scale(tokens, colouring)
        figure.add_scattergl(
            x=place[:, 0], y=place[:, 1], customdata=numbers.tolist(), mode="markers", marker=marker, hoverinfo="none"
        )
    names = ["UMAP 1", "UMAP 2"]
    if projection == "pca":
        shares = plane_of(tokens).shares
        names = [f"principal axis {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares)]
    for axis, along in ((figure.update_xaxes, place[:, 0]), (figure.update_yaxes, place[:, 1])):
        low, high = float(along.min()), float(along.max())
        edge = 0.04 * (high - low) or 1.0
        axis(range=[low - edge, high + edge], nticks=8, automargin=False)
    classes = [] if tokens.data.labels is None else tokens.run.info.class_names
    width = 12 + 6 * max(map(len, classes), default=0)
    legend: dict[str, Any] = {"itemsizing": "constant", "font": {"size": 11}, "entrywidth": width}
    # Room for legend and bar, fixed: ranges and margins that are known are those of the picture before the map. That
    # below is the same with every colouring, since Plotly does not move the title of the axis.
    margin: dict[str, Any] = {"l": 56, "t": 28, "r": 12, "b": 52, "autoexpand": False}
    if len(classes) <= _MOST_BELOW:
        margin["b"] += 19 * -(-len(classes) // 3)
        legend |= {"orientation": "h", "x": 0, "yref": "container", "y": 0}  # at the foot, whatever the height
    elif colouring == "class":
        margin["r"] = 60 + width
    if colouring not in ("class", None):
        margin["r"] = 84
    return figure.update_layout(
        uirevision=f"{projection}-{tokens.name}",
        dragmode="lasso",
        clickmode="event",
        xaxis_title=names[0],
        yaxis_title=names[1],
        legend=legend,
        margin=margin,
        annotations=arrows(tokens, projection, picked),
    )


def arrows(tokens: SplitTokens, projection: str, picked: list[int]) -> list[dict[str, Any]]:
    """Arrows at the picked tokens, the latest last: 1 and 2 are the ends of a path."""
    if not picked:
        return []
    shown = {int(number): place for place, number in enumerate(tokens.shown_tokens)}
    place, notes = positions(tokens, projection), []
    for number, token in enumerate(picked, start=1):
        if token in shown:
            x, y = place[shown[token]].tolist()
            box = {"bgcolor": "#ff5a36", "font": {"color": "#fff", "size": 12}, "borderpad": 2}
            notes.append({"x": x, "y": y, "text": str(number), "ax": 18, "ay": -18, "arrowcolor": "#ff5a36", **box})
    return notes


def marked(picked: dict[str, Any], split: str) -> list[int]:
    """The tokens picked on this split."""
    return list(picked["tokens"]) if picked["split"] == split else []


def note(tokens: SplitTokens, projection: str) -> Component:
    """How many of how many are shown."""
    shown, all_ = len(tokens.shown), len(tokens.mean)
    words = f"{len(tokens.shown_tokens):,} tokens of {shown:,} {tokens.name} images"
    return message(words + ("" if shown == all_ else f", evenly spaced over {all_:,}") + f"; {projection.upper()}.")


def described(tokens: SplitTokens, token: int) -> Component:
    """The image of a token, its patch framed, and what is known of it."""
    place = tokens.place(token)
    words = [f"image {place.image}, row {place.row}, column {place.col}"]
    if (name := tokens.class_name(place.image)) is not None:
        words.append(f"class {name}")
    if tokens.codes is not None:
        words.append(f"code {int(tokens.codes[place.image, place.row, place.col])}")
    if tokens.bits is not None:
        words.append(f"{float(tokens.bits[place.image, place.row, place.col]):.1f} bits")
    shown = picture(tokens.data.images[place.image], side="5rem", mark=patch_mark(tokens, place))
    return html.Div(
        [tiles([shown, picture(tokens.patch(token), side="3rem")]), *(html.Div(word) for word in words)],
        className="hovered",
    )


def summary(tokens: SplitTokens, chosen: list[int], images: list[int]) -> Component:
    """What the lasso holds: counts, commonest classes and codes, some images."""
    per_image = tokens.grid[0] * tokens.grid[1]
    rows = [["tokens", f"{len(chosen):,}"], ["images", f"{len(images):,}"]]
    if tokens.data.labels is not None:
        labels = tokens.data.labels[torch.tensor(chosen) // per_image]
        rows.append(["commonest classes", commonest(labels, lambda label: tokens.run.info.class_names[label])])
    if tokens.codes is not None:
        rows.append(["commonest codes", commonest(tokens.codes.flatten()[torch.tensor(chosen)], str)])
    pictures = [picture(tokens.data.images[image], str(image), "3rem") for image in images[:_MOST_PICTURES]]
    return html.Div([table(["in the lasso", ""], rows, "lasso-table"), tiles(pictures)])


def commonest(values: Tensor, name: Any, most: int = 4) -> str:
    """``3 (41 %), 5 (20 %), …``."""
    found, counts = values.unique(return_counts=True)
    order = counts.argsort(descending=True)[:most]
    return ", ".join(f"{name(int(found[i]))} ({int(counts[i]) / len(values):.0%})" for i in order)
