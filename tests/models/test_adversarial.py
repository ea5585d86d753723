from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from geovq.errors import InputError
from geovq.models import frechet_loss
from geovq.models.adversarial import Discriminator, ImageLoss
from geovq.models.frechet_loss import FrechetTerm
from geovq.models.perceptual_network import (
    FlattenedNetwork,
    PairedPerception,
    PerceptualNetwork,
    perceptual_distance,
)


@pytest.fixture
def perception() -> PerceptualNetwork:
    torch.manual_seed(0)
    return PerceptualNetwork(1, 8, 8, 10, hidden_channels=8).eval().requires_grad_(False)


def loss_of(
    perception: PerceptualNetwork | PairedPerception, adversarial: bool = True, weight: float = 0.5, start: float = 0.0
) -> ImageLoss:
    discriminator = None
    if adversarial:
        discriminator = Discriminator(
            1, (8, 8), [each.shape[1] for each in perception.features(torch.zeros(1, 1, 8, 8))]
        )
    return ImageLoss(discriminator, perception, "mse", 3.0, weight, start).eval()  # in training images are shifted


def by_definition(loss: ImageLoss, logits: Tensor, x: Tensor) -> Tensor:
    """Reconstruction and perceptual term as they are written, differentiated by autograd."""
    images = torch.sigmoid(logits)
    distance = perceptual_distance(loss.perception.features(x), loss.perception.features(images))
    return (images - x).square().flatten(1).sum(1).mean() + loss.perceptual_weight * distance.mean()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.rand(4, 1, 8, 8, generator=generator)


def test_without_a_discriminator_it_is_the_sum_of_both_terms(perception: PerceptualNetwork, batch) -> None:
    logits, x = batch
    first, second = (logits.clone().requires_grad_() for _ in range(2))
    loss = loss_of(perception, adversarial=False)
    found, scalars = loss(first, x, 0.9)
    expected = by_definition(loss, second, x)
    found.backward()
    expected.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(first.grad, second.grad)
    assert set(scalars) == {"reconstruction", "perceptual"}
    torch.testing.assert_close(loss.held_out(logits, x).mean(), expected)


def test_a_pair_compares_by_both_networks(perception: PerceptualNetwork, batch) -> None:
    torch.manual_seed(1)
    second = FlattenedNetwork(1, 8, 8, 10, hidden_channels=8)
    pair = PairedPerception(perception, second)
    maps, others = (pair.features(images) for images in (batch[1], torch.sigmoid(batch[0])))
    apart = [
        perceptual_distance(network.features(batch[1]), network.features(torch.sigmoid(batch[0])))
        for network in (perception, second)
    ]
    torch.testing.assert_close(pair.distance(maps, others), (apart[0] + apart[1]) / 2)
    torch.testing.assert_close(pair.layout(maps)[:, :-192], perception.layout(maps[:3]))
    torch.testing.assert_close(pair.layout(maps)[:, -192:], second.embedding(maps[3:]))
    value, scalars = loss_of(pair)(batch[0], batch[1], 1.0)
    assert torch.isfinite(value)
    assert "discriminator" in scalars


def test_the_second_network_sees_the_places_that_the_first_averages_away(perception: PerceptualNetwork) -> None:
    second = FlattenedNetwork(1, 64, 64, 10, hidden_channels=8)
    assert second.hidden.in_features == 32 * 8 * 8  # of large images no more than of those of 32 pixels
    maps = second.features(torch.rand(2, 1, 64, 64))
    assert maps[-1].shape == (2, 32, 16, 16)
    turned = [each.flip(3) for each in maps]
    assert not torch.allclose(second.embedding(turned), second.embedding(maps))
    torch.testing.assert_close(perception.embedding(turned), perception.embedding(maps))


@pytest.mark.parametrize("network", [PerceptualNetwork, FlattenedNetwork])
@pytest.mark.parametrize("form", [(1, 3, 8, 10), (1, 8, 8, 1)])
def test_images_too_small_or_of_one_class_have_no_features(network: type[nn.Module], form: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="needs 4 pixels a side and two classes"):
        network(*form)


@pytest.mark.parametrize(("weight", "shortened"), [(1e-3, False), (1e3, True)])
def test_the_distance_of_sets_adds_its_gradient_up_to_the_length_of_the_others(
    perception, batch, monkeypatch, weight: float, shortened: bool
) -> None:
    monkeypatch.setattr(frechet_loss, "MEMORY", 4)
    logits, x = batch
    loss = loss_of(perception, adversarial=False)
    loss.frechet, loss.frechet_weight = FrechetTerm(perception.layout(perception.features(x)).shape[1]), weight
    found, alone, apart = (logits.clone().requires_grad_() for _ in range(3))
    value, scalars = loss(found, x, 0.0)
    value.backward()
    by_definition(loss, alone, x).backward()
    maps = (perception.features(each) for each in (x, torch.sigmoid(apart)))
    term = FrechetTerm(len(loss.frechet.slope))(*(perception.layout(each) for each in maps))
    (weight * term).backward()
    assert scalars["frechet"] == term > 0
    length = alone.grad.norm() / apart.grad.norm()
    assert (length < 1) == shortened
    torch.testing.assert_close(found.grad, alone.grad + min(1.0, float(length)) * apart.grad)


@pytest.mark.parametrize("weight", [0.3, 1.5])
def test_the_adversarial_gradient_has_the_share_that_was_asked_for(perception, batch, weight: float) -> None:
    logits, x = batch
    loss = loss_of(perception, weight=weight)
    alone, both = (logits.clone().requires_grad_() for _ in range(2))
    by_definition(loss, alone, x).backward()
    loss(both, x, 0.5)[0].backward()
    added = both.grad - alone.grad
    torch.testing.assert_close(added.norm(), weight * alone.grad.norm())
    drawn = logits.clone().requires_grad_()
    scores = loss.discriminator(torch.sigmoid(drawn), perception.features(torch.sigmoid(drawn)))
    (-torch.stack([each.mean() for each in scores]).mean()).backward()
    torch.testing.assert_close(
        nn.functional.cosine_similarity(added.flatten(), drawn.grad.flatten(), dim=0).item(), 1.0
    )


def test_before_its_start_only_the_discriminator_learns_of_it(perception, batch) -> None:
    logits, x = batch
    loss = loss_of(perception, start=0.5)
    early, alone = (logits.clone().requires_grad_() for _ in range(2))
    loss(early, x, 0.49)[0].backward()
    by_definition(loss, alone, x).backward()
    torch.testing.assert_close(early.grad, alone.grad)
    assert all(float(p.grad.abs().sum()) > 0 for p in loss.discriminator.parameters() if p.ndim > 1)


def test_the_discriminators_gradients_are_those_of_the_hinge_loss_alone(perception, batch) -> None:
    logits, x = batch
    loss = loss_of(perception)
    loss(logits.clone().requires_grad_(), x, 1.0)[0].backward()
    found = [p.grad.clone() for p in loss.discriminator.parameters()]
    loss.discriminator.zero_grad()
    images = torch.sigmoid(logits)
    real, drawn = (loss.discriminator(each, perception.features(each)) for each in (x, images))
    hinge = torch.stack([torch.relu(1 - each).mean() for each in real]).mean()
    hinge = hinge + torch.stack([torch.relu(1 + each).mean() for each in drawn]).mean()
    (0.5 * hinge).backward()
    for first, second in zip(found, loss.discriminator.parameters(), strict=True):
        torch.testing.assert_close(first, second.grad)


def test_the_frozen_features_are_not_saved_with_it(perception) -> None:
    assert all(name.startswith("discriminator.") for name in loss_of(perception).state_dict())


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (8, 8), (28, 28), (64, 48)])
def test_images_of_every_size_are_judged(size: tuple[int, int]) -> None:
    network = PerceptualNetwork(3, *size, 2, hidden_channels=8)
    images = torch.rand(2, 3, *size)
    maps = network.features(images)
    scores = Discriminator(3, size, [each.shape[1] for each in maps])(images, maps)
    assert [tuple(each.shape[:2]) for each in scores] == [(2, 1)] * 4
    assert network(images).shape == (2, 2)


def test_too_small_images_and_single_classes_are_refused() -> None:
    for height, classes in ((3, 10), (8, 1)):
        with pytest.raises(InputError, match="4 pixels a side and two classes"):
            PerceptualNetwork(1, height, 8, classes)


def test_in_training_image_and_original_are_shifted_alike(perception: PerceptualNetwork, batch) -> None:
    logits, x = batch
    loss = loss_of(perception, adversarial=False).train()
    same = torch.stack([loss(torch.logit(x), x, 0.0)[0] for _ in range(8)])
    torch.testing.assert_close(same, torch.zeros(8), atol=1e-5, rtol=0)
    seen = {round(float(loss(logits, x, 0.0)[0]), 4) for _ in range(20)}
    assert len(seen) > 5
    even = torch.full_like(logits, 0.3)
    torch.testing.assert_close(loss(even, even, 0.0)[0], loss.eval()(even, even, 0.0)[0])
