from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq.errors import InputError
from geovq.models.autoregressive_prior import AutoregressivePrior
from geovq.models.code_layout import CodeLayout


def make(layout: CodeLayout) -> AutoregressivePrior:
    torch.manual_seed(0)
    prior = AutoregressivePrior(layout, layers=1, width=16, heads=2, dropout=0.0).eval()
    with torch.no_grad():  # an untrained GPT-2 is nearly uniform: give it opinions
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


@given(st.integers(2, 9), st.sampled_from([(1,), (5,), (2, 3)]), st.integers(0, 4), st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_fixed_length_round_trip(n_codes: int, shape: tuple[int, ...], n_classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(n_codes, (4, *shape), generator=generator)
    layout = CodeLayout(n_codes, shape, n_classes)
    labels = torch.randint(-1, n_classes, (4,), generator=generator) if n_classes else None
    ids = layout.encode(codes, labels)
    assert ids.shape == (4, layout.sequence_length)
    assert ids.max() < layout.vocabulary
    assert torch.equal(layout.decode(ids), codes)
    starts = [
        layout.bos if labels is None or label < 0 else n_codes + 3 + label
        for label in (labels if labels is not None else range(4))
    ]
    assert ids[:, 0].tolist() == [int(s) for s in starts]


@given(st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=5))
def test_variable_length_round_trip(rows: list[list[int]]) -> None:
    layout = CodeLayout(7, (5,), variable_length=True)
    ids = layout.encode([torch.tensor(row, dtype=torch.long) for row in rows])
    assert [row.tolist() for row in layout.decode(ids)] == rows
    assert (ids[:, 1:] == layout.end).sum(1).tolist() == [1] * len(rows)


def test_layout_refuses_what_does_not_fit() -> None:
    layout = CodeLayout(4, (2, 2), 3)
    with pytest.raises(InputError, match="do not fit the layout"):
        layout.encode(torch.zeros(1, 3, 3, dtype=torch.long))
    with pytest.raises(InputError, match="reach from 0 to 4"):
        layout.encode(torch.tensor([[[0, 4], [1, 2]]]))
    with pytest.raises(InputError, match="label 3 has no class token"):
        layout.start_ids(torch.tensor([3]), 1)
    with pytest.raises(InputError, match="holds 2"):
        CodeLayout(4, (2,), variable_length=True).encode([torch.tensor([1, 2, 3])])


def test_probabilities_of_all_sequences_sum_to_one() -> None:
    """The likelihood is normalised over what can occur: enumerate it."""
    layout = CodeLayout(3, (2,), n_classes=2)
    prior = make(layout)
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    bits = prior.bits_per_image(layout.encode(codes, torch.ones(9, dtype=torch.long)))
    assert float((2.0**-bits).sum()) == pytest.approx(1.0, abs=1e-4)


def test_variable_length_probabilities_sum_to_one() -> None:
    layout = CodeLayout(2, (1,), variable_length=True)
    rows = [torch.tensor(row, dtype=torch.long) for row in ([], [0], [1])]
    lengths = make(layout).code_lengths(layout.encode(rows))
    assert float((-lengths.detach().sum(1)).exp().sum()) == pytest.approx(1.0, abs=1e-4)
    assert lengths[0, 1:].tolist() == [0.0]  # PAD costs nothing


def test_sequences_of_variable_length_are_never_longer_than_the_layout() -> None:
    layout = CodeLayout(3, (4,), variable_length=True, sizes=(3, 2, 3, 2))
    rows = make(layout).sample(layout.start_ids(None, 200))
    assert {len(row) for row in rows} >= {0, 4}
    assert max(len(row) for row in rows) == 4
    assert max(int(row[1]) for row in rows if len(row) > 1) == 1


def test_greedy_samples_maximise_each_step_without_the_cache() -> None:
    layout = CodeLayout(6, (2, 2), n_classes=3)
    prior = make(layout)
    labels = torch.tensor([0, 1, 2, -1])
    codes = prior.sample(layout.start_ids(labels, 4), temperature=0.0)
    ids = layout.start_ids(labels, 4)[:, None]
    for _ in range(4):
        logits = prior.transformer(input_ids=ids, use_cache=False).logits[:, -1, :6]
        ids = torch.cat([ids, logits.argmax(1, keepdim=True)], dim=1)
    assert isinstance(codes, torch.Tensor)
    assert torch.equal(codes.flatten(1), ids[:, 1:])


def test_sampling_follows_the_model_distribution() -> None:
    layout = CodeLayout(5, (1,))
    prior = make(layout)
    start = layout.start_ids(None, 4000)
    codes = prior.sample(start, seed=1, batch_size=4000)
    assert isinstance(codes, torch.Tensor)
    shares = torch.bincount(codes.flatten(), minlength=5) / 4000
    expected = prior.transformer(input_ids=start[:1, None]).logits[0, -1, :5].softmax(0)
    assert float((shares - expected).abs().max()) < 4 * math.sqrt(0.25 / 4000)


def test_filters_and_seeds() -> None:
    layout = CodeLayout(5, (1,))
    prior = make(layout)
    start = layout.start_ids(None, 500)
    best = prior.transformer(input_ids=start[:1, None]).logits[0, -1, :5].argsort(descending=True)
    top = prior.sample(start, top_k=2, temperature=3.0)
    assert set(top.flatten().tolist()) == set(best[:2].tolist())  # type: ignore[union-attr]
    nucleus = prior.sample(start, top_p=1e-6)
    assert set(nucleus.flatten().tolist()) == {int(best[0])}  # type: ignore[union-attr]
    again = prior.sample(start, top_k=2, temperature=3.0)
    assert torch.equal(top, again)  # type: ignore[arg-type]
    assert not torch.equal(top, prior.sample(start, top_k=2, temperature=3.0, seed=9))  # type: ignore[arg-type]
    everything = prior.sample(start, temperature=50.0)
    assert set(everything.flatten().tolist()) == set(range(5))  # type: ignore[union-attr]


def test_sampling_leaves_the_global_random_state_alone() -> None:
    layout = CodeLayout(5, (2,))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    make_state = torch.get_rng_state()
    prior = make(layout)
    torch.set_rng_state(make_state)
    prior.sample(layout.start_ids(None, 3))
    assert torch.equal(torch.rand(3), expected)


def test_positions_with_fewer_codes_never_get_others() -> None:
    layout = CodeLayout(6, (2, 2), sizes=(6, 2, 3, 1))
    prior = make(layout)
    codes = prior.sample(layout.start_ids(None, 300), temperature=30.0, top_k=4)
    assert isinstance(codes, torch.Tensor)
    highest = codes.flatten(1).amax(dim=0)
    assert highest[1:].tolist() == [1, 2, 0]
    ids = layout.encode(codes)
    # The likelihoods of all that can stand at a position sum to one: the last has a single code, which is free.
    assert float(prior.code_lengths(ids)[:, 3].abs().max()) == 0.0
    pair = ids[:1].repeat(2, 1)
    pair[:, 2] = torch.tensor([0, 1])
    assert float((-prior.code_lengths(pair)[:, 1]).exp().sum()) == pytest.approx(1.0, abs=1e-5)
