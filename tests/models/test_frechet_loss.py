from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geovq.evaluation.frechet import frechet
from geovq.models import frechet_loss
from geovq.models.frechet_loss import FrechetTerm


def two_sets(n: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(n, size, generator=generator).double()
    mixing = torch.randn(size, size, generator=generator).double()
    return real, 0.7 * real @ mixing + 0.3 + torch.randn(n, size, generator=generator).double()


def by_definition(real: Tensor, drawn: Tensor) -> Tensor:
    """The distance of two sets, differentiable: the root of C C' by a general eigendecomposition."""
    means = real.mean(0), drawn.mean(0)
    first, second = (torch.cov(each.T, correction=0) for each in (real, drawn))
    shared = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    return (means[0] - means[1]).square().sum() + first.trace() + second.trace() - 2 * shared


def test_of_one_batch_it_is_the_distance_and_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet_loss, "MEMORY", 400)
    monkeypatch.setattr(frechet_loss, "_RIDGE", 0.0)
    real, drawn = two_sets(400, 6)
    first, second = (drawn.clone().requires_grad_() for _ in range(2))
    found, expected = FrechetTerm(6)(real, first), by_definition(real, second)
    found.backward()
    expected.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-6, atol=1e-9)
    assert found.item() == pytest.approx(frechet(real, drawn), rel=0.02)  # which divides by N - 1


def test_moments_run_over_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet_loss, "MEMORY", 2000)
    real, drawn = two_sets(20_000, 4)
    term = FrechetTerm(4)
    found = [float(term(a, b)) for a, b in zip(real.split(50), drawn.split(50), strict=True)]
    before = next(step for step, value in enumerate(found) if value != 0.0)
    assert 35 <= before + 1 <= 41  # as many images as it remembers
    assert found[-1] == pytest.approx(float(by_definition(real, drawn)), rel=0.1)


def test_descending_it_brings_a_set_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet_loss, "MEMORY", 500)
    real, drawn = two_sets(500, 5)
    apart, term = float(by_definition(real, drawn)), FrechetTerm(5)
    points = drawn.clone().requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        (100 * term(real, points)).backward()
        optimizer.step()
    assert float(by_definition(real, points.detach())) < 0.05 * apart


def test_directions_without_variance_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet_loss, "MEMORY", 64)
    real, drawn = two_sets(64, 8)
    real[:, 5:], drawn[:, 6:] = 1.0, 0.0
    points = drawn.float().requires_grad_()
    value = FrechetTerm(8)(real.float(), points)
    value.backward()
    assert value.isfinite()
    assert points.grad.isfinite().all()
    assert FrechetTerm(8)(real, real).item() == pytest.approx(0.0, abs=1e-9)


def test_its_state_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet_loss, "MEMORY", 100)
    real, drawn = two_sets(600, 3)
    batches = list(zip(real.split(20), drawn.split(20), strict=True))
    whole, first, second = FrechetTerm(3), FrechetTerm(3), FrechetTerm(3)
    values = [float(whole(*batch)) for batch in batches]
    for batch in batches[:17]:
        first(*batch)
    second.load_state_dict(first.state_dict())
    assert [float(second(*batch)) for batch in batches[17:]] == values[17:]
