"""Pictures and charts of a page."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from geovq.page.charts import _ticks, bar_chart, line_chart
from geovq.page.pictures import address, fitting, heat, strip


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition("base64,")[2]))))


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_keep_every_byte(channels: int) -> None:
    images = torch.randint(256, (3, channels, 9, 7), dtype=torch.uint8)
    shown = pixels(address(images[0])).reshape(9, 7, channels)
    np.testing.assert_array_equal(shown, images[0].permute(1, 2, 0))
    row = pixels(strip(images)).reshape(9, 3 * 8 - 1, channels)
    for place, image in enumerate(images):
        np.testing.assert_array_equal(row[:, 8 * place : 8 * place + 7], image.permute(1, 2, 0))


def test_large_images_are_shrunk_and_a_page_takes_few_of_them() -> None:
    noise = torch.randint(256, (3, 600, 300), dtype=torch.uint8)
    text = address(noise)
    assert pixels(text).shape == (192, 96, 3)
    assert pixels(strip(noise[None])).shape == (96, 48, 3)
    assert text.startswith("data:image/webp")
    assert len(fitting([(text, text)] * 50, 10 * len(text))) == 5
    assert len(fitting([(text,)], 10)) == 1


def test_errors_become_colours_from_dark_to_light() -> None:
    shown = pixels(heat(torch.linspace(0, 2, 9)[None], 1.0)).astype(int)
    assert shown[0, 0].tolist() == [0, 0, 4]
    assert shown[0, 4:].tolist() == [[252, 255, 164]] * 5
    assert (np.diff(shown[0, :5].sum(1)) > 0).all()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3, 7000), (-2.5, 0.1), (1e-7, 3e-7)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert low - 1e-9 <= min(ticks) < max(ticks) <= high + 1e-9


def test_lines_go_up_where_values_do_and_leave_out_what_is_not_finite() -> None:
    series = {"training": ([1, 2, 3, 4], [1.0, 5.0, float("nan"), 9.0]), "validation": ([4], [2.0])}
    chart = line_chart(series, "x<y", "z")
    ElementTree.fromstring(chart)
    places = np.array([pair.split(",") for pair in re.findall(r'points="(.*?)"', chart)[0].split()], float)
    assert len(places) == 3
    assert (np.diff(places[:, 0]) > 0).all()
    assert (np.diff(places[:, 1]) < 0).all()
    assert "<circle" in chart
    assert "x&lt;y" in chart


def test_bars_have_the_heights_of_their_values() -> None:
    chart = bar_chart([4.0, 2.0, 0.0], "rank", "share")
    ElementTree.fromstring(chart)
    high, low = (float(height) for height in re.findall(r'<rect class="bar".*? height="(.*?)"', chart))
    assert high == pytest.approx(2 * low, abs=0.2)
    assert len(re.findall("<rect", bar_chart([0.5, 0.25, 0.0], "rank", "share", log=True))) == 2


@pytest.mark.parametrize("log", [False, True])
def test_equal_single_and_missing_values_are_drawn(log: bool) -> None:
    for values in ([], [0.0], [1.0], [3.0] * 5, [1e-9, 1e9]):
        ElementTree.fromstring(bar_chart(values, "x", "y", log=log))
        ElementTree.fromstring(line_chart({"a": (range(len(values)), values)}, "x", "y", log=log, even=0.5))
