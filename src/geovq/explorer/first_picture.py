"""The first map as a picture in the page itself: seen before the scripts that draw the map have been read.

The picture is made of the figure, so it has its colours and its axes. ``assets/explorer.js`` puts it where the map will
stand and takes it away when the map does, or when another one is asked for.
"""

from __future__ import annotations

from functools import cache
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from flask import Response

from geovq.viz.style import DPI

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from dash import Dash

HEIGHT, NARROW_HEIGHT = 544, 384
"""Of the map in CSS pixels, margins included; the second where the page has one column (``assets/explorer.css``)."""
_WIDTHS = (("(max-width: 30rem)", 280), ("(max-width: 45rem)", 420), ("(max-width: 60rem)", 720), ("", 540))
"""Of pictures in CSS pixels, by the page's; the browser fits the one it takes to the place of the map exactly."""


def register(app: Dash, figure: go.Figure, title: str, facts: str, seen: str) -> None:
    """Show a picture of a figure until the page's scripts have drawn it.

    Args:
        app: gets the page's frame and the addresses of the pictures.
        figure: points, whose axes have ranges and ``nticks``, and whose margins are fixed.
        title: of the page.
        facts: the line beside it.
        seen: what the picture shows, for those who do not see it.
    """

    @cache
    def drawn(width: int, height: int, scale: int) -> bytes:
        return points_picture(figure, width, height, scale)

    margin, sources, sizes = figure.layout.margin, list[str](), set[tuple[int, int, int]]()
    version = abs(hash(drawn(_WIDTHS[-1][1], HEIGHT - margin.t - margin.b, 1)))
    for media, width in _WIDTHS:
        height = (NARROW_HEIGHT if media else HEIGHT) - margin.t - margin.b
        one, two = (f"/first-map/{width}-{height}-{scale}.png?v={version}" for scale in (1, 2))
        sizes |= {(width, height, 1), (width, height, 2)}
        of = f'srcset="{one} 1x, {two} 2x"'
        sources.append(f'<source media="{media}" {of}>' if media else f'<img src="{one}" {of} alt="{escape(seen)}">')

    @app.server.route("/first-map/<int:width>-<int:height>-<int:scale>.png")
    def picture(width: int, height: int, scale: int) -> Response:
        if (width, height, scale) not in sizes:
            return Response(status=404)
        png = drawn(width, height, scale)
        return Response(png, mimetype="image/png", headers={"Cache-Control": "max-age=31536000, immutable"})

    place = f"inset: {margin.t}px {margin.r}px {margin.b}px {margin.l}px"
    inside = f'<div class="area" style="{place}">{_axes(figure)}<picture>{"".join(sources)}</picture></div>'
    page = f"""<div id="first-look"><main>
      <header><h1>{escape(title)}</h1><span class="faint">{escape(facts)}</span><div id="split-to-come"></div></header>
      <div class="halves"><section><h2>Map</h2><div class="controls"></div>
        <div class="map-place"><div id="first-map">{inside}{_legend(figure)}</div></div></section></div>
    </main></div>"""
    app.index_string = app.index_string.replace("{%app_entry%}", page + "{%app_entry%}")


def points_picture(figure: go.Figure, width: int, height: int, scale: int = 1) -> bytes:
    """A transparent PNG of a figure's points alone, ``width·scale`` by ``height·scale`` pixels from axis to axis."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    paper = Figure(figsize=(width / DPI, height / DPI), dpi=DPI * scale, frameon=False)
    axes = paper.add_axes((0, 0, 1, 1), frameon=False)
    axes.set(xlim=figure.layout.xaxis.range, ylim=figure.layout.yaxis.range, xticks=[], yticks=[])
    for trace in figure.data:
        marker, look = trace.marker, dict[str, Any]()
        if marker.colorscale is None:
            look["color"] = marker.color
        else:
            look |= {"c": marker.color, "cmap": LinearSegmentedColormap.from_list("", marker.colorscale)}
            look |= {"vmin": marker.cmin, "vmax": marker.cmax}
        area = (marker.size * 72 / DPI) ** 2  # of a square around the point, in square points
        axes.scatter(trace.x, trace.y, s=area, alpha=marker.opacity, linewidths=0, **look)
    png = BytesIO()
    paper.savefig(png, format="png", transparent=True)
    return png.getvalue()


def ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """The places and words that Plotly gives the ticks of a linear axis with ``nticks=most``."""
    rough = (high - low) / most
    power = int(np.floor(np.log10(rough)))
    step = next(factor for factor in (1, 2, 5, 10) if factor * 10.0**power >= rough * (1 - 1e-9)) * 10.0**power
    decimals = max(0, -int(np.floor(np.log10(step) + 1e-9)))
    places = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    return [(float(at), f"{at:.{decimals}f}".replace("-", "−") if at else "0") for at in places]


def _axes(figure: go.Figure) -> str:
    parts = []
    for name, axis, side in (("x", figure.layout.xaxis, "left"), ("y", figure.layout.yaxis, "bottom")):
        low, high = axis.range
        for at, word in ticks(low, high, axis.nticks):
            kind = f"{name} line" if at else f"{name} line zero"
            share = f"{side}: {100 * (at - low) / (high - low):.4f}%"
            parts.append(f'<span class="{kind}" style="{share}"><span>{word}</span></span>')
        parts.append(f'<span class="{name} name"><span>{escape(axis.title.text)}</span></span>')
    return f'<div aria-hidden="true">{"".join(parts)}</div>'


def _legend(figure: go.Figure) -> str:
    named = [trace for trace in figure.data if trace.name]
    if not named or figure.layout.legend.orientation != "h":
        return ""  # one that scrolls comes with the map
    entry = f'<span><i style="background: {{}}; opacity: {named[0].marker.opacity}"></i>{{}}</span>'
    entries = "".join(entry.format(trace.marker.color, escape(trace.name)) for trace in named)
    width = figure.layout.legend.entrywidth
    return f'<div class="legend" style="--entry: {width}px" aria-hidden="true">{entries}</div>'
