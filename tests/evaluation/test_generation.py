import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from geovq.errors import InputError
from geovq.evaluation import kernel_distance, neighbourhoods
from geovq.evaluation.copying import share_of_copies, share_seen
from geovq.evaluation.frechet import frechet, frechet_with_error
from geovq.evaluation.image_sets import drawn, groups_of
from geovq.evaluation.inception_score import inception_score
from geovq.evaluation.kernel_distance import KernelDistance
from geovq.evaluation.neighbourhoods import Neighbourhoods, nearest_squared
from geovq.evaluation.statistics import jackknife_standard_error


def precision_recall(real, generated, k=3):
    scores = Neighbourhoods(real, k, k).scores(generated)
    return scores["precision"], scores["recall"]


def sets(n=200, m=150, d=6, shift=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(n, d, generator=generator)
    mix = torch.randn(d, d, generator=generator) / d**0.5
    return real, torch.randn(m, d, generator=generator) @ mix + shift


def test_frechet_by_matrix_square_root():
    real, generated = sets()
    a, b = real.double().numpy(), generated.double().numpy()
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
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


def test_kernel_distance_by_definition(monkeypatch):
    real, generated = sets(30, 25)
    expected = unbiased_mmd(real.double().numpy(), generated.double().numpy())
    assert KernelDistance(real)(generated) == pytest.approx(expected, rel=1e-4)
    assert KernelDistance(real).with_error(generated)[0] == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(kernel_distance, "_CHUNK_NUMBERS", 100)
    assert KernelDistance(real)(generated) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_of_pairs_leaves_the_pairs_out():
    """Gretton et al. 2012, eq. 4: a set made of the other seems too near unless pairs do not count."""
    real = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    everything = torch.arange(40)
    assert KernelDistance(real)(real, everything) == pytest.approx(0, abs=1e-4)
    assert KernelDistance(real)(real) < -0.1
    some, kernel = everything[::3], lambda x, y: (x @ y / 5 + 1) ** 3
    a, b = real.double(), 2 * real[some].double()
    cross = np.mean([kernel(a[i], y) for y, made_of in zip(b, some, strict=True) for i in range(40) if i != made_of])
    within = [np.mean([kernel(x, y) for x in each for y in each if x is not y]) for each in (list(a), list(b))]
    assert KernelDistance(real)(b, some) == pytest.approx(sum(within) - 2 * cross, rel=1e-4)


def test_errors_are_those_of_leaving_groups_out():
    real, generated = sets(100, 47)
    parts = groups_of(generated, 10)
    assert {len(part) for part in parts} == {4, 5}
    left = [torch.cat([*parts[:i], *parts[i + 1 :]]) for i in range(10)]
    for measure, (value, error) in (
        (lambda part: frechet(real, part), frechet_with_error(real, generated)),
        (KernelDistance(real), KernelDistance(real).with_error(generated)),
    ):
        without = torch.tensor([measure(each) for each in left], dtype=torch.float64)
        assert value == pytest.approx(measure(generated), rel=1e-5)
        assert error == pytest.approx(jackknife_standard_error(without), rel=1e-3)
    assert frechet_with_error(real, generated[:3])[1] is None


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    without = torch.stack([torch.cat([x[:i], x[i + 1 :]]).mean() for i in range(12)])
    assert jackknife_standard_error(without) == pytest.approx(float(x.std() / 12**0.5))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(360, 16), (2000, 32), (2000, 128)])
def test_intervals_over_draws_cover(n, d):
    """Value ± t · error covers the mean over draws: 2.262 is the 97.5 % quantile of t with 9 degrees of freedom."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=generator) / d**0.5
    real = torch.randn(n, d, generator=generator) @ mix
    found = {"frechet": [], "kernel": []}
    kernel = KernelDistance(real)
    for _ in range(200):
        samples = torch.randn(n, d, generator=generator) @ mix * 1.1 + 0.1
        found["frechet"].append(frechet_with_error(real, samples))
        if n < 1000:
            found["kernel"].append(kernel.with_error(samples))
    for name, draws in found.items():
        if draws:
            value, error = torch.tensor(draws, dtype=torch.float64).T
            covered = ((value - value.mean()).abs() <= 2.262 * error).double().mean()
            print(f"{name} n={n} d={d}: {covered:.3f}, error {error.mean():.3g}, deviation {value.std():.3g}")
            assert 0.90 <= covered <= 0.99


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
    monkeypatch.setattr(neighbourhoods, "_CHUNK_NUMBERS", 500)
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


def by_balls(real, generated, k):
    """Density and coverage point by point, Naeem et al. 2020, eq. 3 and 4."""
    radii = [sorted(np.linalg.norm(np.delete(real, i, axis=0) - x, axis=1))[k - 1] for i, x in enumerate(real)]
    inside = np.array([[np.linalg.norm(y - x) <= r for x, r in zip(real, radii, strict=True)] for y in generated])
    return inside.sum() / (k * len(generated)), inside.any(0).mean()


@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_by_definition(k, monkeypatch):
    real, generated = sets(60, 50, shift=1.0)
    expected = by_balls(real.numpy(), generated.numpy(), k)
    assert 0 < expected[1] < 1
    for _ in range(2):
        scores = Neighbourhoods(real, 3, k).scores(generated)
        assert (scores["density"], scores["coverage"]) == pytest.approx(expected)
        monkeypatch.setattr(neighbourhoods, "_CHUNK_NUMBERS", 300)


def test_density_and_coverage_of_one_distribution():
    """Naeem et al. 2020, section 4.2: density 1, coverage by their lemma 2; neither depends on the dimension."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(20, 2, 300, 4, generator=generator)
    found = [Neighbourhoods(real).scores(generated) for real, generated in pairs]
    density, coverage = (np.mean([each[name] for each in found]) for name in ("density", "coverage"))
    expected = 1 - np.prod([(300 - i) / (600 - i) for i in range(1, 6)])
    assert density == pytest.approx(1, abs=0.03)
    assert coverage == pytest.approx(expected, abs=0.01)


def test_an_outlier_moves_precision_more_than_density():
    """Naeem et al. 2020, section 3.1: one ball around a far real point takes samples in, at most 1/k of density."""
    generator = torch.Generator().manual_seed(0)
    real, far = torch.randn(200, 4, generator=generator), 3 + torch.randn(200, 4, generator=generator)
    misled = torch.cat([real[:-1], torch.full((1, 4), 5.0)])
    plain, misled = (Neighbourhoods(each, 5, 5).scores(far) for each in (real, misled))
    assert misled["precision"] - plain["precision"] > 0.7
    assert misled["density"] - plain["density"] <= 0.2


def test_the_inception_score_by_definition_and_at_its_ends():
    p = torch.rand(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p /= p.sum(1, keepdim=True)
    marginal = p.mean(0)
    expected = np.exp(np.mean([sum(float(a * (a / b).log()) for a, b in zip(row, marginal, strict=True)) for row in p]))
    value, error = inception_score(p)
    assert value == pytest.approx(expected)
    assert 0 < error < 1
    assert inception_score(torch.eye(4).repeat(10, 1))[0] == pytest.approx(4)  # sure, and all classes alike often
    assert inception_score(torch.full((40, 4), 0.25))[0] == pytest.approx(1)
    assert inception_score(torch.eye(4)[:1].expand(40, 4))[0] == pytest.approx(1)  # sure, of one class
    assert inception_score(p[:3])[1] is None


def test_copies_are_found_and_samples_of_the_distribution_are_none():
    generator = torch.Generator().manual_seed(0)
    train, test, samples = (torch.randn(n, 6, generator=generator) for n in (500, 1000, 1000))
    assert share_of_copies(train, nearest_squared(test, train), samples) == pytest.approx(0.01, abs=0.01)
    copies = torch.cat([samples[:700], train[:300] + 1e-3])
    assert share_of_copies(train, nearest_squared(test, train), copies) == pytest.approx(0.3, abs=0.02)
    nearest = nearest_squared(test[:20], train)
    assert torch.allclose(nearest, torch.cdist(test[:20], train).square().amin(1), rtol=1e-3)


def test_seen_codes_are_whole_rows_whatever_the_type():
    train = torch.tensor([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], dtype=torch.int16)
    codes = torch.tensor([[[1, 2], [3, 4]], [[1, 2], [7, 8]], [[5, 6], [7, 8]], [[9, 9], [9, 9]]])
    assert share_seen(train, codes) == 0.5


def test_sets_are_cut_the_same_way_and_whole_ones_are_whole():
    assert torch.equal(drawn(20, 50), drawn(20, 50))
    assert torch.equal(drawn(50, 50), torch.arange(50))
    assert len(drawn(20, 50).unique()) == 20
    classes = torch.arange(200) % 10
    assert all(len(group.unique()) == 10 for group in groups_of(classes))


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
        lambda: KernelDistance(torch.rand(0, 3)),
        lambda: KernelDistance(torch.rand(4, 3))(torch.rand(1, 3)),
        lambda: inception_score(torch.rand(5)),
        lambda: nearest_squared(torch.rand(4, 3), torch.rand(4, 2)),
        lambda: precision_recall(torch.rand(3, 3), torch.rand(9, 3), k=3),
        lambda: precision_recall(torch.rand(9, 3), torch.rand(9, 3), k=0),
    ],
)
def test_refuses(call):
    with pytest.raises(InputError):
        call()
