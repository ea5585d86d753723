"""Every prior on a grid so small that all its codings can be enumerated."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from geovq.errors import InputError
from geovq.models.autoregressive_prior import AutoregressivePrior
from geovq.models.code_geometry import CodeGeometry
from geovq.models.code_layout import CodeLayout
from geovq.models.codec import Codec, CodeLevel, flat_codec, half_mask, stacked_codec
from geovq.models.masked_prior import MaskedPrior
from geovq.models.pixelcnn_prior import PixelCNNPrior
from geovq.models.prior import CategoricalPrior, OrderedPrior

SIZES = {"layers": 2, "width": 16, "dropout": 0.0}
PRIORS: dict[str, Callable[..., CategoricalPrior]] = {
    "sequence": lambda layout, **more: AutoregressivePrior(layout, heads=2, **SIZES, **more),
    "grid": lambda layout, **more: AutoregressivePrior(layout, heads=2, positions="grid", **SIZES, **more),
    "pixelcnn": lambda layout, **more: PixelCNNPrior(layout, **SIZES, **more),
    "masked": lambda layout, **more: MaskedPrior(layout, heads=2, schedule="linear", **SIZES, **more),
}
ORDERED = ("sequence", "grid", "pixelcnn")
GRID = CodeLayout(3, (2, 2), n_classes=2)
ALL = torch.tensor(list(product(range(3), repeat=4))).reshape(81, 2, 2)
TWO_GRIDS = Codec(
    (
        CodeLevel(torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0)), (3,), (1, 2)),
        CodeLevel(torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(1)), (2,), (2, 2)),
    )
)
SLOTS = stacked_codec([torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (3, 2)], (2, 1))
CODECS = {"two grids": TWO_GRIDS, "slots": SLOTS}


def layout_of(codec: Codec, n_classes: int = 2) -> CodeLayout:
    levels = tuple((*level.grid, len(level.sizes)) for level in codec.levels)
    return CodeLayout(max(codec.sizes), codec.shape, n_classes, sizes=codec.sizes, levels=levels)


def make(kind: str, layout: CodeLayout = GRID, **more: Any) -> Any:
    torch.manual_seed(0)
    prior = PRIORS[kind](layout, **more).eval().requires_grad_(False)
    for parameter in prior.parameters():  # untrained networks are nearly uniform
        parameter.add_((0.4 if kind == "pixelcnn" else 0.2) * torch.randn_like(parameter))
    return prior


def all_codes(codec: Codec) -> Tensor:
    return torch.tensor(list(product(*map(range, codec.sizes)))).reshape(-1, *codec.shape)


def probabilities(prior: OrderedPrior, codes: Tensor, label: int) -> Tensor:
    return 2.0 ** -prior.bits_per_image(prior.layout.encode(codes, torch.full((len(codes),), label)))


def in_order(prior: MaskedPrior, ids: Tensor, order: tuple[int, ...]) -> Tensor:
    """Log-likelihood (N,) by the chain rule in one order of the codes."""
    codes, known = ids[:, 1:], torch.zeros_like(ids[:, 1:], dtype=torch.bool)
    total = torch.zeros(len(ids))
    for place in order:
        logs = prior.logits(ids[:, 0], codes, known)[:, place].log_softmax(1)
        total += logs.gather(1, codes[:, place, None])[:, 0]
        known[:, place] = True
    return total


@pytest.mark.parametrize("label", [-1, 1])
@pytest.mark.parametrize("kind", ORDERED)
def test_likelihoods_of_all_codings_sum_to_one(kind: str, label: int) -> None:
    found = probabilities(make(kind), ALL, label)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-4)
    assert float(found.max()) > 3 / 81  # it has opinions


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", ORDERED)
def test_likelihoods_sum_to_one_with_slots_and_on_two_grids(kind: str, codec: str) -> None:
    prior = make(kind, layout_of(CODECS[codec]))
    assert float(probabilities(prior, all_codes(CODECS[codec]), 0).sum()) == pytest.approx(1.0, abs=1e-4)


def test_masked_likelihoods_sum_to_one_in_every_order_and_their_mean_is_the_bound() -> None:
    prior = make("masked")
    ids = GRID.encode(ALL, torch.ones(81, dtype=torch.long))
    logs = torch.stack([in_order(prior, ids, order) for order in permutations(range(4))])
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(24), rtol=0, atol=1e-4)
    bound = prior.bits_per_image(ids)
    torch.testing.assert_close(bound, -logs.mean(0) / math.log(2), rtol=1e-4, atol=1e-4)
    mixture = -(logs.logsumexp(0) - math.log(24)) / math.log(2)
    assert (bound >= mixture - 1e-4).all()
    assert float((bound - mixture).max()) > 0.01


def test_the_bound_of_larger_grids_is_estimated_without_bias() -> None:
    """Against all orders of five codes; the loss of the linear schedule has the same mean."""
    layout = CodeLayout(3, (1, 5))
    prior = make("masked", layout)
    ids = layout.encode(torch.tensor([[[0, 2, 1, 1, 0]]])).repeat(4000, 1)
    exact = -torch.stack([in_order(prior, ids[:1], order) for order in permutations(range(5))]).mean()
    bits = prior.bits_per_image(ids)
    assert float(bits.mean()) * math.log(2) == pytest.approx(float(exact), abs=0.02)
    assert torch.equal(bits, prior.bits_per_image(ids))
    torch.manual_seed(0)
    loss = prior.loss(ids)
    assert float(loss.mean()) == pytest.approx(float(exact), abs=4 * float(loss.std()) / math.sqrt(4000))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_coarse_grids_are_filled_first(schedule: str) -> None:
    prior = make("masked", layout_of(TWO_GRIDS))
    prior.schedule = schedule
    seen: list[tuple[Tensor, Tensor]] = []
    prior._hidden_nats = lambda ids, known, asked, smoothed=False: seen.append((known, asked)) or ids[:, 0]
    prior.loss(prior.layout.encode(all_codes(TWO_GRIDS), torch.zeros(144, dtype=torch.long)))
    [(known, asked)] = seen
    coarse = asked[:, :2].any(1)
    assert 0 < int(coarse.sum()) < 144
    assert not known[coarse, 2:].any()
    assert not asked[coarse, 2:].any()
    assert known[~coarse, :2].all()
    assert asked.any(1).all()
    assert not (known & asked).any()


@pytest.mark.parametrize("codec", [*CODECS, "larger"])
@pytest.mark.parametrize("kind", ORDERED)
def test_a_code_depends_on_those_before_it_alone(kind: str, codec: str) -> None:
    layout = CodeLayout(4, (5, 5)) if codec == "larger" else layout_of(CODECS[codec])
    prior = make(kind, layout)
    torch.manual_seed(1)
    codes = (torch.rand(1, layout.length) * torch.tensor(layout.sizes or [4] * layout.length)).long()
    ids = layout.encode(codes.reshape(1, *layout.shape), None)
    logits = prior.logits(ids)
    reached = torch.zeros(layout.length, layout.length, dtype=torch.bool)
    for position in range(layout.length):
        other = ids.clone()
        other[0, 1 + position] = (ids[0, 1 + position] + 1) % (layout.sizes or [4] * layout.length)[position]
        reached[position] = (prior.logits(other) - logits).nan_to_num(0).abs().amax((0, 2)) > 1e-6
    assert not reached.tril().any()  # neither itself nor what comes before
    assert reached[torch.ones_like(reached).triu(1)].float().mean() > 0.9  # and nothing before it is out of sight


def test_gradients_of_a_pixelcnn_reach_what_comes_before_alone() -> None:
    network = make("pixelcnn", CodeLayout(4, (5, 5))).networks[0]
    image = torch.randn(1, 16, 5, 5, requires_grad=True)
    found = network(image, network.rows_above(image, torch.zeros(1, 16), None))
    for place in range(25):
        row, column = divmod(place, 5)
        [gradient] = torch.autograd.grad(found[0, :, row, column].sum(), image, retain_graph=True)
        sizes = gradient.abs().sum((0, 1)).flatten()
        assert not sizes[place:].any()
        assert (sizes[:place] > 0).all()


@pytest.mark.parametrize("kind", PRIORS)
def test_drawn_frequencies_are_the_probabilities(kind: str) -> None:
    """Masked: with as many steps as codes and noise that hides all confidence, the mean over all orders."""
    prior, n = make(kind), 8000
    ids = GRID.encode(ALL, torch.ones(81, dtype=torch.long))
    if kind == "masked":
        prior.noise = 1e6
        logs = torch.stack([in_order(prior, ids, order) for order in permutations(range(4))])
        expected = logs.exp().mean(0)
    else:
        expected = probabilities(prior, ALL, 1)
    more = {"steps": 4} if kind == "masked" else {}
    drawn = prior.sample(GRID.start_ids(torch.ones(n, dtype=torch.long), n), seed=3, batch_size=n, **more)
    counts = torch.bincount(drawn.flatten(1) @ torch.tensor([27, 9, 3, 1]), minlength=81)
    statistic = float(((counts - n * expected).square() / (n * expected)).sum())
    assert statistic < 80 + 4 * math.sqrt(160)  # chi-square of 80 degrees of freedom


@pytest.mark.parametrize("kind", PRIORS)
def test_guidance(kind: str) -> None:
    """1 changes nothing, 0 takes the class away, more sharpens what the class makes likely."""
    prior, labels = make(kind), torch.arange(400) % 2
    start, nothing = GRID.start_ids(labels, 400), torch.full((400,), GRID.bos)
    plain = prior.sample(start, seed=1)
    assert torch.equal(plain, prior.sample(start, seed=1, guidance=1.0))
    assert torch.equal(prior.sample(nothing, seed=1), prior.sample(start, seed=1, guidance=0.0))
    if kind == "masked":
        return

    def gap(codes: Tensor) -> float:
        with_class = prior.bits_per_image(GRID.encode(codes, labels))
        return float((prior.bits_per_image(GRID.encode(codes)) - with_class).mean())

    assert gap(prior.sample(start, seed=1, guidance=4.0)) > gap(plain) + 0.1
    without = make(kind, CodeLayout(3, (2, 2)))
    with pytest.raises(InputError, match="guidance=2: this prior has no classes"):
        without.sample(without.layout.start_ids(None, 2), guidance=2.0)


@pytest.mark.parametrize("codec", ["flat", *CODECS])
@pytest.mark.parametrize("kind", PRIORS)
def test_completing_keeps_what_is_given(kind: str, codec: str) -> None:
    layout = GRID if codec == "flat" else layout_of(CODECS[codec])
    prior = make(kind, layout)
    torch.manual_seed(2)
    sizes = torch.tensor(layout.sizes or [3] * 4)
    codes = (torch.rand(60, layout.length) * sizes).long().reshape(60, *layout.shape)
    mask = torch.rand(codes.shape) < 0.5
    start = layout.start_ids(torch.zeros(60, dtype=torch.long), 60)
    for more in ({}, {"guidance": 2.0}, {"temperature": 0.0}):
        drawn = prior.complete(start, codes, mask, **more)
        assert torch.equal(drawn[mask], codes[mask])
        assert (drawn.flatten(1) < sizes).all()
    assert not torch.equal(prior.complete(start, codes, mask, seed=1), codes)
    assert torch.equal(prior.complete(start, codes, torch.ones_like(mask)), codes)
    with pytest.raises(InputError, match="to complete must both be"):
        prior.complete(start, codes[:3], mask)


@pytest.mark.parametrize("kind", ORDERED)
def test_completing_draws_from_the_distribution_given_the_beginning(kind: str) -> None:
    prior, n = make(kind), 6000
    codes = torch.tensor([[2, 0], [1, 0]]).expand(n, 2, 2)
    mask = torch.tensor([[True, True], [True, False]]).expand(n, 2, 2)
    drawn = prior.complete(GRID.start_ids(torch.ones(n, dtype=torch.long), n), codes, mask)
    same = (ALL.flatten(1)[:, :3] == torch.tensor([2, 0, 1])).all(1)
    expected = probabilities(prior, ALL[same], 1)
    shares = torch.bincount(drawn[:, 1, 1], minlength=3) / n
    torch.testing.assert_close(shares, expected / expected.sum(), rtol=0, atol=4 * math.sqrt(0.25 / n))


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("name", ["flat", *CODECS])
def test_codewords_in_embedding_and_target(kind: str, name: str) -> None:
    """Codes with the same codeword are the same to the network, and targets stay among the codes that there are."""
    codec = CODECS.get(name) or flat_codec(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 3.0], [1.0, 3.0]]), (2, 2))
    layout = layout_of(codec)
    prior = make(kind, layout, codec=codec, embedding="codewords", targets="smoothed")
    codes = all_codes(codec)[::5]
    ids = layout.encode(codes, torch.zeros(len(codes), dtype=torch.long))
    torch.manual_seed(0)
    smoothed = prior.loss(ids)
    assert smoothed.isfinite().all()
    prior.targets = "one_hot"
    torch.manual_seed(0)
    assert not torch.allclose(smoothed, prior.loss(ids))
    if name == "flat":
        one, other = (torch.tensor([[[code, 0], [1, 2]]]) for code in (2, 3))
        if kind == "masked":
            known, start = torch.tensor([[True, False, False, False]]), ids[:1, 0]
            found = [prior.logits(start, each.flatten(1), known)[:, 1:] for each in (one, other)]
        else:
            found = [prior.logits(layout.encode(each))[:, 1:] for each in (one, other)]
        torch.testing.assert_close(*found)


def test_targets_favour_close_codewords() -> None:
    codec = flat_codec(torch.tensor([[0.0], [1.0], [2.0], [10.0]]), (1, 1))
    shares = CodeGeometry(codec, layout_of(codec), 0.5).target(torch.tensor([[0]]))[0, 0]
    distances = torch.tensor([0.0, 1.0, 2.0, 10.0]) / (0.5 * (1 + 1 + 1 + 8) / 4)
    torch.testing.assert_close(shares, torch.softmax(-distances.square() / 2, 0))


def test_whitened_codewords_do_not_depend_on_linear_maps() -> None:
    torch.manual_seed(0)
    codewords, layout = torch.randn(20, 3), CodeLayout(20, (2, 2))
    mapped = codewords @ torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.1, 0.0], [1.0, 0.0, 20.0]]) + 5
    code = torch.arange(20)[:4][None]
    first, second = (CodeGeometry(flat_codec(each, (2, 2)), layout, 0.7).target(code) for each in (codewords, mapped))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


def test_halves_of_all_grids() -> None:
    assert half_mask(SLOTS, "upper").tolist() == [[[True, True]], [[False, False]]]
    assert half_mask(flat_codec(torch.zeros(2, 1), (3, 3)), "left").tolist() == [[True, False, False]] * 3
    assert half_mask(TWO_GRIDS, "left").tolist() == [True, False, True, False, True, False]
    with pytest.raises(InputError, match="one row of tokens, so no upper half"):
        half_mask(TWO_GRIDS, "upper")
