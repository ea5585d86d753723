"""``inertia_`` of every quantizer against a sum in float64, near and far from the origin and from each other."""

import numpy as np
import pytest
import torch

from geovq.geometry.symmetric import mean_metric, pack_symmetric, unpack_symmetric
from quantizer_classes import make_quantizer

QUANTIZERS = [
    ("euclidean", {}),
    ("euclidean_medoids", {}),
    ("random", {}),
    ("whitened", {}),
    ("pullback", {}),
    *((name, {"metric": metric}) for name in ("product", "residual", "scalar") for metric in ("euclidean", "pullback")),
]


@pytest.mark.parametrize("spread", [0.0, 1e4])
@pytest.mark.parametrize(("name", "settings"), QUANTIZERS)
def test_inertia_keeps_its_digits(name: str, settings: dict, spread: float) -> None:
    random = np.random.default_rng(0)
    tokens = random.standard_normal((600, 4)).astype(np.float32)
    tokens[::2] += np.float32(spread)
    jacobians = random.standard_normal((600, 6, 4))
    packed = pack_symmetric(torch.from_numpy(np.einsum("nki,nkj->nij", jacobians, jacobians)).float())
    quantizer = make_quantizer(name, n_codes=16, **settings).fit(tokens, metrics=packed)

    assert quantizer.labels_ is not None
    error = tokens.astype(np.float64) - quantizer.decode(quantizer.labels_)
    full = np.broadcast_to(np.eye(4), (600, 4, 4))
    if name == "whitened":
        full = np.broadcast_to(quantizer.mean_metric_, (600, 4, 4))
    elif name == "pullback" or settings.get("metric") == "pullback":
        ridge = 1e-3 * float(torch.trace(mean_metric(packed))) / 4
        full = unpack_symmetric(packed.double(), 4).numpy() + ridge * np.eye(4)
    expected = np.einsum("ni,nij,nj->", error, full, error)
    assert quantizer.inertia_ == pytest.approx(expected, rel=1e-4 if name == "whitened" else 1e-6)
