from __future__ import annotations

import re
from io import BytesIO

import numpy as np
import plotly.graph_objects as go
import pytest
from dash import Dash, html
from PIL import Image

from geovq.explorer.app import explorer
from geovq.explorer.explored_run import ExploredRun
from geovq.explorer.first_picture import points_picture, register, ticks
from geovq.explorer.map_panel import first_colouring, map_figure


def figure(**marker: object) -> go.Figure:
    """Three points in axes from 0 to 10 and from 0 to 4."""
    found = go.Figure()
    found.add_scattergl(x=[1, 5, 9], y=[1, 2, 3], mode="markers", marker={"size": 8, "opacity": 1, **marker})
    axes = {"xaxis": {"range": [0, 10], "title": {"text": "<x>"}}, "yaxis": {"range": [0, 4], "title": {"text": "y"}}}
    found.update_layout(**axes, margin={"l": 50, "r": 10, "t": 20, "b": 60})
    return found.update_xaxes(nticks=8).update_yaxes(nticks=8)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)))


@pytest.mark.parametrize("scale", [1, 2])
def test_points_stand_where_the_axes_have_them(scale: int) -> None:
    drawn = pixels(points_picture(figure(color="#0072B2"), 200, 100, scale))
    assert drawn.shape == (100 * scale, 200 * scale, 4)
    for x, y in ((1, 1), (5, 2), (9, 3)):
        column, row = round(x / 10 * 200 * scale), round((1 - y / 4) * 100 * scale)
        assert drawn[row, column].tolist() == [0x00, 0x72, 0xB2, 255]
        covered = drawn[:, max(0, column - 9 * scale) : column + 9 * scale, 3].sum() / 255
        assert covered == pytest.approx(np.pi * (4 * scale) ** 2, rel=0.03)  # a disc of the diameter `size`
    assert drawn[0, 0, 3] == 0


def test_numbers_are_coloured_by_the_scale_of_the_figure() -> None:
    shades = [[0, "#000000"], [1, "#ff0000"]]
    drawn = pixels(points_picture(figure(color=[0, 5, 99], colorscale=shades, cmin=0, cmax=10), 200, 100))
    assert drawn[75, 20].tolist() == [0, 0, 0, 255]
    assert drawn[50, 100, 0] == pytest.approx(128, abs=2)
    assert drawn[25, 180].tolist() == [255, 0, 0, 255]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-3.7, 3.4, "−3 −2 −1 0 1 2 3"),
        (0.0, 1.0, "0 0.2 0.4 0.6 0.8 1.0"),
        (-0.031, 0.012, "−0.03 −0.02 −0.01 0 0.01"),
        (20.0, 420.0, "50 100 150 200 250 300 350 400"),
    ],
)
def test_ticks_are_round(low: float, high: float, words: str) -> None:
    assert [word for _, word in ticks(low, high, 8)] == words.split()


def test_the_page_names_pictures_that_are_there_and_no_others(run: ExploredRun) -> None:
    app = explorer(run, dict, lambda run_id: run)
    client = app.server.test_client()
    page = client.get("/").get_data(as_text=True)
    addresses = re.findall(r"(/first-map/(\d+)-(\d+)-(\d).png\?v=\d+)", page)
    assert len(set(addresses)) == 8
    for address, width, height, scale in addresses:
        answer = client.get(address)
        assert answer.status_code == 200
        assert answer.content_type == "image/png"
        assert pixels(answer.data).shape == (int(height) * int(scale), int(width) * int(scale), 4)
    assert client.get("/first-map/5000-5000-2.png").status_code == 404
    tokens = run.split("test")
    assert f'alt="Map of {len(tokens.shown_tokens):,} tokens by class"' in page
    shown = map_figure(tokens, "pca", first_colouring(run), [])
    for trace in shown.data:
        assert re.search(f"background: {trace.marker.color};[^>]*></i>{trace.name}<", page)


def test_words_of_a_run_are_no_markup() -> None:
    app = Dash("words")
    app.layout = html.Div()
    register(app, figure(color="#0072B2"), "<b>name</b>", "a & b", '"seen"')
    page = app.server.test_client().get("/").get_data(as_text=True)
    assert "&lt;b&gt;name&lt;/b&gt;" in page
    assert "&lt;x&gt;" in page
    assert 'alt="&quot;seen&quot;"' in page
    assert "<b>name" not in page
