from __future__ import annotations

import io

import pytest

from geovq.errors import InputError
from geovq.viz.rate_distortion import RatePanel, RatePoint, rate_distortion_figure


def panel(**series):
    return RatePanel(
        "PSNR (dB)", series, {"unquantized": [RatePoint(144, 25.0)]}, {"reference": ([90.0, 150.0], [17.0, 19.0])}
    )


def test_points_of_a_method_are_joined_in_the_order_of_their_bits():
    figure = rate_distortion_figure([panel(random=[RatePoint(144, 20.0), RatePoint(96, 18.0)])], "bits")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    [container] = figure.axes[0].containers
    assert list(container.lines[0].get_xdata()) == [96, 144]
    assert list(container.lines[0].get_ydata()) == [18.0, 20.0]
    assert list(lines["unquantized"].get_ydata()) == [25.0, 25.0]
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
    assert sorted(labels) == ["random", "reference", "unquantized"]


def test_autoencoders_of_several_rates_are_a_curve_and_one_alone_a_line():
    points = [RatePoint(144, 24.0), RatePoint(96, 23.0), RatePoint(128, 23.5)]
    unquantized = {"of each rate": points, "of any rate": [RatePoint(144, 25.0)]}
    figure = rate_distortion_figure([RatePanel("PSNR (dB)", {"random": points}, unquantized, {})], "bits")
    [container] = [each for each in figure.axes[0].containers if each.get_label() == "of each rate"]
    assert list(container.lines[0].get_xdata()) == [96, 128, 144]
    assert list(container.lines[0].get_ydata()) == [23.0, 23.5, 24.0]
    [line] = [line for line in figure.axes[0].lines if line.get_label() == "of any rate"]
    assert list(line.get_ydata()) == [25.0, 25.0]


@pytest.mark.parametrize("n_panels", [1, 2])
@pytest.mark.parametrize(
    "label",
    [
        "r{}",
        "random {}",
        "WWW{}, " * 25,
        pytest.param("W{}" * 80, marks=pytest.mark.slow),
        "euclidean, vae.free_bits=0.0, {}",
    ],
)
def test_nothing_of_the_legend_is_cut_off(n_panels, label):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    series = {label.replace("{}", str(n)): [RatePoint(144, 20.0 + n)] for n in range(14)}
    figure = rate_distortion_figure([panel(**series) for _ in range(n_panels)], "bits")
    FigureCanvasAgg(figure).draw()
    box, size = figure.legends[0].get_window_extent(), figure.bbox
    assert size.x0 <= box.x0 < box.x1 <= size.x1
    assert size.y0 <= box.y0 < box.y1 <= size.y1
    for axes in figure.axes:
        assert axes.get_position().height * figure.get_figheight() > 2.5  # inches
    texts = ["".join(text.get_text().split()) for text in figure.legends[0].get_texts()]
    assert set(texts) >= {"".join(name.split()) for name in series}


@pytest.mark.parametrize("panels", [[], [panel()], [panel(random=[])]])
def test_no_point_is_an_error(panels):
    with pytest.raises(InputError, match="no points"):
        rate_distortion_figure(panels, "bits")


def test_names_of_methods_are_never_read_as_formulas():
    figure = rate_distortion_figure([panel(**{"Ba$$in $\\frac{$": [RatePoint(96, 18.0)]})], "bits", title="a $\\frac{$")
    figure.savefig(io.BytesIO())
