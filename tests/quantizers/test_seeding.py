"""Draws of seeds against their definition."""

import numpy as np
import pytest

from geovq.quantizers.seeding import draw_in_proportion, seeding_rounds


def test_draws_follow_their_weights_without_repeating():
    rng = np.random.default_rng(0)
    weights = np.array([0.0, 1.0, 2.0, 5.0])
    draws = np.array([draw_in_proportion(weights, 1, rng)[0] for _ in range(4_000)])
    assert np.bincount(draws, minlength=4) / 4_000 == pytest.approx(weights / 8, abs=0.03)
    for _ in range(20):
        assert sorted(draw_in_proportion(weights, 3, rng)) == [1, 2, 3]


@pytest.mark.parametrize(("n_codes", "n_rounds"), [(1, 10), (2, 10), (512, 10), (512, 600), (7, 3)])
def test_rounds_grow_from_one_to_all(n_codes, n_rounds):
    sizes = seeding_rounds(n_codes, n_rounds)
    assert sizes[0] == 1
    assert sizes[-1] == n_codes
    assert len(sizes) <= n_codes
    assert (np.diff(sizes) > 0).all()
    assert len(sizes) <= max(n_rounds, 2)
