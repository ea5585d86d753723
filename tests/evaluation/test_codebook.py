import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from geovq.errors import InputError
from geovq.evaluation import codebook
from geovq.evaluation.codebook import (
    decoded_distortion,
    latent_distortion,
    metric_distortion,
    rate,
    rate_of_streams,
    usage_of_streams,
)


def usage(codes, n_codes):
    return usage_of_streams([(codes, n_codes)])


def some_codes(*shape, n_codes=7, seed=0):
    return torch.randint(n_codes, shape, generator=torch.Generator().manual_seed(seed))


def test_usage_matches_counting():
    codes = torch.tensor([0, 0, 0, 0, 2, 2, 3, 3]).view(2, 2, 2)
    metrics, histogram = usage(codes, 5)
    assert histogram.tolist() == [4, 0, 2, 2, 0]
    even = [2 - np.euler_gamma - np.log(2), 2 - np.euler_gamma - np.log(2) + 2 / 3]  # Grassberger's G of 2 and 4
    corrected = (np.log(8) - (4 * even[1] + 2 * 2 * even[0]) / 8) / np.log(2)
    assert metrics == {
        "active_codes": 3,
        "active_fraction": 0.6,
        "entropy_bits_per_token": pytest.approx(1.5),
        "perplexity": pytest.approx(2**1.5),
        "perplexity_corrected": pytest.approx(2**corrected),
    }


def test_usage_extremes():
    one, _ = usage(torch.zeros(3, 2, 2, dtype=torch.int32), 9)
    assert (one["perplexity"], one["entropy_bits_per_token"], one["active_codes"]) == (1, 0, 1)
    assert one["perplexity_corrected"] == pytest.approx(1)
    even, _ = usage(torch.arange(16).view(1, 4, 4), 16)
    assert even["perplexity"] == pytest.approx(16)
    assert even["perplexity_corrected"] == 16


def test_few_tokens_do_not_bias_the_corrected_perplexity():
    share = (0.45 * torch.randn(512, generator=torch.Generator().manual_seed(1)).double()).exp()
    share /= share.sum()
    true = 2 ** stats.entropy(share.numpy(), base=2)
    draws = [torch.multinomial(share, 5760, True, generator=torch.Generator().manual_seed(s)) for s in range(20)]
    found = [usage(codes.view(360, 4, 4), 512)[0] for codes in draws]
    assert np.mean([each["perplexity"] for each in found]) < 0.965 * true
    assert np.mean([each["perplexity_corrected"] for each in found]) == pytest.approx(true, rel=0.005)
    streams, _ = codebook.usage_of_streams([(draws[0].view(360, 16), 512), (draws[1].view(360, 16) % 8, 8)])
    parts = [usage(draws[0], 512)[0], usage(draws[1] % 8, 8)[0]]
    for name in ("perplexity", "perplexity_corrected"):
        assert streams[name] == pytest.approx((parts[0][name] * parts[1][name]) ** 0.5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), n_codes=st.integers(1, 40), n=st.integers(1, 20))
def test_usage_is_scipys_entropy_and_ignores_order_and_names(seed, n_codes, n):
    codes = some_codes(n, 2, 3, n_codes=n_codes, seed=seed)
    metrics, histogram = usage(codes, n_codes)
    entropy = stats.entropy(histogram.numpy(), base=2)
    assert metrics["entropy_bits_per_token"] == pytest.approx(entropy, abs=1e-9)
    assert 1 <= metrics["perplexity"] <= metrics["active_codes"] * (1 + 1e-9) <= n_codes * (1 + 1e-9)
    renamed = torch.randperm(n_codes, generator=torch.Generator().manual_seed(seed))[codes.flip(0)]
    assert usage(renamed, n_codes)[0] == pytest.approx(metrics)


def test_rate_code_by_code():
    train, test = some_codes(40, 2, 3), some_codes(9, 2, 3, seed=1)
    per_image, metrics = rate(train, test, 7), rate_of_streams([(train, 7)], [(test, 7)])
    for image in range(9):
        unigram = position = 0.0
        for row in range(2):
            for col in range(3):
                code = int(test[image, row, col])
                unigram -= np.log2((int((train == code).sum()) + 1) / (train.numel() + 7))
                position -= np.log2((int((train[:, row, col] == code).sum()) + 1) / (40 + 7))
        assert float(per_image["unigram"][image]) == pytest.approx(unigram)
        assert float(per_image["position"][image]) == pytest.approx(position)
    assert metrics["rate_unigram_bits_per_image"] == pytest.approx(float(per_image["unigram"].mean()))
    assert metrics["rate_position_bits_per_image"] == pytest.approx(float(per_image["position"].mean()))


def test_positions_help_where_they_matter_and_unseen_codes_stay_finite():
    train = torch.tensor([[[0, 1]]]).repeat(1000, 1, 1)
    metrics = rate_of_streams([(train, 2)], [(train[:10], 2)])
    assert metrics["rate_unigram_bits_per_image"] == pytest.approx(2, abs=1e-3)
    assert metrics["rate_position_bits_per_image"] < 0.01
    unseen = rate(train, torch.tensor([[[3, 3]]]), 4)
    assert float(unseen["unigram"]) == pytest.approx(2 * np.log2(2004))


def problem(n=50, d=4, n_codes=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens, codewords = torch.randn(n, d, generator=generator), torch.randn(n_codes, d, generator=generator)
    return tokens, codewords, torch.randint(n_codes, (n,), generator=generator)


def test_latent_distortion_token_by_token(monkeypatch):
    tokens, codewords, codes = problem()
    expected = [float(((tokens[i] - codewords[codes[i]]) ** 2).sum()) for i in range(len(tokens))]
    monkeypatch.setattr(codebook, "_CHUNK_TOKENS", 7)
    np.testing.assert_allclose(latent_distortion(tokens, codewords[codes]), expected, rtol=1e-5)


def test_metric_distortion_is_the_decoders_error_for_a_linear_decoder(monkeypatch):
    """A linear decoder has no higher orders: eᵀGe is the squared pixel error itself."""
    tokens, codewords, codes = problem()
    jacobians = torch.randn(50, 12, 4, generator=torch.Generator().manual_seed(1))
    rows, columns = torch.triu_indices(4, 4)
    packed = (jacobians.transpose(1, 2) @ jacobians)[:, rows, columns]
    pixels = (jacobians @ (tokens - codewords[codes])[:, :, None]).square().sum((1, 2))
    monkeypatch.setattr(codebook, "_CHUNK_TOKENS", 7)
    torch.testing.assert_close(metric_distortion(tokens, codewords[codes], packed), pixels, rtol=1e-4, atol=1e-4)


def test_unit_metric_is_the_latent_distance():
    tokens, codewords, codes = problem()
    rows, columns = torch.triu_indices(4, 4)
    packed = (rows == columns).float().expand(50, -1)
    metric = metric_distortion(tokens, codewords[codes], packed)
    torch.testing.assert_close(metric, latent_distortion(tokens, codewords[codes]), rtol=1e-5, atol=1e-6)


def test_tokens_on_their_codewords_cost_nothing():
    _, codewords, codes = problem()
    assert not latent_distortion(codewords[codes], codewords[codes]).any()


def test_decoded_distortion():
    first, second = torch.rand(7, 3, 8, 8), torch.rand(7, 3, 8, 8)
    expected = np.mean((first.double().numpy() - second.double().numpy()) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(decoded_distortion(first, second), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: usage(torch.tensor([[-1, 0]]), 3), "-1"),
        (lambda: usage(torch.tensor([[0, 3]]), 3), "K = 3"),
        (lambda: usage(torch.tensor([[0.0]]), 3), "float32"),
        (lambda: usage(torch.zeros(0, 2, 2, dtype=torch.long), 3), "at least one"),
        (lambda: rate(some_codes(2, 2, 2), some_codes(2, 3, 2), 7), "grids"),
        (lambda: latent_distortion(torch.rand(4, 2), torch.rand(4, 5)), "d"),
        (lambda: latent_distortion(torch.rand(4, 2), torch.rand(3, 2)), "must both be"),
        (
            lambda: metric_distortion(torch.rand(4, 2), torch.rand(4, 2), torch.rand(5, 3)),
            "5 metric tensors",
        ),
        (lambda: decoded_distortion(torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 7)), "equal"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(InputError, match=message):
        call()
