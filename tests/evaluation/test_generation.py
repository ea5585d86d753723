import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from geovq.errors import InputError
from geovq.evaluation import generation
from geovq.evaluation.generation import class_accuracy, frechet, kernel_distance, precision_recall


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
    assert frechet(real, generated, "digits_cnn") == {"fid_digits_cnn": pytest.approx(expected, rel=1e-6)}
    monkeypatch.setattr(generation, "_CHUNK_BYTES", 1000)
    assert frechet(real, generated, "digits_cnn") == {"fid_digits_cnn": pytest.approx(expected, rel=1e-6)}


def test_frechet_of_equal_sets_is_zero_even_with_dead_features():
    real, _ = sets()
    real[:, 2] = 0
    assert frechet(real, real.flip(0), "n")["fid_n"] == pytest.approx(0, abs=1e-5)


def unbiased_mmd(a, b):
    """Bińkowski et al. 2018, eq. 4 with the kernel (xᵀy/d + 1)³, pair by pair."""
    kernel = lambda x, y: (x @ y / len(x) + 1) ** 3  # noqa: E731
    same_a = np.mean([kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j])
    same_b = np.mean([kernel(b[i], b[j]) for i in range(len(b)) for j in range(len(b)) if i != j])
    return same_a + same_b - 2 * np.mean([kernel(x, y) for x in a for y in b])


def test_kernel_distance_on_whole_sets():
    real, generated = sets(30, 30)
    expected = unbiased_mmd(real.double().numpy(), generated.double().numpy())
    metrics = kernel_distance(real, generated, "n", subsets=2)
    assert metrics["kid_n"] == pytest.approx(expected, rel=1e-6)
    assert metrics["kid_n_standard_deviation"] == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_seeded_and_leaves_the_global_generator():
    real, generated = sets()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = kernel_distance(real, generated, "n", subsets=5, subset_size=50, seed=1)
    torch.testing.assert_close(torch.rand(3), expected)
    assert first == kernel_distance(real, generated, "n", subsets=5, subset_size=50, seed=1)
    assert first != kernel_distance(real, generated, "n", subsets=5, subset_size=50, seed=2)


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
    expected = {
        "precision_n": precision_by_definition(real.numpy(), generated.numpy(), k),
        "recall_n": precision_by_definition(generated.numpy(), real.numpy(), k),
    }
    assert 0 < expected["precision_n"] < 1
    assert precision_recall(real, generated, k, "n") == pytest.approx(expected)
    monkeypatch.setattr(generation, "_CHUNK_BYTES", 1000)
    assert precision_recall(real, generated, k, "n") == pytest.approx(expected)


def test_one_mode_is_precise_but_recalls_little():
    real = torch.cat([torch.randn(100, 4), torch.randn(100, 4) + 50])
    metrics = precision_recall(real, real[:100] + 0.01 * torch.randn(100, 4), network_name="n")
    assert metrics["precision_n"] > 0.95
    assert metrics["recall_n"] == pytest.approx(0.5, abs=0.03)


def test_equal_sets_and_copies_of_one_image():
    real = torch.rand(50, 8)
    assert precision_recall(real, real) == {"precision": 1, "recall": 1}
    copies = real[:1].expand(50, 8)
    metrics = precision_recall(real, copies)
    assert metrics == {"precision": 1, "recall": pytest.approx(1 / 50)}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.floats(0, 3))
def test_order_does_not_matter_and_ranges_hold(seed, shift):
    real, generated = sets(40, 30, 3, shift, seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    metrics = precision_recall(real, generated, network_name="n") | frechet(real, generated, "n")
    again = precision_recall(real, generated[order], network_name="n") | frechet(real, generated[order], "n")
    assert again == pytest.approx(metrics, rel=1e-6, abs=1e-9)
    assert 0 <= metrics["precision_n"] <= 1
    assert metrics["fid_n"] >= 0
    assert frechet(generated, real, "n")["fid_n"] == pytest.approx(metrics["fid_n"], rel=1e-6)


def test_class_accuracy_is_sklearns():
    from sklearn.metrics import accuracy_score

    logits, labels = torch.randn(200, 10), torch.randint(10, (200,))
    metrics, agrees = class_accuracy(logits, labels, "label_agreement")
    assert metrics == {"label_agreement": pytest.approx(accuracy_score(labels, logits.argmax(1)))}
    assert agrees.sum() == (logits.argmax(1) == labels).sum()


@pytest.mark.parametrize(
    "call",
    [
        lambda: frechet(torch.rand(5, 3), torch.rand(5, 4), "n"),
        lambda: frechet(torch.rand(5, 3), torch.rand(1, 3), "n"),
        lambda: frechet(torch.rand(5, 3), torch.full((5, 3), torch.nan), "n"),
        lambda: kernel_distance(torch.rand(0, 3), torch.rand(4, 3), "n"),
        lambda: precision_recall(torch.rand(3, 3), torch.rand(9, 3), k=3),
        lambda: precision_recall(torch.rand(9, 3), torch.rand(9, 3), k=0),
        lambda: class_accuracy(torch.rand(3, 2), torch.zeros(4, dtype=torch.long)),
    ],
)
def test_refuses(call):
    with pytest.raises(InputError):
        call()
