"""Pieces that all panels are made of: pictures, messages, tables, and callbacks whose faults are shown."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from dash import ClientsideFunction, Dash, ctx, dcc, html, no_update
from dash.dependencies import DashDependency
from torch import Tensor

from geovq.errors import GeoVQError
from geovq.page.pictures import address, heat
from geovq.pipeline.stages.samples import to_bytes

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from dash.development.base_component import Component

GRAPH_SETTINGS: Any = {"displaylogo": False, "responsive": True, "scrollZoom": True}
INK = "#8a9099"
"""Of axes: legible on light and on dark."""


def picture(image: Tensor, title: str = "", side: str = "4rem", mark: Sequence[float] | None = None) -> Component:
    """An image (C, H, W), bytes or [0, 1], with a line below; ``mark``, its top, bottom, left and right as shares, is
    framed.
    """
    frame = []
    if mark is not None:
        top, bottom, left, right = (f"{100 * share:.2f}%" for share in mark)
        place = {"top": top, "left": left, "height": f"calc({bottom} - {top})", "width": f"calc({right} - {left})"}
        frame = [html.Span(className="cell", style=place)]
    source = address(image if str(image.dtype) == "torch.uint8" else to_bytes(image))
    return _figure(source, image.shape, title, side, frame)


def error_map(first: Tensor, second: Tensor, top: float, title: str, side: str = "4rem") -> Component:
    """Where two images (C, H, W) in [0, 1] differ, as colours from 0 to ``top``."""
    difference = (first - second).square().mean(0).sqrt()
    return _figure(heat(difference, top), difference.shape, title, side)


def _figure(source: str, shape: Sequence[int], title: str, side: str, frame: Sequence[Component] = ()) -> Component:
    style = {"width": side, "aspectRatio": f"{shape[-1]}/{shape[-2]}"}
    box = html.Div([html.Img(src=source, alt=title or "image"), *frame], className="picture", style=style)
    return html.Figure([box, html.Figcaption(title)] if title else [box])


def panel(title: str, controls: Sequence[Component], *children: Component, hidden: bool = True) -> Component:
    """A panel under its title, controls in a row above the rest; it is seen when its tab is turned to."""
    row = [html.Div(controls, className="controls")] if controls else []
    return html.Section([html.H2(title), *row, *children], id=f"{title.lower()}-panel", hidden=hidden)


def tiles(children: Sequence[Component]) -> Component:
    """Pictures side by side."""
    return html.Div(children, className="tiles")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], name: str = "") -> Component:
    """Words to the left, numbers to the right."""
    body = [html.Tr([html.Th(row[0]), *(html.Td(cell) for cell in row[1:])]) for row in rows]
    heading = html.Thead(html.Tr([html.Th(word) for word in head]))
    return html.Div(html.Table([heading, html.Tbody(body)], id=name or f"table-{head[0]}"), className="scroll")


def message(text: str, kind: str = "hint") -> Component:
    """What is missing or went wrong, in a line; ``kind`` is ``hint`` or ``fault``."""
    return html.P(text, className=kind, role="status")


def chart(figure: go.Figure, name: str, height: str = "22rem", **more: Any) -> Component:
    """A plot in the look of all: no paper, faint axes."""
    dress(figure)
    return dcc.Graph(figure=figure, id=name, config=GRAPH_SETTINGS, style={"height": height}, **more)


def dress(figure: go.Figure) -> go.Figure:
    """Give a figure the look of all."""
    axis = {"color": INK, "gridcolor": "rgba(138,144,153,.25)", "zerolinecolor": "rgba(138,144,153,.4)"}
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "family": "system-ui, sans-serif", "size": 12},
        margin={"l": 48, "r": 12, "t": 28, "b": 40},
        hoverlabel={"font": {"family": "system-ui, sans-serif"}},
    )
    return figure.update_xaxes(**axis).update_yaxes(**axis)


def several(kind: type[DashDependency], names: str) -> list[Any]:
    """Several outputs, inputs or states in a row: ``several(Input, "image.value split.value")``."""
    return [kind(*name.split(".")) for name in names.split()]


def in_browser(app: Dash, name: str, *dependencies: DashDependency, at_once: bool = False) -> None:
    """Have a function of ``assets/explorer.js`` give outputs whenever inputs change, and ``at_once``."""
    function = ClientsideFunction("explorer", name)
    app.clientside_callback(function, *dependencies, prevent_initial_call=not at_once)


def answers(app: Dash, *dependencies: DashDependency, at_once: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a callback whose faults are shown in its first output, the content of its panel; other outputs stay."""

    def registered(callback: Callable[..., Any]) -> Any:
        return app.callback(*dependencies, prevent_initial_call=not at_once)(_answered(callback))

    return registered


def _answered(callback: Callable[..., Any]) -> Callable[..., Any]:

    @wraps(callback)
    def answer(*values: Any) -> Any:
        try:
            return callback(*values)
        except GeoVQError as error:
            shown = message(str(error), "fault")
        except FileNotFoundError as error:
            gone = f"{error.filename or error}: no longer there; the run was deleted while it was open: open another"
            shown = message(gone, "fault")
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            shown = message(f"{type(error).__name__}: {error} (a fault of the program)", "fault")
        n_outputs = len(ctx.outputs_list) if isinstance(ctx.outputs_list, list) else 1
        return (shown, *[no_update] * (n_outputs - 1)) if n_outputs > 1 else shown

    return answer


def patch_mark(split: Any, place: Any) -> tuple[float, float, float, float]:
    """The frame of a token's patch, in shares of the image."""
    top, bottom, left, right = split.patches[place.row * split.grid[1] + place.col]
    height, width = split.data.images.shape[2:]
    return top / height, bottom / height, left / width, right / width
