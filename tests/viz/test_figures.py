import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from geovq import viz
from geovq.errors import InputError


def rendered(figure):
    """Pixels of the saved figure, (height, width, 3) bytes."""
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def texts(figure):
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def contains(pixels, tile):
    """Whether the bytes of a tile (h, w, 3) occur somewhere in the picture."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels, tile.shape)[:, :, 0]
    corner = (windows[:, :, 0, 0] == tile[0, 0]).all(-1)
    return any((windows[y, x] == tile).all() for y, x in zip(*corner.nonzero(), strict=True))


def tile_of(image, scale):
    """What an image must look like: whole squares of its bytes, nothing in between."""
    rgb = np.round(image.expand(3, -1, -1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return rgb.repeat(scale, 0).repeat(scale, 1)


def byte_images(*shape, seed=0):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed)) / 255


@pytest.mark.parametrize(("shape", "scale"), [((5, 1, 8, 8), 8), ((5, 3, 32, 32), 2), ((5, 1, 28, 28), 2)])
def test_every_image_pixel_becomes_a_square(shape, scale):
    images = byte_images(*shape)
    pixels = rendered(viz.image_grid(images, 2, 3, titles=list("abcde"), row_labels=["one", "two"], caption="text"))
    for image in images:
        assert contains(pixels, tile_of(image, scale))


def test_order_is_row_by_row():
    images = (torch.tensor([20, 60, 100, 140, 180, 220]) / 255).view(6, 1, 1, 1).expand(6, 1, 4, 4)
    pixels = rendered(viz.image_grid(images, 2, 3))[..., 0]
    places = []
    for image in images:
        ys, xs = (pixels == round(float(image[0, 0, 0]) * 255)).nonzero()
        places.append((np.median(ys), np.median(xs)))
    assert places == sorted(places)
    assert len({y for y, _ in places}) == 2
    assert len({x for _, x in places}) == 3


def test_values_outside_the_range_are_cut():
    pixels = rendered(viz.image_grid(torch.tensor([-3.0, 7.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4), 1, 2))
    assert (pixels == 0).any()
    assert (pixels == 255).any()


def test_reconstructions_name_their_psnr():
    original = torch.full((2, 1, 8, 8), 0.5)
    figure = viz.reconstruction_figure(
        {"original": original, "VAE": original + 0.1, "quantized": original + 0.2}, title="Digits"
    )
    shown = texts(figure)
    for text in ("original", "VAE", "quantized", "20.0", "14.0", "Digits", "PSNR"):
        assert text in shown


def test_samples_fill_short_rows_with_white():
    rows = {"T = 0.5": torch.zeros(2, 1, 8, 8), "T = 1.0": torch.zeros(1, 1, 8, 8)}
    figure = viz.samples_figure(rows, title="Samples")
    dark = (rendered(figure)[..., 0] == 0).sum()
    assert dark == pytest.approx(3 * 64 * 64, rel=0.01)
    assert "T = 0.5" in texts(figure)


def test_codebook_puts_the_most_used_first_and_marks_the_unused():
    decoded = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    figure = viz.codebook_figure(decoded, torch.tensor([0, 5, 9]))
    pixels = rendered(figure).astype(int)
    first = [np.median((pixels == round(value * 255)).all(-1).nonzero()[1]) for value in (0.6, 0.4, 0.2)]
    assert first == sorted(first)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 60)
    assert red.any()
    assert "1 unused" in texts(figure)
    everything_used = rendered(viz.codebook_figure(decoded, torch.tensor([1, 5, 9]))).astype(int)
    assert not ((everything_used[..., 0] > 200) & (everything_used[..., 1] < 60)).any()


def test_codebook_keeps_to_its_limit():
    figure = viz.codebook_figure(torch.rand(700, 1, 8, 8), torch.arange(700), limit=100)
    assert "700 codewords" in texts(figure)
    assert "first 100 are shown" in texts(figure)


def test_usage_states_what_it_shows():
    title = viz.usage_figure(torch.tensor([4, 0, 2, 2, 0])).axes[0].get_title(loc="left")
    assert "K = 5, 3 active, perplexity 2.8, 1.50 bits" in title
    rendered(viz.usage_figure(torch.tensor([0, 3, 0])))


def test_spectrum_orders_and_summarises():
    figure = viz.spectrum_figure(torch.tensor([1.0, 4.0, 2.0]))
    [axes] = figure.axes
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), [4, 2, 1])
    assert axes.get_yscale() == "log"
    assert f"effective dimension {49 / 21:.1f} of 3" in axes.get_title(loc="left")
    rendered(figure)


def test_spectrum_draws_what_rounding_put_below_zero():
    figure = viz.spectrum_figure(torch.tensor([1.0, 0.0, -1e-12]), torch.tensor([2.0, 0.0, 0.0]), active_above=0.01)
    for axes in figure.axes:
        assert all((np.asarray(line.get_ydata()) > 0).all() for line in axes.get_lines())
    rendered(figure)


def test_spectrum_tells_active_dimensions_from_dead_ones():
    bits = torch.tensor([0.005, 3.0, 0.01, 1.0])
    _, axes = viz.spectrum_figure(torch.ones(4), bits, active_above=0.01).axes
    active, dead, threshold = axes.get_lines()
    np.testing.assert_allclose(active.get_ydata(), [3, 1])
    np.testing.assert_allclose(dead.get_ydata(), [0.01, 0.005], rtol=1e-6)
    np.testing.assert_allclose(dead.get_xdata(), [3, 4])
    assert threshold.get_ydata()[0] == 0.01
    assert axes.get_title(loc="left") == "KL: 4.01 bits per token, 2 of 4 active"


def test_spectrum_maps_the_grid_row_by_row_with_its_numbers():
    bits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]])
    figure = viz.spectrum_figure(torch.ones(2), torch.ones(2), bits)
    axes = figure.axes[-1]
    [picture] = axes.get_images()
    np.testing.assert_allclose(picture.get_array(), bits)
    assert picture.get_clim() == (0, 6.5)  # from zero: what is even looks even
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places["6.5"] == (2, 1)
    assert axes.get_title(loc="left") == "KL by position: 1.0 to 6.5 bits"
    rendered(figure)


def test_spectrum_has_no_map_of_a_single_token_and_no_numbers_on_a_large_grid():
    assert len(viz.spectrum_figure(torch.ones(2), torch.ones(2), torch.ones(1, 1)).axes) == 2
    large = viz.spectrum_figure(torch.ones(30), torch.ones(30), torch.zeros(9, 9))
    assert not large.axes[2].texts
    assert len(large.axes) == 4  # the fourth is the colour bar
    rendered(large)


def test_pyplot_stays_out():
    code = (
        "import sys, torch; from geovq import viz; assert 'matplotlib' not in sys.modules; "
        "viz.image_grid(torch.rand(1, 1, 8, 8), 1, 1); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda: viz.image_grid(torch.rand(5, 1, 8, 8), 2, 2),
        lambda: viz.image_grid(torch.rand(2, 2, 8, 8), 1, 2),
        lambda: viz.image_grid(torch.rand(2, 1, 8, 8), 1, 2, titles=["one"]),
        lambda: viz.image_grid(torch.rand(2, 1, 8, 8), 1, 2, row_labels=["a", "b"]),
        lambda: viz.samples_figure({}),
        lambda: viz.samples_figure({"a": torch.rand(1, 1, 8, 8), "b": torch.rand(1, 3, 8, 8)}),
        lambda: viz.codebook_figure(torch.rand(3, 1, 8, 8), torch.ones(4)),
        lambda: viz.usage_figure(torch.zeros(4)),
        lambda: viz.spectrum_figure(torch.tensor([torch.nan, 1.0])),
        lambda: viz.spectrum_figure(torch.ones(2, 2)),
        lambda: viz.spectrum_figure(torch.zeros(2)),
        lambda: viz.spectrum_figure(torch.ones(2), torch.ones(0)),
        lambda: viz.spectrum_figure(torch.ones(2), torch.ones(2), torch.ones(2)),
    ],
)
def test_refuses(call):
    with pytest.raises(InputError):
        call()


def test_names_are_never_read_as_formulas() -> None:
    images = torch.zeros(2, 1, 8, 8)
    words = ["Ba$$in", "$\\frac{$ and $x$"]
    figure = viz.samples_figure(dict.fromkeys(words, images), title=words[0])
    rendered(figure)
    assert all(word in texts(figure) for word in words)
    rendered(viz.usage_figure(torch.tensor([1, 2])))
    rendered(viz.spectrum_figure(torch.tensor([1.0, 2.0]), title=words[0]))


def test_a_sheet_of_very_many_classes_shows_some_and_what_they_are_compared_with() -> None:
    rows = {f"class {k}": torch.zeros(2, 1, 8, 8) for k in range(1200)} | {"real images": torch.ones(2, 1, 8, 8)}
    figure = viz.samples_figure(rows)
    assert max(figure.get_size_inches()) * figure.dpi < 2**15
    assert "real images" in texts(figure)
    assert "of 1201 rows" in texts(figure)
