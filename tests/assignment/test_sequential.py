"""The nearest-plane rule against its definition, and against trying everything."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curved_decoder import CurvedDecoder
from geovq.assignment.sequential import nearest_plane, regularised, sequential_codes
from geovq.errors import InputError
from geovq.geometry.metric import full_metric
from geovq.geometry.sketch import sketch_factor


def random_metric(n: int, size: int, generator: torch.Generator) -> torch.Tensor:
    factor = torch.randn(n, size, size, generator=generator, dtype=torch.float64)
    return factor @ factor.mT + 0.1 * torch.eye(size, dtype=torch.float64)


def greedy_by_schur_complements(tokens: torch.Tensor, metric: torch.Tensor, codewords: torch.Tensor) -> list[int]:
    """One image: fix tokens in order; the open ones are free to take the least-cost real values."""
    n_tokens, d = tokens.shape
    chosen: list[int] = []
    for _ in range(n_tokens):
        costs = []
        for candidate in range(len(codewords)):
            fixed = torch.cat([tokens[s] - codewords[c] for s, c in enumerate([*chosen, candidate])])
            k = len(fixed)
            a, b, c = metric[:k, :k], metric[:k, k:], metric[k:, k:]
            schur = a - b @ torch.linalg.solve(c, b.T) if k < len(metric) else a
            costs.append(float(fixed @ schur @ fixed))
        chosen.append(min(range(len(costs)), key=costs.__getitem__))
    assert d * n_tokens == len(metric)
    return chosen


@given(st.integers(1, 4), st.integers(1, 3), st.integers(2, 6), st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_is_greedy_choice_with_the_open_tokens_free(n_tokens: int, d: int, n_codes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(3, n_tokens, d, generator=generator, dtype=torch.float64)
    codewords = torch.randn(n_codes, d, generator=generator, dtype=torch.float64)
    metric = random_metric(3, n_tokens * d, generator)
    codes = nearest_plane(tokens, metric, codewords)
    for image in range(3):
        assert codes[image].tolist() == greedy_by_schur_complements(tokens[image], metric[image], codewords)


def test_without_blocks_between_tokens_it_is_the_nearest_codeword_of_each() -> None:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(20, 4, 2, generator=generator, dtype=torch.float64)
    codewords = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    metric = regularised(random_metric(20, 8, generator), 2, shrinkage=1.0, ridge=1e-6)
    own = torch.stack([metric[:, 2 * t : 2 * t + 2, 2 * t : 2 * t + 2] for t in range(4)], 1)
    difference = tokens[:, :, None] - codewords
    costs = torch.einsum("ntki,ntij,ntkj->ntk", difference, own, difference)
    assert torch.equal(nearest_plane(tokens, metric, codewords), costs.argmin(2))


def test_costs_less_than_choosing_tokens_alone_where_they_are_coupled() -> None:
    generator = torch.Generator().manual_seed(5)
    n, n_tokens, d = 200, 4, 2
    tokens = torch.randn(n, n_tokens, d, generator=generator, dtype=torch.float64)
    codewords = torch.randn(8, d, generator=generator, dtype=torch.float64)
    metric = random_metric(n, n_tokens * d, generator)

    def cost(codes: torch.Tensor) -> torch.Tensor:
        error = (tokens - codewords[codes]).flatten(1)
        return torch.einsum("ni,nij,nj->n", error, metric, error)

    alone = nearest_plane(tokens, regularised(metric, d, shrinkage=1.0, ridge=1e-6), codewords)
    together = nearest_plane(tokens, metric, codewords)
    everything = torch.tensor(list(itertools.product(range(8), repeat=n_tokens)))
    least = torch.stack([cost(row.expand(n, -1)) for row in everything]).amin(0)
    assert cost(together).mean() < cost(alone).mean()
    assert (cost(together) >= least - 1e-9).all()


def test_factors_are_unbiased_for_the_whole_metric_and_exact_with_a_probe_per_pixel() -> None:
    decoder = CurvedDecoder().double().eval()
    latent = torch.randn(decoder.latent_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = full_metric(decoder, latent)
    with torch.no_grad():
        n_pixels = decoder(latent[None]).numel()
    factor = sketch_factor(decoder, latent[None], n_pixels, seed=0, first_image=0)
    torch.testing.assert_close((factor @ factor.mT)[0], expected, rtol=1e-6, atol=1e-9)
    mean = torch.stack([_gram(decoder, latent, seed) for seed in range(400)]).mean(0)
    assert float((mean - expected).norm() / expected.norm()) < 0.1


def _gram(decoder: torch.nn.Module, latent: torch.Tensor, seed: int) -> torch.Tensor:
    factor = sketch_factor(decoder, latent[None], 4, seed=seed, first_image=0)[0]
    return factor @ factor.T


def test_codes_of_a_decoder_are_those_of_its_metric_in_blocks_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import geovq.assignment.sequential as module

    decoder = CurvedDecoder().eval()
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(5, *decoder.latent_shape, generator=generator)
    codewords = torch.randn(6, decoder.latent_shape[0], generator=generator)
    codes = sequential_codes(decoder, latents, codewords, n_probes=8)
    assert codes.shape == (5, *decoder.latent_shape[1:])
    monkeypatch.setattr(module, "_BLOCK", 1)
    assert torch.equal(sequential_codes(decoder, latents, codewords, n_probes=8), codes)


def test_codes_do_not_depend_on_how_bright_images_are() -> None:
    class Dim(CurvedDecoder):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return 2.0**-24 * super().forward(z)

    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(5, *CurvedDecoder().latent_shape, generator=generator)
    codewords = torch.randn(6, CurvedDecoder().latent_shape[0], generator=generator)
    bright, dim = (
        sequential_codes(decoder.eval(), latents, codewords, n_probes=8) for decoder in (CurvedDecoder(), Dim())
    )
    assert torch.equal(bright, dim)


def test_bad_input() -> None:
    decoder = CurvedDecoder().eval()
    latents = torch.randn(2, *decoder.latent_shape)
    codewords = torch.randn(3, decoder.latent_shape[0])
    for settings_, message in (({"ridge": 0.0}, "ridge > 0"), ({"shrinkage": 1.5}, "shrinkage")):
        with pytest.raises(InputError, match=message):
            sequential_codes(decoder, latents, codewords, **settings_)
    with pytest.raises(InputError):
        sequential_codes(decoder.train(), latents, codewords)


def test_a_ridge_above_all_metrics_is_latent_distance() -> None:
    decoder = CurvedDecoder()
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(9, *decoder.latent_shape, generator=generator)
    codewords = torch.randn(12, decoder.latent_shape[0], generator=generator)
    nearest = torch.cdist(latents.permute(0, 2, 3, 1).reshape(-1, 3), codewords).argmin(1).view(9, 2, 2)
    assert torch.equal(sequential_codes(decoder, latents, codewords, ridge=1e6), nearest)
    assert not torch.equal(sequential_codes(decoder, latents, codewords, ridge=1e-3), nearest)


def test_a_metric_without_enough_ridge_is_refused_by_name() -> None:
    singular = torch.ones(2, 6, 6)
    with pytest.raises(InputError, match="raise ridge"):
        nearest_plane(torch.zeros(2, 3, 2), singular, torch.randn(4, 2))
