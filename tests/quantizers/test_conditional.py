"""A codebook that neighbours move: what they tell is saved, codes are those of the definition, and it is stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geovq.errors import InputError
from geovq.geometry.symmetric import pack_symmetric
from geovq.pipeline.checkpoint import Checkpoints
from geovq.quantizers import ConditionalCodebook, PullbackKMeans

SETTINGS = {"grid": (2, 2), "steps": 150, "batch_size": 32, "width": 16, "n_moves": 16}


def images(n: int = 300, shared: float = 1.0, seed: int = 0) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """Tokens (4n, 3) of images that share a vector, with packed metrics and these in full."""
    rng = np.random.default_rng(seed)
    tokens = shared * rng.normal(size=(n, 1, 3)) + 0.2 * rng.normal(size=(n, 4, 3))
    factors = np.diag([1, 2, 0.5]) + 0.2 * rng.normal(size=(4 * n, 3, 3))
    full = factors @ factors.transpose(0, 2, 1)
    return tokens.reshape(-1, 3).astype(np.float32), pack_symmetric(torch.from_numpy(full)).float(), full


@pytest.fixture(scope="module")
def fitted() -> ConditionalCodebook:
    tokens, metrics, _ = images()
    return ConditionalCodebook(16, **SETTINGS).fit(tokens, metrics=metrics)


class Interrupted:
    """Checkpoints in a file; the fit ends at a step, three after the last one that was kept."""

    def __init__(self, path, last: int) -> None:
        self.kept, self.last, self.begun = Checkpoints(path, 0.0), last, -1

    def restore(self, model, optimizer) -> int:
        self.begun = self.kept.restore(model, optimizer)
        return self.begun

    def keep(self, step, model, optimizer) -> None:
        if step == self.last - 3:
            self.kept.keep(step, model, optimizer)
        if step == self.last:
            raise KeyboardInterrupt


def test_an_interrupted_fit_goes_on_and_ends_where_it_would_have(fitted, tmp_path):
    tokens, metrics, _ = images()
    path = tmp_path / "checkpoint.safetensors"
    for begun, last in ((0, 60), (57, 110)):
        stopped = Interrupted(path, last)
        with pytest.raises(KeyboardInterrupt):
            ConditionalCodebook(16, **SETTINGS).fit(tokens, metrics=metrics, checkpoints=stopped)
        assert stopped.begun == begun
    ended = Interrupted(path, 0)
    resumed = ConditionalCodebook(16, **SETTINGS).fit(tokens, metrics=metrics, checkpoints=ended)
    assert ended.begun == 107
    ours, theirs = resumed.get_state(), fitted.get_state()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours | theirs)


def test_what_neighbours_tell_is_saved(fitted):
    tokens, metrics, full = images()
    start = PullbackKMeans(16).fit(tokens, metrics=metrics)
    assert fitted.cost_history_[0] == start.inertia_
    assert fitted.inertia_ < 0.7 * start.inertia_
    error = tokens - fitted.decode(fitted.labels_)
    shift = 1e-3 * np.trace(full.mean(axis=0)) / 3
    cost = np.einsum("ni,nij,nj->", error, full + shift * np.eye(3), error)
    assert fitted.inertia_ == pytest.approx(cost, rel=1e-4)
    assert np.array_equal(fitted.predict(tokens, metrics), fitted.labels_)
    assert np.array_equal(fitted.encode_training(tokens), fitted.labels_)
    others, their_metrics, _ = images(seed=1)
    error = [others - each.decode(each.predict(others, their_metrics)) for each in (fitted, start)]
    assert np.square(error[0]).sum() < 0.8 * np.square(error[1]).sum()


def test_where_neighbours_tell_nothing_it_costs_no_more_than_the_start():
    rng = np.random.default_rng(0)
    tokens, metrics = rng.normal(size=(40, 3)).astype(np.float32), images(10)[1]
    start = PullbackKMeans(40).fit(tokens, metrics=metrics)
    same = ConditionalCodebook(40, **SETTINGS | {"steps": 3, "learning_rate": 1.0}).fit(tokens, metrics=metrics)
    assert same.cost_history_.tolist() == [start.inertia_] * 2
    assert np.array_equal(same.cluster_centers_, start.cluster_centers_)
    assert np.allclose(same.decode(same.labels_), start.decode(start.labels_), atol=1e-5)
    alone = ConditionalCodebook(8).fit(tokens, metrics=metrics)  # one token per image
    assert alone.inertia_ == PullbackKMeans(8).fit(tokens, metrics=metrics).inertia_


def test_every_token_takes_its_cheapest_codeword_as_those_before_move_it(fitted):
    tokens, metrics, full = images(12, seed=2)
    codes = fitted.predict(tokens, metrics).reshape(-1, 4)
    ridge = fitted.ridge / (1 + fitted.ridge) * np.trace(fitted.mean_metric_) / 3 * np.eye(3)
    for image, chosen in enumerate(codes):
        for token in range(4):
            tried = np.tile(chosen, (16, 1))
            tried[:, token] = np.arange(16)
            at = 4 * image + token
            error = fitted.decode(tried.reshape(-1)).reshape(16, 4, 3)[:, token] - tokens[at]
            costs = np.einsum("ki,ij,kj->k", error, full[at] + ridge, error)
            assert costs[chosen[token]] <= costs.min() * (1 + 1e-3) + 1e-5


def test_a_wider_beam_costs_less(fitted):
    tokens, metrics, _ = images(seed=3)
    costs = []
    for beam in (1, 4):
        codes = fitted.set_params(beam=beam).predict(tokens, metrics)
        costs.append(fitted._cost(tokens - fitted.decode(codes), metrics))
    fitted.set_params(beam=1)
    assert costs[1] < costs[0]


def test_same_seed_same_codebook_and_the_state_holds_all(fitted):
    tokens, metrics, _ = images()
    twin = ConditionalCodebook(16, **SETTINGS).fit(tokens, metrics=metrics)
    state, again = fitted.get_state(), ConditionalCodebook.from_state(fitted.get_state())
    for other in (twin, again):
        assert set(other.get_state()) == set(state)
        assert all(np.array_equal(value, state[name]) for name, value in other.get_state().items())
        assert np.array_equal(other.predict(tokens, metrics), fitted.labels_)
        assert np.array_equal(other.decode(fitted.labels_), fitted.decode(fitted.labels_))
    assert all(isinstance(value, np.ndarray) and value.dtype != object for value in state.values())
    assert again.get_params() == fitted.get_params()
    other = ConditionalCodebook(16, random_state=1, **SETTINGS).fit(tokens, metrics=metrics)
    assert other.inertia_ != fitted.inertia_
    grids = fitted.codec((2, 2)).embed(torch.from_numpy(fitted.labels_).view(-1, 2, 2))
    assert np.array_equal(grids.permute(0, 2, 3, 1).reshape(-1, 3).numpy(), fitted.decode(fitted.labels_))


def test_codes_do_not_depend_on_the_images_beside(fitted):
    tokens, metrics, _ = images(30, seed=4)
    parts = [fitted.predict(tokens[i : i + 4], metrics[i : i + 4]) for i in range(0, len(tokens), 4)]
    assert np.array_equal(np.concatenate(parts), fitted.predict(tokens, metrics))


def test_bad_input_is_named(fitted):
    tokens, metrics, _ = images(10)
    with pytest.raises(InputError, match="39 tokens are no whole images of 2 × 2 tokens"):
        fitted.predict(tokens[:39])
    with pytest.raises(InputError, match="38 tokens are no whole images"):
        ConditionalCodebook(4, **SETTINGS).fit(tokens[:38], metrics=metrics[:38])
    with pytest.raises(InputError, match="2 tokens are no whole images"):
        fitted.decode(np.array([1, 2]))
    with pytest.raises(InputError, match="codes reach from 1 to 16"):
        fitted.decode(np.array([1, 2, 16, 1]))
    with pytest.raises(InputError, match="needs metrics"):
        ConditionalCodebook(4, **SETTINGS).fit(tokens)
    with pytest.raises(InputError, match="steps is 0; it must be at least 1"):
        ConditionalCodebook(4, **SETTINGS | {"steps": 0}).fit(tokens, metrics=metrics)
    lacking = {name: value for name, value in fitted.get_state().items() if name != "moves.seen"}
    with pytest.raises(InputError, match="lacks its network"):
        ConditionalCodebook.from_state(lacking)
