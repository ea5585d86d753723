"""Codes changed by hand, by search's moves and by the prior, against slow routes: every change decoded."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from geovq.errors import InputError
from geovq.explorer.edits import EditedImage, completed, original
from geovq.explorer.explored_run import ExploredRun
from geovq.explorer.sample_panel import checked

IMAGE = 5


@pytest.fixture
def edited(run: ExploredRun) -> EditedImage:
    return original(run.split("test"), IMAGE)


def test_the_runs_codes_decode_to_its_reconstruction(run: ExploredRun, edited: EditedImage) -> None:
    torch.testing.assert_close(edited.decoded, run.quantized[IMAGE])
    expected = float((run.quantized[IMAGE] - run.images[IMAGE]).square().sum())
    assert edited.error(edited.decoded) == pytest.approx(expected)


def test_a_change_of_one_code_changes_that_code_alone(edited: EditedImage) -> None:
    other = edited.with_code(6, 3)
    assert int(other.codes.flatten()[6]) == 3
    assert int((other.codes != edited.codes).sum()) <= 1
    with pytest.raises(InputError, match="code=16: there are codes 0 to 15"):
        edited.with_code(6, 16)


def test_alternatives_are_the_codes_of_least_decoded_error(edited: EditedImage) -> None:
    slot = edited.slots()[9]
    codes, errors, images = edited.alternatives(slot, 5)
    every = [edited.with_code(slot.position, code) for code in range(slot.size)]
    expected = torch.tensor([each.error(each.decoded) for each in every])
    torch.testing.assert_close(errors, expected.sort().values[:5], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(errors, expected[codes], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(images[0], every[int(codes[0])].decoded)


def test_the_best_move_is_the_best_of_all_single_changes(edited: EditedImage) -> None:
    """16 codewords are all candidates, and the best of 64 decoded changes is that of all but for the model's error."""
    now = edited.error(edited.decoded)
    every = [now - float(edited.alternatives(slot, 1)[1][0]) for slot in edited.slots()]
    move = edited.best_move()
    assert move is not None
    after, gain = move
    assert int((after.codes != edited.codes).sum()) == 1
    assert now - after.error(after.decoded) == pytest.approx(gain, rel=1e-3)
    assert gain == pytest.approx(max(every), rel=1e-3)


def test_moves_end_where_no_single_change_helps(edited: EditedImage) -> None:
    errors = [edited.error(edited.decoded)]
    for _ in range(60):
        move = edited.best_move()
        if move is None:
            break
        edited = move[0]
        errors.append(edited.error(edited.decoded))
    else:
        pytest.fail("the moves go on")
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert len(errors) > 1


def test_bits_of_single_codes_add_up_to_those_of_the_image(run: ExploredRun, edited: EditedImage) -> None:
    bits, labels = edited.prior_bits(), run.split("test").data.labels
    assert labels is not None
    prior = run.code_prior
    ids = prior.layout.encode(edited.codes[None], labels[IMAGE : IMAGE + 1])
    assert float(bits.sum()) == pytest.approx(float(prior.bits_per_image(ids)[0]), rel=1e-4)
    for position in (0, 7):
        probabilities = edited.prior_probabilities(position)
        assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
        code = int(edited.codes.flatten()[position])
        assert -float(probabilities[code].log2()) == pytest.approx(float(bits[position]), rel=1e-3)


def test_completing_keeps_the_upper_half_and_draws_the_rest_by_seed(run: ExploredRun, edited: EditedImage) -> None:
    settings = {"temperature": 1.0, "top_k": None, "top_p": None, "seed": 1}
    drawn = completed(run, edited.codes, 3, 6, settings)
    assert drawn.shape == (6, 4, 4)
    assert (drawn[:, :2] == edited.codes[:2]).all()
    assert len(drawn[:, 2:].flatten(1).unique(dim=0)) > 1
    torch.testing.assert_close(drawn, completed(run, edited.codes, 3, 6, settings))
    assert not torch.equal(drawn, completed(run, edited.codes, 3, 6, settings | {"seed": 2}))


def test_sampling_is_completing_nothing(run: ExploredRun) -> None:
    prior = run.code_prior
    start = prior.layout.start_ids(torch.tensor([1, 2, 3]), 3)
    nothing = torch.zeros(3, *prior.layout.shape, dtype=torch.bool)
    completed = prior.complete(start, nothing.long(), nothing, seed=4)  # type: ignore[operator]
    torch.testing.assert_close(prior.sample(start, seed=4), completed)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": None}, "temperature=None"),
        ({"top_k": 17}, "top-k=17: there are 16 codes"),
        ({"top_p": 0}, "top-p=0"),
        ({"seed": None}, "seed=None"),
        ({"number": 65}, "images=65"),
    ],
)
def test_wrong_settings_of_samples_are_named(run: ExploredRun, changed: dict[str, float | None], fault: str) -> None:
    given = {"temperature": 1.0, "top_k": None, "top_p": None, "seed": 0, "number": 4} | changed
    with pytest.raises(InputError, match=fault):
        checked(run, **given)  # type: ignore[arg-type]


def test_images_that_are_not_there_are_named(run: ExploredRun) -> None:
    split = run.split("test")
    with pytest.raises(InputError, match="image=9999: the test images go from 0 to"):
        original(split, 9999)
    with pytest.raises(InputError, match="image=None"):
        original(split, None)
