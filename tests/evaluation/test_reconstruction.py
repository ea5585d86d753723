import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq.errors import InputError
from geovq.evaluation import reconstruction
from geovq.evaluation.reconstruction import (
    GREATEST_PSNR_DB,
    image_errors,
    reconstruction_metrics,
    ssim_kernel_size,
)

SHAPES = [(5, 1, 8, 8), (4, 1, 28, 28), (3, 3, 32, 32), (3, 3, 16, 9)]


def pair(shape, noise=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    reference = torch.rand(shape, generator=generator)
    return reference, (reference + noise * torch.randn(shape, generator=generator)).clamp(0, 1)


def ssim_by_definition(x, y, side):
    """Wang et al. 2004, eq. 13, window by window, reflected borders, in float64."""
    half = side // 2
    offsets = np.arange(side) - half
    window = np.exp(-(offsets**2) / (2 * (1.5 * side / 11) ** 2))
    window = np.outer(window, window)
    window /= window.sum()
    values = []
    for a, b in zip(x, y, strict=True):  # channels
        a, b = (np.pad(image.astype(np.float64), half, mode="reflect") for image in (a, b))
        for row in range(x.shape[1]):
            for col in range(x.shape[2]):
                p, q = a[row : row + side, col : col + side], b[row : row + side, col : col + side]
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                var_p = (window * (p - mean_p) ** 2).sum()
                var_q = (window * (q - mean_q) ** 2).sum()
                cov = (window * (p - mean_p) * (q - mean_q)).sum()
                values.append(
                    (2 * mean_p * mean_q + 0.01**2)
                    * (2 * cov + 0.03**2)
                    / ((mean_p**2 + mean_q**2 + 0.01**2) * (var_p + var_q + 0.03**2))
                )
    return np.mean(values)


@pytest.mark.parametrize("shape", SHAPES)
def test_image_errors_match_their_formulas(shape):
    reference, output = pair(shape)
    errors = image_errors(reference, output)
    mse = ((reference - output).double() ** 2).flatten(1).mean(1).numpy()
    np.testing.assert_allclose(errors["mse"], mse, rtol=1e-5)
    np.testing.assert_allclose(errors["psnr"], 10 * np.log10(1 / mse), rtol=1e-5)
    side = ssim_kernel_size(*shape[2:])
    ssim = [ssim_by_definition(a, b, side) for a, b in zip(reference.numpy(), output.numpy(), strict=True)]
    np.testing.assert_allclose(errors["ssim"], ssim, atol=2e-5)


def test_ssim_equals_torchmetrics_at_its_defaults():
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

    reference, output = pair((6, 3, 32, 32))
    metrics, _ = reconstruction_metrics(reference, output)
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0)
    assert metrics["ssim"] == pytest.approx(float(ssim(output, reference)), abs=1e-5)
    pooled = PeakSignalNoiseRatio(data_range=1.0)
    assert metrics["psnr_pooled"] == pytest.approx(float(pooled(output, reference)), abs=1e-4)
    mean = PeakSignalNoiseRatio(data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
    assert metrics["psnr"] == pytest.approx(float(mean(output, reference)), abs=1e-4)


@pytest.mark.parametrize(("size", "side"), [((8, 8), 7), ((28, 28), 11), ((11, 30), 11), ((10, 30), 9), ((4, 5), 3)])
def test_kernel_is_odd_and_fits(size, side):
    assert ssim_kernel_size(*size) == side


def test_identical_images_count_as_the_greatest_psnr():
    reference, output = pair((4, 1, 8, 8))
    output[1] = reference[1]
    metrics, per_image = reconstruction_metrics(reference, output, suffix="_continuous")
    assert per_image["psnr_continuous"][1] == GREATEST_PSNR_DB
    assert per_image["ssim_continuous"][1] == pytest.approx(1)
    assert metrics["psnr_continuous"] == pytest.approx(float(per_image["psnr_continuous"].mean()), rel=1e-6)
    same, _ = reconstruction_metrics(reference, reference)
    assert (same["psnr"], same["psnr_pooled"], same["mse"]) == (GREATEST_PSNR_DB, GREATEST_PSNR_DB, 0)


def test_pooled_and_mean_psnr_differ_as_they_must():
    reference = torch.full((2, 1, 8, 8), 0.5)
    output = reference + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)  # 20 dB and 40 dB
    metrics, _ = reconstruction_metrics(reference, output)
    assert metrics["psnr"] == pytest.approx(30, abs=1e-3)
    assert metrics["psnr_pooled"] == pytest.approx(-10 * np.log10((0.01 + 0.0001) / 2), abs=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_of_many_images_is_that_of_each_alone(channels):
    from torchmetrics.functional.image import structural_similarity_index_measure

    reference, output = pair((7, channels, 28, 28), noise=0.2)
    alone = [
        structural_similarity_index_measure(output[i : i + 1], reference[i : i + 1], data_range=1.0) for i in range(7)
    ]
    torch.testing.assert_close(image_errors(reference, output)["ssim"], torch.stack(alone), rtol=0, atol=1e-6)


def test_chunks_change_nothing(monkeypatch):
    reference, output = pair((9, 3, 32, 32))
    whole = image_errors(reference, output)
    monkeypatch.setattr(reconstruction, "_CHUNK_BYTES", 1)
    for name, values in image_errors(reference, output).items():
        torch.testing.assert_close(values, whole[name])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 6), channels=st.sampled_from([1, 3]), noise=st.floats(0, 1))
def test_ranges_symmetry_and_order(seed, n, channels, noise):
    reference, output = pair((n, channels, 8, 8), noise, seed)
    errors = image_errors(reference, output)
    assert (errors["mse"] >= 0).all()
    assert (errors["psnr"] >= 0).all()
    assert (errors["psnr"] <= GREATEST_PSNR_DB).all()
    assert (errors["ssim"].abs() <= 1 + 1e-5).all()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    shuffled, swapped = image_errors(reference[order], output[order]), image_errors(output, reference)
    for name, values in errors.items():
        torch.testing.assert_close(shuffled[name], values[order])
        torch.testing.assert_close(swapped[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(2, 1, 8, 7), "shape"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "255"),
        (torch.full((2, 1, 8, 8), torch.nan), "nan"),
        (torch.full((2, 1, 8, 8), 2.0), "clamp"),
    ],
)
def test_refuses(output, message):
    with pytest.raises(InputError, match=message):
        image_errors(torch.zeros(2, 1, 8, 8), output)


def test_refuses_nothing_at_all():
    with pytest.raises(InputError):
        image_errors(torch.zeros(0, 1, 8, 8), torch.zeros(0, 1, 8, 8))
