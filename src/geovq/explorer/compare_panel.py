"""Compare: two runs on the same images, from a mean difference to the images that make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import torch
from dash import Dash, Input, Output, State, ctx, dcc, html, no_update

from geovq.errors import InputError
from geovq.evaluation.evaluator import HIGHER
from geovq.explorer.differences import Differences, differences, scores_of_both
from geovq.explorer.elements import answers, chart, error_map, in_browser, message, panel, picture, several

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from geovq.explorer.explored_run import ExploredRun

_MOST_SHOWN = 12


def layout() -> Component:
    """The panel, empty."""
    controls = [
        html.Label(
            ["second run ", dcc.Dropdown(id="other", clearable=False, placeholder="choose a run")], className="wide"
        ),
        html.Label(["score ", dcc.Dropdown(id="score", clearable=False)]),
        html.Label(["page ", dcc.Input(id="page", type="number", min=1, step=1, value=1)]),
        dcc.RadioItems(
            [{"label": "second better first", "value": "second"}, {"label": "first better first", "value": "first"}],
            "second",
            id="order",
            inline=True,
        ),
    ]
    return panel(
        "Compare", controls, html.Div(id="compare"), html.Div(id="compare-images"), dcc.Store(id="compare-asked")
    )


def register(
    app: Dash, run: ExploredRun, others: Callable[[], Mapping[str, str]], opened: Callable[[str], ExploredRun]
) -> None:
    """Callbacks of the panel: ``others`` names runs on the same data by id, ``opened`` gives one."""
    in_browser(app, "compare", Output("compare-asked", "data"), *several(Input, "kept.data tabs.value"))

    @answers(
        app,
        *several(Output, "compare.children other.options other.value"),
        Input("compare-asked", "data"),
        State("other", "value"),
    )
    def list_runs(asked: Any, chosen: str | None) -> Any:
        known = others()
        if not known:
            again = f"python src/train.py data={run.config.data.name} quantizer=euclidean"
            return message(f"There is no other finished run on {run.config.data.name}; {again}"), [], None
        options = [{"label": f"{name} ({run_id[:8]})", "value": run_id} for run_id, name in known.items()]
        return no_update, options, chosen if chosen in known else next(iter(known))

    @answers(
        app,
        Output("compare", "children", allow_duplicate=True),
        *several(Output, "score.options score.value"),
        Input("other", "value"),
        State("score", "value"),
    )
    def choose(other: str | None, chosen: str | None) -> Any:
        if other is None:
            return no_update, no_update, no_update
        known = scores_of_both(run, opened(other))
        options = [
            {"label": f"{each.title}{f', {each.unit}' if each.unit else ''}", "value": each.name} for each in known
        ]
        return no_update, options, chosen if chosen in {each.name for each in known} else known[0].name

    @answers(
        app,
        Output("compare", "children", allow_duplicate=True),
        Output("compare-images", "children"),
        *several(Input, "score.value other.value compare-asked.data order.value page.value"),
        Input("histogram", "clickData", allow_optional=True),
        State("split", "value"),
    )
    def show(
        score: str | None,
        other: str | None,
        asked: dict[str, Any],
        order: str,
        page: int | None,
        click: Any,
        split: str,
    ) -> Any:
        if None in (score, other):
            return no_update, []
        kept = asked["kept"]
        second = opened(str(other))
        found = next((each for each in scores_of_both(run, second) if each.name == score), None)
        if found is None:
            return no_update, no_update
        paired = differences(run, second, found)
        images = torch.arange(len(paired.gain)) if kept is None or split != "test" else torch.tensor(kept)
        around = click["points"][0]["x"] if click and ctx.triggered_id == "histogram" else None
        gallery = _gallery(run, second, paired, images, order, page or 1, around)
        if ctx.triggered_id in ("histogram", "page", "order"):
            return no_update, gallery
        return _summary(run, second, paired, images), gallery


def _summary(first: ExploredRun, second: ExploredRun, paired: Differences, images: torch.Tensor) -> list[Component]:
    gain, score = paired.gain[images], paired.score
    unit = f" {score.unit}" if score.unit else ""
    share = float(paired.is_better[images].float().mean())
    figure = go.Figure(go.Histogram(x=gain.numpy(), nbinsx=60, marker={"color": "#0072B2"}))
    figure.add_vline(x=0, line={"color": "#8a9099", "width": 1})
    figure.add_vline(x=float(gain.mean()), line={"color": "#D55E00", "width": 2})
    figure.update_layout(
        xaxis_title=f"{score.title} of the second run minus the first{unit and f', {score.unit}'}",
        yaxis_title="images",
        bargap=0.05,
    )
    words = (
        f"{score.title}: {float(paired.first[images].mean()):.4g}{unit} in {first.name}, "
        f"{float(paired.second[images].mean()):.4g}{unit} in {second.name}; mean difference "
        f"{float(gain.mean()):+.4g}{unit} over {len(gain):,} test images, the second "
        f"better in {share:.0%} of them. Click a bar for its images."
    )
    return [html.P(words, id="difference"), chart(figure, "histogram", "15rem")]


def _gallery(
    first: ExploredRun,
    second: ExploredRun,
    paired: Differences,
    images: torch.Tensor,
    order: str,
    page: int,
    around: float | None,
) -> list[Component]:
    gain = paired.gain[images]
    if around is not None:
        ranked, title = (gain - around).abs().argsort(), f"Images whose difference is nearest {around:+.3g}"
    else:
        falls = (order == "second") == (paired.score.better == HIGHER)
        ranked, title = gain.argsort(descending=falls), f"Images where the {order} run is better by most"
    n_pages = -(-len(images) // _MOST_SHOWN)
    if not 1 <= page <= n_pages:
        raise InputError(f"page={page}: there are pages 1 to {n_pages}")
    chosen = images[ranked[(page - 1) * _MOST_SHOWN : page * _MOST_SHOWN]]
    originals = first.split("test").data.images[chosen].float() / 255
    classes = first.split("test").classes_of(chosen)
    decoded = [run.decoded(run.codec.embed(run.codes[chosen]), classes) for run in (first, second)]
    top = float(torch.stack([(each - originals).abs().amax() for each in decoded]).max())
    rows = []
    for place, image in enumerate(chosen.tolist()):
        label = first.split("test").class_name(image)
        rows.append(
            html.Div(
                [
                    picture(originals[place], f"image {image}" + ("" if label is None else f", {label}"), "5rem"),
                    picture(decoded[0][place], f"first: {float(paired.first[image]):.4g}", "5rem"),
                    picture(decoded[1][place], f"second: {float(paired.second[image]):.4g}", "5rem"),
                    error_map(decoded[0][place], originals[place], top, "error, first", "5rem"),
                    error_map(decoded[1][place], originals[place], top, "error, second", "5rem"),
                    html.Strong(f"{float(paired.gain[image]):+.3g}"),
                ],
                className="tiles compared",
            )
        )
    return [html.H3(f"{title}, page {page} of {n_pages}"), *rows]
