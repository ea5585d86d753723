import math

import numpy as np
import pytest

from geovq.coding.fixed_point import ONE, TOTAL, activated, attended, exp_table, frequencies, gelu_table, normalised


def test_tables_hold_the_functions() -> None:
    steps = np.arange(1025)
    assert np.abs(exp_table() - 2.0**30 * 2.0 ** (-steps / 1024)).max() <= 0.51
    x = np.arange(4097) / 512
    exact = x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert np.abs(gelu_table() / 2.0**24 - exact).max() < 2.0**-24


def test_gelu_between_the_entries_and_beyond_them() -> None:
    import torch

    x = np.linspace(-9, 9, 4001).reshape(1, -1)
    product = np.rint(x * ONE * 4)
    activated(product, np.zeros(x.size, dtype=np.int64), 2, gelu_table())
    exact = torch.nn.functional.gelu(torch.from_numpy(x), approximate="tanh").numpy()
    assert np.abs(product / ONE - exact).max() < 2e-5


@pytest.mark.parametrize("scale", [0.001, 1.0, 3000.0])
def test_normalisation(scale: float) -> None:
    x = np.random.default_rng(0).normal(size=(20, 96)) * scale
    gain, bias = np.linspace(0.5, 2, 96), np.linspace(-1, 1, 96)
    out = np.empty(x.shape)
    whole = np.rint(x * ONE).astype(np.int64)
    normalised(whole, np.rint(gain * ONE).astype(np.int64), np.rint(bias * ONE).astype(np.int64), out)
    x = whole / ONE
    exact = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * gain + bias
    assert np.abs(out / ONE - exact).max() < (0.02 if scale < 0.01 else 3e-4)


def test_attention() -> None:
    rng = np.random.default_rng(1)
    heads, depth, places, rows = 2, 8, 5, 3
    width = heads * depth
    slots = np.array([4, 0, 2])  # rows of a larger store, in any order
    keys, values = np.zeros((2, 5, heads, places, depth), dtype=np.int32)
    inputs = rng.normal(size=(places, rows, 3 * width)) * 2
    out = np.empty((rows, width))
    for place in range(places):
        scale = math.isqrt((1 << 40) // depth)
        zero = np.zeros(3 * width, dtype=np.int64)
        attended(np.rint(inputs[place] * ONE * 16), zero, 4, scale, keys, values, slots, place, exp_table(), out)
    query, key, value = (part.reshape(places, rows, heads, depth) for part in np.split(inputs, 3, axis=2))
    scores = np.einsum("rhd,prhd->rhp", query[-1], key) / math.sqrt(depth)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    assert np.abs(out / ONE - np.einsum("rhp,prhd->rhd", weights, value).reshape(rows, width)).max() < 1e-3


@pytest.mark.parametrize("spread", [0.0, 3.0, 300.0])
def test_frequencies_add_up_and_leave_no_code_out(spread: float) -> None:
    logits = np.random.default_rng(2).normal(size=(50, 40)) * spread
    out = np.empty((50, 37), dtype=np.float32)
    frequencies(np.rint(logits * ONE * 8), 3, 37, exp_table(), out)
    counts = out.astype(np.int64)
    assert (counts >= 0).all()
    assert (counts == out).all()
    assert (counts.sum(1) + 37 == TOTAL).all()
    shares = np.exp(logits[:, :37] - logits[:, :37].max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    assert np.abs((counts + 1) / TOTAL - shares).max() < 1e-4
