"""A decoder that is told classes: every picture of an image is that of its class, until another one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from geovq.explorer.edits import EditedImage, original
from geovq.explorer.explored_run import ExploredRun, explored
from geovq.explorer.paths import ways
from geovq.explorer.tokens import TokenView

IMAGE = 5


@pytest.fixture(scope="module")
def told(make_runner: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> ExploredRun:
    words = "vae.condition=concat", "quantizer=euclidean", "transformer=none"
    runner = make_runner(tmp_path_factory.mktemp("told"), *words)
    runner.obtain(("codes",))
    return explored(runner.context, runner.present(), "told", "0" * 32)


def test_an_image_is_decoded_as_its_class(told: ExploredRun) -> None:
    split = told.split("test")
    edited = original(split, IMAGE)
    torch.testing.assert_close(edited.decoded, told.quantized[IMAGE])
    assert split.shown_errors is not None
    errors = split.shown_errors.reshape(len(split.shown), -1).sum(1)
    squared = (told.quantized - told.images).square().flatten(1).sum(1)
    torch.testing.assert_close(errors, squared[split.shown], rtol=1e-4, atol=1e-5)


def test_another_class_is_another_picture_and_stays_while_codes_change(told: ExploredRun) -> None:
    split = told.split("test")
    own, classes = original(split, IMAGE), split.data.labels
    assert classes is not None
    other = EditedImage(split, IMAGE, own.codes, (int(classes[IMAGE]) + 1) % 10)
    assert not torch.allclose(other.decoded, own.decoded, atol=1e-4)
    assert torch.equal(EditedImage(split, IMAGE, own.codes, int(classes[IMAGE])).decoded, own.decoded)
    slot = other.slots()[9]
    codes, errors, images = other.alternatives(slot, 3)
    changed = other.with_code(slot.position, int(codes[0]))
    torch.testing.assert_close(images[0], changed.decoded)
    assert float(errors[0]) == pytest.approx(changed.error(changed.decoded), rel=1e-4)
    move = other.best_move()
    assert move is not None
    assert move[0].told == other.told
    assert other.error(other.decoded) - move[0].error(move[0].decoded) == pytest.approx(move[1], rel=1e-3)


def test_tokens_and_paths_are_seen_in_the_class_of_their_image(told: ExploredRun) -> None:
    split, token = told.split("test"), IMAGE * 16 + 6
    view = TokenView(split, token)
    step = 1e-2 * torch.eye(len(view.vector))[0]
    moved = [split.mean[IMAGE].clone() for _ in range(2)]
    for latent, sign in zip(moved, (1, -1), strict=True):
        latent[:, view.place.row, view.place.col] += sign * step
    ahead, behind = told.decoded(torch.stack(moved), split.classes_of(torch.tensor([IMAGE, IMAGE])))
    torch.testing.assert_close(view.jacobian[:, 0], (ahead - behind).flatten() / 2e-2, rtol=2e-2, atol=2e-3)
    straight = ways(split, token, 3)[0]
    torch.testing.assert_close(straight.frames[0], told.unquantized[IMAGE], rtol=1e-4, atol=1e-5)
    near = {each.title.partition(":")[0]: each for each in view.cheapest(3)}
    torch.testing.assert_close(near["search"].distance, view.decoded_errors(near["search"].index))
