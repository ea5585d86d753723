from typing import Any

import numpy as np
import pytest
import torch

from geovq.coding.fixed_point import TOTAL
from geovq.coding.integer_prior import IntegerPrior
from geovq.coding.priors import bits_of, scored, starts_of
from untrained_priors import codes_of, made

CASES = [
    {},
    {"positions": "grid"},
    {"embedding": "codewords"},
    {"sizes": (5, 3, 7)},
    {"sizes": (4, 9), "embedding": "codewords", "positions": "grid", "classes": 0},
]


def frequencies(prior: IntegerPrior, starts: np.ndarray, codes: np.ndarray, **how: Any) -> list[np.ndarray]:
    reading, found = prior.begin(starts, **how), []
    for place in range(codes.shape[1]):
        found.append(reading.frequencies())
        reading.append(codes[:, place])
    return found


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_probabilities_are_those_of_the_network(settings: dict[str, Any]) -> None:
    prior = made(**settings)
    codes, labels = codes_of(prior, 24), torch.arange(24) % (prior.layout.n_classes + 1) - 1
    with torch.no_grad():
        ids = torch.cat([prior.layout.start_ids(labels, 24)[:, None], codes], dim=1)
        exact = prior.logits(ids).softmax(-1).numpy()
    integer = IntegerPrior(prior)
    starts = starts_of(integer, labels.numpy() if prior.layout.n_classes else np.full(24, -1))
    assert (starts == ids[:, 0].numpy()).all()
    for place, table in enumerate(frequencies(integer, starts, codes.numpy())):
        size = integer.sizes[place]
        assert (table.sum(1) + size == TOTAL).all()
        assert np.abs((table + 1) / TOTAL - exact[:, place, :size]).max() < 2e-3
        assert exact[:, place].max() > 0.3  # far from uniform


@pytest.mark.parametrize("how", [{"batch_size": 1}, {"batch_size": 7, "threads": 2}, {"batch_size": 500}], ids=str)
def test_no_bit_depends_on_how_it_is_computed(how: dict[str, Any]) -> None:
    prior = made(sizes=(5, 3, 7))
    codes, starts = codes_of(prior, 40).numpy(), np.full(40, prior.layout.bos)
    usual = frequencies(IntegerPrior(prior), starts, codes)

    def through_torch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16):
            return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()

    def backwards(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a[:, ::-1]) @ np.ascontiguousarray(b[::-1])

    for multiply in (np.matmul, through_torch, backwards):
        found = frequencies(IntegerPrior(prior, multiply), starts, codes, **how)
        assert all((a == b).all() for a, b in zip(usual, found, strict=True))


def test_every_partial_sum_is_exact() -> None:
    prior = made()
    with torch.no_grad():
        prior.transformer.transformer.h[0].mlp.c_fc.weight.mul_(1000)
    block = IntegerPrior(prior).blocks[0]
    assert block.hidden.shift < block.output.shift
    for linear in (block.attention, block.projection, block.hidden, block.output):
        assert np.abs(linear.weight).sum(0).max() * 2**23 < 2**53
        assert (linear.weight == np.rint(linear.weight)).all()


def test_the_digest_tells_priors_apart() -> None:
    prior = made()
    before = IntegerPrior(prior).digest
    assert before == IntegerPrior(made()).digest
    with torch.no_grad():
        prior.transformer.transformer.ln_f.bias[0] += 2.0**-15
    assert IntegerPrior(prior).digest != before


def test_the_class_found_on_the_way_is_about_the_cheapest() -> None:
    prior = made()
    codes, integer = codes_of(prior, 60).numpy(), IntegerPrior(prior)
    by_class = []
    for label in range(3):
        tables = frequencies(integer, starts_of(integer, np.full(60, label)), codes)
        by_class.append(sum(bits_of(table, codes[:, place]) for place, table in enumerate(tables)))
    found = scored(integer, codes, True, 16, 2, lambda n: None)
    bits = sum(bits_of(table, codes[:, place]) for place, table in enumerate(found.frequencies))
    assert np.allclose(bits, np.array(by_class)[found.labels, np.arange(60)])  # the tables are those of its class
    assert bits.mean() < np.min(by_class, axis=0).mean() + 0.3
    assert len(set(found.labels)) == 3
