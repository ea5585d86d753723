from __future__ import annotations

import pytest

from geovq.errors import InputError
from geovq.viz.rate_distortion import RatePanel, RatePoint, rate_distortion_figure


def panel(**series):
    return RatePanel("PSNR (dB)", series, {"ceiling": 25.0}, {"reference": ([90.0, 150.0], [17.0, 19.0])})


def test_points_of_a_method_are_joined_in_the_order_of_their_bits():
    figure = rate_distortion_figure([panel(random=[RatePoint(144, 20.0), RatePoint(96, 18.0)])], "bits")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    [container] = figure.axes[0].containers
    assert list(container.lines[0].get_xdata()) == [96, 144]
    assert list(container.lines[0].get_ydata()) == [18.0, 20.0]
    assert list(lines["ceiling"].get_ydata()) == [25.0, 25.0]
    assert list(lines["reference"].get_xdata()) == [90.0, 150.0]


def test_error_bars_are_drawn_where_there_are_several_seeds():
    figure = rate_distortion_figure(
        [panel(one=[RatePoint(96, 18.0)], several=[RatePoint(96, 19.0, 0.5, 0.0), RatePoint(144, 20.0)])], "bits"
    )
    one, several = figure.axes[0].containers
    assert not one.has_yerr
    assert several.has_yerr
    lengths = [segment[1][1] - segment[0][1] for segment in several.lines[2][0].get_segments() if len(segment)]
    assert lengths[0] == pytest.approx(1.0)


@pytest.mark.parametrize(("high", "scale"), [(144, "linear"), (4000, "log")])
def test_wide_ranges_of_rates_stand_on_a_logarithmic_axis(high, scale):
    figure = rate_distortion_figure([panel(random=[RatePoint(96, 18.0), RatePoint(high, 20.0)])], "bits")
    assert figure.axes[0].get_xscale() == scale


def test_each_panel_has_its_label_and_the_legend_names_everything_once():
    panels = [panel(random=[RatePoint(96, 18.0)]), panel(random=[RatePoint(96, 17.0)])]
    figure = rate_distortion_figure(panels, "bits per image", "Digits")
    assert [axes.get_ylabel() for axes in figure.axes] == ["PSNR (dB)"] * 2
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["ceiling", "random", "reference"]


@pytest.mark.parametrize("panels", [[], [panel()], [panel(random=[])]])
def test_no_point_is_an_error(panels):
    with pytest.raises(InputError, match="no points"):
        rate_distortion_figure(panels, "bits")
