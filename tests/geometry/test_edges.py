"""The decoder along edges against explicit decoding and finite differences."""

import numpy as np
import pytest
import torch
from torch import nn

from curved_decoder import CurvedDecoder, random_latents
from geovq.errors import InputError
from geovq.geometry.edges import DecodedEdges
from geovq.models.tokens import tokens_of
from surfaces import Sphere


def replaced(z, token, point):
    image = z[token // 4].clone()
    image[:, token % 4 // 2, token % 2] = torch.as_tensor(point)
    return image[None]


def test_a_chord_is_the_difference_of_two_decoded_images():
    z, rng = random_latents(), np.random.default_rng(0)
    tokens = np.array([3, 3, 3, 7, 18, 3])
    starts, ends = tokens_of(z).numpy()[tokens], rng.normal(size=(6, 3)).astype(np.float32)
    starts[2] += 1  # same token, another start
    decoder = CurvedDecoder()
    edges = DecodedEdges(decoder, z)
    edges.batch_size = 4
    found = edges.chords(tokens, starts, ends)
    for row, token in enumerate(tokens):
        a, b = decoder(replaced(z, token, starts[row])), decoder(replaced(z, token, ends[row]))
        assert found[row] == pytest.approx(float((a - b).norm()), rel=1e-5)


def test_a_speed_is_the_limit_of_a_chord():
    z, rng = random_latents(), np.random.default_rng(1)
    tokens = np.array([0, 5, 19])
    points, directions = rng.normal(size=(2, 3, 3)).astype(np.float32)
    decoder = CurvedDecoder().double()
    found = DecodedEdges(decoder, z.double()).speeds(tokens, points, directions)
    for row, token in enumerate(tokens):
        step = 1e-5 * directions[row].astype(np.float64)
        a = decoder(replaced(z.double(), token, points[row] - step))
        b = decoder(replaced(z.double(), token, points[row] + step))
        assert found[row] == pytest.approx(float((b - a).norm()) / 2e-5, rel=1e-5)


def test_without_latents_a_token_is_a_whole_latent():
    sphere, rng = Sphere(), np.random.default_rng(2)
    points, directions = rng.normal(size=(2, 7, 2)).astype(np.float32)
    edges = DecodedEdges(sphere)
    edges.batch_size = 3
    metric = 2 / (1 + np.square(points).sum(axis=1))  # its root
    assert np.allclose(
        edges.speeds(np.arange(7), points, directions), metric * np.linalg.norm(directions, axis=1), rtol=1e-5
    )
    embedded = [sphere.embed(torch.from_numpy(p)).numpy() for p in (points, points + directions)]
    expected = np.linalg.norm(embedded[0] - embedded[1], axis=1)
    assert np.allclose(edges.chords(np.arange(7), points, points + directions), expected, rtol=1e-5)


def test_bad_input_is_named():
    z = random_latents()
    tokens = tokens_of(z)
    DecodedEdges(CurvedDecoder(), z).check(tokens)
    with pytest.raises(InputError, match="token 4 is not that of the latents"):
        DecodedEdges(CurvedDecoder(), z).check(torch.cat((tokens[:4], tokens[[5, 4]], tokens[6:])))
    with pytest.raises(InputError, match=r"tokens have shape \(19, 3\)"):
        DecodedEdges(CurvedDecoder(), z).check(tokens[1:])
    with pytest.raises(InputError, match="train mode"):
        DecodedEdges(CurvedDecoder().train(), z).check(tokens)
    with pytest.raises(InputError, match="train mode"):
        DecodedEdges(nn.Dropout()).check(tokens)
    with pytest.raises(InputError, match="NaN"):
        DecodedEdges(CurvedDecoder(), z * np.nan)

    class Logarithm(nn.Module):
        def forward(self, x):
            return x.log()

    with pytest.raises(InputError, match="images along edges are not finite"):
        DecodedEdges(Logarithm().eval()).chords(
            np.zeros(1, int), np.ones((1, 2), np.float32), -np.ones((1, 2), np.float32)
        )
