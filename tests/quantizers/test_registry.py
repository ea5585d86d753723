"""The registry, and what every quantizer has in common."""

import numpy as np
import pytest

from geovq.errors import ConfigError
from geovq.geometry.graph import build_graph
from geovq.quantizers import Quantizer, make_quantizer, quantizer_class, quantizer_names


@pytest.mark.parametrize("name", quantizer_names())
def test_every_quantizer_keeps_the_protocol(name):
    tokens = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    graph = build_graph(tokens, k=6)
    quantizer = make_quantizer(name, n_codes=8, random_state=1).fit(tokens, graph=graph)
    assert isinstance(quantizer, Quantizer)
    assert quantizer.name == name
    assert quantizer.rule
    again = quantizer_class(name).from_state(quantizer.get_state(), graph=graph)
    for codes in (quantizer.labels_, quantizer.encode_training(tokens), again.predict(tokens)):
        assert codes.dtype == np.int32
        assert codes.shape == (200,)
        assert np.array_equal(codes, quantizer.labels_)
    assert quantizer.cluster_centers_.shape == again.cluster_centers_.shape == (8, 3)
    assert np.array_equal(quantizer.cost_history_, again.cost_history_)
    assert all(isinstance(array, np.ndarray) for array in quantizer.get_state().values())


def test_settings_are_only_stored_until_fit():
    quantizer = make_quantizer("geodesic", n_codes=-1, exponent=9)
    assert (quantizer.n_codes, quantizer.exponent) == (-1, 9)


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(ConfigError, match="'hyperbolic' does not exist; choose one of euclidean, geodesic"):
        make_quantizer("hyperbolic")
    with pytest.raises(ConfigError, match="no setting 'exponent'"):
        make_quantizer("euclidean", n_codes=2, exponent=2)
