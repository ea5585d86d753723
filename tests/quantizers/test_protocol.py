"""What every quantizer has in common."""

import numpy as np
import pytest

from geovq.errors import InputError
from geovq.geometry.graph import build_graph
from geovq.quantizers import StructuredCodebook
from quantizer_classes import CLASSES, POST_HOC, make_quantizer

FLAT = [name for name in POST_HOC if not issubclass(CLASSES[name], StructuredCodebook)]


@pytest.mark.parametrize("name", FLAT)
def test_every_flat_quantizer_keeps_what_the_base_class_promises(name):
    tokens = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    graph = build_graph(tokens, k=6)
    metrics = np.tile(np.float32([1, 0, 0, 2, 0, 3]), (200, 1))  # of one diagonal metric
    quantizer = make_quantizer(name, n_codes=8, random_state=1).fit(tokens, metrics=metrics, graph=graph)
    assert quantizer.rule
    again = CLASSES[name].from_state(quantizer.get_state(), graph=graph)
    for codes in (quantizer.labels_, quantizer.encode_training(tokens), again.predict(tokens)):
        assert codes.dtype == np.int32
        assert codes.shape == (200,)
        assert np.array_equal(codes, quantizer.labels_)
    assert quantizer.cluster_centers_.shape == again.cluster_centers_.shape == (8, 3)
    assert np.array_equal(quantizer.cost_history_, again.cost_history_)
    assert (np.diff(quantizer.cost_history_) <= 0).all()
    assert again.get_params() == quantizer.get_params()
    assert all(isinstance(array, np.ndarray) for array in quantizer.get_state().values())


@pytest.mark.parametrize("name", FLAT)
def test_every_flat_quantizer_refuses_codebooks_of_impossible_size(name):
    tokens = np.repeat(np.random.default_rng(0).normal(size=(30, 3)), 2, axis=0).astype(np.float32)
    arguments = {"metrics": np.ones((60, 6), np.float32) * [1, 0, 0, 1, 0, 1], "graph": build_graph(tokens, k=6)}
    with pytest.raises(InputError, match="n_codes is 0; it must be at least 1"):
        make_quantizer(name, n_codes=0).fit(tokens, **arguments)
    with pytest.raises(InputError, match="n_codes is 31, but there are only 30 distinct tokens"):
        make_quantizer(name, n_codes=31).fit(tokens, **arguments)
    everyone = make_quantizer(name, n_codes=30).fit(tokens, **arguments)
    assert everyone.inertia_ == pytest.approx(0, abs=1e-4)
    with pytest.raises(InputError, match="not fitted"):
        make_quantizer(name).predict(tokens)


def test_settings_are_only_stored_until_fit():
    quantizer = make_quantizer("geodesic", n_codes=-1, exponent=9)
    assert (quantizer.n_codes, quantizer.exponent) == (-1, 9)
