import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from geovq.errors import InputError
from geovq.evaluation import generation
from geovq.evaluation.generation import frechet, kernel_distance, precision_recall


def sets(n=200, m=150, d=6, shift=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(n, d, generator=generator)
    mix = torch.randn(d, d, generator=generator) / d**0.5
    return real, torch.randn(m, d, generator=generator) @ mix + shift


def test_frechet_by_matrix_square_root(monkeypatch):
    real, generated = sets()
    a, b = real.double().numpy(), generated.double().numpy()
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet(real, generated) == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(generation, "_CHUNK_BYTES", 1000)
    assert frechet(real, generated) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_equal_sets_is_zero_even_with_dead_features():
    real, _ = sets()
    real[:, 2] = 0
    assert frechet(real, real.flip(0)) == pytest.approx(0, abs=1e-5)


def unbiased_mmd(a, b):
    """Bińkowski et al. 2018, eq. 4 with the kernel (xᵀy/d + 1)³, pair by pair."""
    kernel = lambda x, y: (x @ y / len(x) + 1) ** 3  # noqa: E731
    same_a = np.mean([kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j])
    same_b = np.mean([kernel(b[i], b[j]) for i in range(len(b)) for j in range(len(b)) if i != j])
    return same_a + same_b - 2 * np.mean([kernel(x, y) for x in a for y in b])


def test_kernel_distance_on_whole_sets():
    real, generated = sets(30, 30)
    expected = unbiased_mmd(real.double().numpy(), generated.double().numpy())
    mean, deviation = kernel_distance(real, generated, subsets=2)
    assert mean == pytest.approx(expected, rel=1e-6)
    assert deviation == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_seeded_and_leaves_the_global_generator():
    real, generated = sets()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = kernel_distance(real, generated, subsets=5, subset_size=50, seed=1)
    torch.testing.assert_close(torch.rand(3), expected)
    assert first == kernel_distance(real, generated, subsets=5, subset_size=50, seed=1)
    assert first != kernel_distance(real, generated, subsets=5, subset_size=50, seed=2)


def precision_by_definition(real, generated, k):
    """Share of generated points in the real manifold, Kynkäänniemi et al. 2019, eq. 1."""
    inside = 0
    for point in generated:
        for i, centre in enumerate(real):
            others = sorted(np.linalg.norm(np.delete(real, i, axis=0) - centre, axis=1))
            if np.linalg.norm(point - centre) <= others[k - 1]:
                inside += 1
                break
    return inside / len(generated)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_recall_by_definition(k, monkeypatch):
    real, generated = sets(60, 50, shift=1.0)
    expected = (
        precision_by_definition(real.numpy(), generated.numpy(), k),
        precision_by_definition(generated.numpy(), real.numpy(), k),
    )
    assert 0 < expected[0] < 1
    assert precision_recall(real, generated, k) == pytest.approx(expected)
    monkeypatch.setattr(generation, "_CHUNK_BYTES", 1000)
    assert precision_recall(real, generated, k) == pytest.approx(expected)


def test_one_mode_is_precise_but_recalls_little():
    real = torch.cat([torch.randn(100, 4), torch.randn(100, 4) + 50])
    precision, recall = precision_recall(real, real[:100] + 0.01 * torch.randn(100, 4))
    assert precision > 0.95
    assert recall == pytest.approx(0.5, abs=0.03)


def test_equal_sets_and_copies_of_one_image():
    real = torch.rand(50, 8)
    assert precision_recall(real, real) == (1, 1)
    copies = real[:1].expand(50, 8)
    assert precision_recall(real, copies) == (1, pytest.approx(1 / 50))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.floats(0, 3))
def test_order_does_not_matter_and_ranges_hold(seed, shift):
    real, generated = sets(40, 30, 3, shift, seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    precision, recall, distance = *precision_recall(real, generated), frechet(real, generated)
    again = (*precision_recall(real, generated[order]), frechet(real, generated[order]))
    assert again == pytest.approx((precision, recall, distance), rel=1e-6, abs=1e-9)
    assert 0 <= precision <= 1
    assert distance >= 0
    assert frechet(generated, real) == pytest.approx(distance, rel=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: frechet(torch.rand(5, 3), torch.rand(5, 4)),
        lambda: frechet(torch.rand(5, 3), torch.rand(1, 3)),
        lambda: frechet(torch.rand(5, 3), torch.full((5, 3), torch.nan)),
        lambda: kernel_distance(torch.rand(0, 3), torch.rand(4, 3)),
        lambda: precision_recall(torch.rand(3, 3), torch.rand(9, 3), k=3),
        lambda: precision_recall(torch.rand(9, 3), torch.rand(9, 3), k=0),
    ],
)
def test_refuses(call):
    with pytest.raises(InputError):
        call()
