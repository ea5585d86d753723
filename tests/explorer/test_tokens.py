"""One token, against slow routes of its own: finite differences, all distances, SciPy's Dijkstra, decoded images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from geovq.errors import InputError
from geovq.explorer.explored_run import ExploredRun
from geovq.explorer.projection import principal_plane
from geovq.explorer.tokens import TokenView
from geovq.geometry.curves import in_context
from geovq.geometry.paths import nearest_marked

TOKEN = 37


@pytest.fixture(scope="module", params=["test", "train"])
def view(run: ExploredRun, request: Any) -> TokenView:
    return TokenView(run.split(request.param), TOKEN)


def test_a_token_is_where_the_latents_have_it(run: ExploredRun) -> None:
    split = run.split("test")
    place = split.place(TOKEN)
    torch.testing.assert_close(split.tokens[TOKEN], split.mean[place.image, :, place.row, place.col])
    with pytest.raises(InputError, match=f"token={split.n_tokens}: the test images have tokens 0 to"):
        split.place(split.n_tokens)


def test_patches_cover_every_image_once(run: ExploredRun) -> None:
    split = run.split("test")
    seen = torch.zeros(split.data.images.shape[2:], dtype=torch.int)
    for top, bottom, left, right in split.patches:
        seen[top:bottom, left:right] += 1
    assert (seen == 1).all()
    place = split.place(TOKEN)
    part = split.data.images[place.image, :, 2 * place.row : 2 * place.row + 2, 2 * place.col : 2 * place.col + 2]
    torch.testing.assert_close(split.patch(TOKEN), part)


def test_errors_of_the_patches_add_up_to_that_of_the_image(run: ExploredRun) -> None:
    split = run.split("test")
    assert split.shown_errors is not None
    by_image = split.shown_errors.reshape(len(split.shown), -1).sum(1)
    squared = (run.quantized - run.images).square().flatten(1).sum(1)
    torch.testing.assert_close(by_image, squared[split.shown], rtol=1e-4, atol=1e-5)


def test_bits_are_those_of_the_report(run: ExploredRun) -> None:
    bits, rate = run.split("validation").bits, run.rate
    assert bits is not None
    assert rate is not None
    assert float(bits.mean()) == pytest.approx(rate["kl_bits_per_token"], rel=1e-4)


def test_the_jacobian_is_that_of_finite_differences(view: TokenView) -> None:
    place, latent = view.place, view.split.mean[view.place.image]
    decode, step = in_context(view.run.latent_decoder, latent, place.row, place.col), 1e-2
    moved = torch.cat([view.vector + step * torch.eye(16), view.vector - step * torch.eye(16)])
    with torch.no_grad():
        images = decode(moved).flatten(1)
    torch.testing.assert_close(view.jacobian, ((images[:16] - images[16:]) / (2 * step)).T, rtol=0.02, atol=2e-4)


def test_neighbours_are_the_nearest_of_all(view: TokenView) -> None:
    offset = (view.split.tokens - view.vector).double()
    squared = (
        offset.square().sum(1),
        (offset @ view.run.whitening.double()).square().sum(1),
        torch.einsum("td,de,te->t", offset, view.metric.double(), offset),
    )
    for near, expected in zip(view.neighbours(5), squared, strict=True):
        expected[TOKEN] = torch.inf
        np.testing.assert_allclose(near.distance, expected.sort().values[:5].clamp(min=0).sqrt(), rtol=1e-3, atol=1e-5)
        assert TOKEN not in near.index


def test_a_lasso_keeps_neighbours_within_its_images(view: TokenView) -> None:
    images = torch.tensor([0, 4, 5])
    for near in view.neighbours(6, images):
        assert {view.split.place(int(token)).image for token in near.index} <= {0, 4, 5}
        assert len(near.index) == 6


def test_on_the_ellipse_the_image_changes_by_its_radius(view: TokenView) -> None:
    plane = principal_plane(view.split.tokens)
    around = view.ellipse(plane, 0.01) - plane(view.vector[None])
    moved = around @ plane.axes.T
    torch.testing.assert_close(
        (moved @ view.jacobian.T).norm(dim=1), torch.full((len(around),), 0.01), rtol=1e-3, atol=0
    )


def test_links_are_those_of_the_graph(view: TokenView) -> None:
    index, latent, pixel = view.links()
    graph, training = view.run.graph, view.run.split("train").tokens
    torch.testing.assert_close(latent, (training[index] - view.vector).norm(dim=1), rtol=1e-4, atol=1e-5)
    assert (pixel.diff() >= 0).all()
    if view.split.name == "train":
        edges = graph.adjacency[int(graph.token_node[TOKEN])]
        np.testing.assert_allclose(pixel, np.sort(edges.data))
    else:
        assert len(index) == graph.k


def test_the_first_codeword_of_a_rule_is_what_the_rule_assigns(view: TokenView) -> None:
    rules = {near.title.partition(":")[0]: near for near in view.cheapest(5)}
    assert list(rules) == ["own", "euclidean", "whitened", "metric", "sequential", "search"]
    assert int(rules["own"].index[0]) == view.code
    assert view.run.codewords is not None
    offset = view.run.codewords - view.vector
    assert int(rules["euclidean"].index[0]) == int(offset.norm(dim=1).argmin())
    by_metric = torch.einsum("kd,de,ke->k", offset, view.metric, offset)
    assert int(rules["metric"].index[0]) == int(by_metric.argmin())
    errors = view.decoded_errors(torch.arange(16))
    torch.testing.assert_close(rules["search"].distance, errors.sort().values[:5], rtol=1e-4, atol=1e-6)
    assert all((near.distance.diff() >= 0).all() for near in rules.values())


def test_sequential_costs_are_those_of_the_decoder_near_the_latents(view: TokenView) -> None:
    """Where all codes are near the latents the first order is the decoded change itself."""
    image, split = view.place.image, view.split
    mean, small = split.mean[image], 1e-2
    assert split.raw_codes is not None
    q = view.run.codec.embed(split.raw_codes[image][None])[0]
    with torch.no_grad():
        latents = torch.stack([mean, mean + small * (q - mean)])
        latents[1, :, view.place.row, view.place.col] = view.vector
        images = view.run.latent_decoder(latents).flatten(1)
    change = (images[1] - images[0]) / small
    torch.testing.assert_close(view._error_of_others(), change, rtol=0.05, atol=0.02 * float(change.abs().max()))


def test_nearest_marks_are_those_of_dijkstra() -> None:
    rng = np.random.default_rng(0)
    n = 60
    lengths = np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.08), 1)
    graph = csr_matrix(lengths + lengths.T)
    mark = np.full(n, -1, np.int32)
    marked = rng.permutation(n)[:9]
    mark[marked] = np.arange(9)
    sources, offsets = np.array([3, 11, 3]), np.array([0.2, 0.05, 0.4])
    expected = np.minimum(dijkstra(graph, indices=3) + 0.2, dijkstra(graph, indices=11) + 0.05)[marked]
    labels, distances = nearest_marked(graph.indptr, graph.indices, graph.data, sources, offsets, mark, 20)
    reached = np.isfinite(expected)
    np.testing.assert_allclose(distances, np.sort(expected[reached]))
    np.testing.assert_allclose(expected[labels], distances)
    few, _ = nearest_marked(graph.indptr, graph.indices, graph.data, sources, offsets, mark, 3)
    assert few.tolist() == labels[:3].tolist()


def test_the_plane_keeps_the_most_variance_and_does_not_flip() -> None:
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 0.1, 2.0, 0.1, 0.1])
    plane = principal_plane(points)
    assert plane.axes.abs().argmax(0).tolist() == [0, 2]
    assert (plane.axes.amax(0) > 0.9).all()
    assert sum(plane.shares) == pytest.approx(1, abs=0.01)
    flat = principal_plane(points[:, :1])
    assert flat(points[:, :1]).shape == (200, 2)


def test_what_a_run_lacks_is_said_with_the_command_that_builds_it(run: ExploredRun) -> None:
    lacking = ExploredRun(run.context, {k: v for k, v in run.inputs.items() if k not in ("graph", "prior")}, "x", "y")
    assert run.missing("graph") is None
    assert "quantizer=geodesic" in str(lacking.missing("graph"))
    assert "python src/train.py data=digits vae=spatial quantizer=geodesic transformer=small" in str(
        lacking.missing("prior")
    )
    assert lacking.no_single_codes == lacking.missing("prior")
    assert lacking.medoid_nodes is None


def test_a_token_view_needs_no_graph_or_codes_of_training_images(run: ExploredRun) -> None:
    lacking = ExploredRun(run.context, {k: v for k, v in run.inputs.items() if k != "graph"}, "x", "y")
    rules = TokenView(lacking.split("test"), TOKEN).cheapest(3)
    assert "own" not in {near.title.partition(":")[0] for near in rules}
    split = lacking.split("train")
    split.__dict__["raw_codes"] = split.__dict__["codes"] = None
    assert len(TokenView(split, TOKEN).cheapest(3)) == 3
    assert TokenView(split, TOKEN).code is None
    assert split.shown_errors is None
