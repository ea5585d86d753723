from __future__ import annotations

from itertools import combinations_with_replacement
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq.errors import InputError
from geovq.models.sizes import split_sizes


@pytest.mark.parametrize(
    ("K", "parts", "expected"),
    [
        (512, 1, (512,)),
        (512, 2, (32, 16)),
        (512, 3, (8, 8, 8)),
        (256, 2, (16, 16)),
        (1024, 3, (16, 8, 8)),
        (1000, 3, (10, 10, 10)),
        (509, 2, (23, 22)),
        (7, 2, (3, 2)),
        (4, 2, (2, 2)),
    ],
)
def test_known_splits(K: int, parts: int, expected: tuple[int, ...]) -> None:
    assert split_sizes(K, parts) == expected


@given(st.integers(1, 4), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_no_split_with_sizes_within_a_factor_of_two_is_larger_or_as_large_and_more_even(parts: int, more: int) -> None:
    K = 2**parts + more
    found = split_sizes(K, parts)
    every = (
        [
            sizes
            for sizes in combinations_with_replacement(
                range(2, (K if parts == 1 else int((2 * K) ** 0.5) + 1) + 1), parts
            )
            if sizes[-1] <= 2 * sizes[0] and prod(sizes) <= K
        ]
        if parts < 4
        else [
            sizes
            for sizes in combinations_with_replacement(range(2, 10), parts)
            if sizes[-1] <= 2 * sizes[0] and prod(sizes) <= K
        ]
    )
    assert list(found) == sorted(found, reverse=True)
    assert tuple(reversed(found)) in every
    assert (prod(found), -sum(found)) == max((prod(sizes), -sum(sizes)) for sizes in every)


@given(st.integers(1, 20), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_powers_of_two_are_met_exactly(bits: int, parts: int) -> None:
    if bits >= parts:
        assert prod(split_sizes(2**bits, parts)) == 2**bits


@given(st.integers(2**16 + 1, 2**62), st.integers(1, 16))
@settings(max_examples=200, deadline=None)
def test_large_splits_come_at_once_are_even_and_leave_less_than_one_more_of_the_smallest(K: int, parts: int) -> None:
    sizes = split_sizes(K, parts)
    assert len(sizes) == parts
    assert list(sizes) == sorted(sizes, reverse=True)
    assert sizes[-1] >= 2
    assert sizes[0] <= 2 * sizes[-1]
    assert prod(sizes) <= K < prod(sizes) // sizes[-1] * (sizes[-1] + 1)


@pytest.mark.parametrize(("K", "parts"), [(1, 1), (3, 2), (7, 3), (512, 10), (512, 0)])
def test_sizes_of_one_are_refused(K: int, parts: int) -> None:
    with pytest.raises(InputError, match=r"take K >=|at least 1 slot"):
        split_sizes(K, parts)
