"""Rules for edge lengths against finely integrated segments and explicit decoding."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from curved_decoder import CurvedDecoder, random_latents
from geovq.errors import InputError
from geovq.geometry import lengths
from geovq.geometry.edges import DecodedEdges
from geovq.geometry.graph import build_graph
from geovq.geometry.lengths import edge_lengths, row_local_lengths
from geovq.geometry.metric import token_metrics
from geovq.models.tokens import tokens_of
from surfaces import Flat, Sphere, SwissRoll
from surfaces_of_revolution import Bell


def integrated(decoded, tokens, starts, ends, n_steps=400):
    """Length of straight latent segments under the decoder, by the midpoint rule."""
    delta = ends - starts
    total = np.zeros(len(tokens))
    for step in range(n_steps):
        total += decoded.speeds(tokens, (starts + (step + 0.5) / n_steps * delta).astype(np.float32), delta)
    return total / n_steps


@pytest.mark.parametrize("manifold", [Sphere(), SwissRoll(), Bell()], ids=lambda m: type(m).__name__)
def test_simpson_is_nearer_to_the_segment_s_length_than_trapezoid(manifold):
    points = manifold.sample(150, seed=0).float()
    metrics, decoded = manifold.metric(points), DecodedEdges(manifold)
    graphs = {
        "trapezoid": build_graph(points, metrics, k=5),
        "simpson": build_graph(points, metrics, k=5, length="simpson", decoded=decoded),
        "chord": build_graph(points, metrics, k=5, length="chord", decoded=decoded),
    }
    rows, columns = graphs["simpson"].adjacency.nonzero()
    nodes = points.numpy()
    truth = integrated(decoded, rows, nodes[rows], nodes[columns])
    found = {rule: np.asarray(graph.adjacency[rows, columns]).reshape(-1) for rule, graph in graphs.items()}
    error = {rule: np.abs(found[rule] / truth - 1) for rule in found}
    assert error["simpson"].mean() < 0.1 * error["trapezoid"].mean()
    assert error["simpson"].max() < error["trapezoid"].max()
    assert (found["chord"] <= truth * (1 + 1e-4)).all()
    assert (found["chord"] < truth * (1 - 1e-3)).any()
    images = manifold.embed(points).numpy()
    assert np.allclose(found["chord"], np.linalg.norm(images[rows] - images[columns], axis=1), rtol=1e-3)
    for graph in graphs.values():
        assert (graph.adjacency != graph.adjacency.T).nnz == 0
        assert graph.unit == "pixel"


def test_without_metrics_simpson_asks_the_decoder_for_the_ends_too():
    sphere = Sphere()
    points = sphere.sample(80, seed=1).float()
    decoded = DecodedEdges(sphere)
    measured = build_graph(points, sphere.metric(points), k=4, length="simpson", decoded=decoded)
    asked = build_graph(points, k=4, length="simpson", decoded=decoded)
    assert np.allclose(measured.adjacency.toarray(), asked.adjacency.toarray(), rtol=1e-5)
    assert (asked.unit, asked.node_metrics) == ("pixel", None)


def test_all_rules_agree_where_nothing_is_curved():
    flat = Flat(np.array([[2.0, 0.0], [0.0, 0.5], [1.0, 1.0]]))
    points = flat.sample(60, seed=0).float()
    metrics, decoded = flat.metric(points), DecodedEdges(flat)
    expected = build_graph(points, metrics, k=4).adjacency
    for rule in ("simpson", "chord"):
        graph = build_graph(points, metrics, k=4, length=rule, decoded=decoded)
        assert np.allclose(graph.adjacency.toarray(), expected.toarray(), rtol=1e-4)


def test_tokens_are_measured_in_their_own_images_from_both_ends():
    z = random_latents(8)
    z[5] = z[2]  # duplicates: the first token stands for the node
    tokens, decoder = tokens_of(z), CurvedDecoder()
    metrics, decoded = token_metrics(decoder, z, "exact"), DecodedEdges(decoder, z)
    decoded.batch_size = 7
    chord = build_graph(tokens, metrics, k=4, length="chord", decoded=decoded)
    simpson = build_graph(tokens, metrics, k=4, length="simpson", decoded=decoded)
    first = [chord.token_node.tolist().index(node) for node in range(chord.n_nodes)]
    rows, columns = chord.adjacency.nonzero()
    assert chord.n_nodes == 28
    for i, j in zip(rows[:40], columns[:40], strict=True):
        seen = []
        for here, there in ((i, j), (j, i)):
            token = first[here]
            image = z[token // 4].clone()[None]
            other = image.clone()
            other[0, :, token % 4 // 2, token % 2] = tokens[first[there]]
            seen.append(float((decoder(image) - decoder(other)).norm()))
        assert chord.adjacency[i, j] == pytest.approx(np.mean(seen), rel=1e-4)
    # Simpson and the integral in the mean over both contexts.
    nodes, first = chord.nodes, np.array(first)
    there = integrated(decoded, first[rows], nodes[rows], nodes[columns], n_steps=50)
    back = integrated(decoded, first[columns], nodes[columns], nodes[rows], n_steps=50)
    truth = (there + back) / 2
    trapezoid = build_graph(tokens, metrics, k=4)
    error = [
        np.abs(np.asarray(g.adjacency[rows, columns]).reshape(-1) / truth - 1).mean() for g in (simpson, trapezoid)
    ]
    assert error[0] < 0.5 * error[1]
    assert (np.asarray(chord.adjacency[rows, columns]).reshape(-1) <= truth * (1 + 1e-3)).all()


@pytest.mark.parametrize("rule", ["simpson", "chord"])
def test_permuting_tokens_permutes_decoded_lengths(rule):
    sphere = Sphere()
    points = sphere.sample(60, seed=2).float()
    order = np.random.default_rng(0).permutation(60)
    decoded = DecodedEdges(sphere)
    decoded.batch_size = 11
    graph = build_graph(points, k=4, length=rule, decoded=decoded)
    moved = build_graph(points[order], k=4, length=rule, decoded=decoded)
    assert np.allclose(moved.adjacency.toarray(), graph.adjacency.toarray()[np.ix_(order, order)], rtol=1e-4)


@pytest.mark.parametrize("d", [1, 3, 17])
def test_row_local_lengths_match_a_loop_and_the_device_s_route(d):
    rng = np.random.default_rng(d)
    nodes = rng.normal(size=(30, d)).astype(np.float32)
    factors = rng.normal(size=(30, d, 2))
    metrics = factors @ factors.transpose(0, 2, 1)
    rows, columns = np.triu_indices(d)
    packed = metrics[:, rows, columns].astype(np.float32)
    dense = rng.random((30, 30)) < 0.3
    dense[3] = dense[:, 3] = False  # a node without links
    pattern = csr_matrix(dense | dense.T)
    i, j = pattern.nonzero()
    delta = (nodes[j] - nodes[i]).astype(np.float64)
    expected = np.sqrt(np.einsum("ea,eab,eb->e", delta, metrics[i], delta))
    assert np.allclose(row_local_lengths(pattern, nodes, packed), expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(row_local_lengths(pattern, nodes, None), np.linalg.norm(delta, axis=1), rtol=1e-5)
    on_device = lengths._lengths_on_device(pattern, nodes, packed, torch.device("cpu"))
    assert np.allclose(on_device, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_row_local_lengths_on_cuda():
    rng = np.random.default_rng(0)
    graph = build_graph(rng.normal(size=(5_000, 8)), np.tile(np.eye(8)[np.triu_indices(8)], (5_000, 1)), k=10)
    here = row_local_lengths(graph.adjacency, graph.nodes, graph.node_metrics)
    there = row_local_lengths(graph.adjacency, graph.nodes, graph.node_metrics, "cuda")
    assert np.allclose(here, there, rtol=1e-5)


def test_bad_input_is_named():
    points = np.random.default_rng(3).normal(size=(20, 2)).astype(np.float32)
    graph, decoded = build_graph(points, k=3), DecodedEdges(Sphere())
    with pytest.raises(InputError, match="length is 'arc'"):
        build_graph(points, k=3, length="arc", decoded=decoded)
    with pytest.raises(InputError, match="length is 'chord', which asks the decoder"):
        build_graph(points, k=3, length="chord")
    with pytest.raises(InputError, match="decoded was given, but length is 'trapezoid'"):
        build_graph(points, k=3, decoded=decoded)
    with pytest.raises(InputError, match="every edge has length zero"):
        edge_lengths(graph.adjacency, graph.nodes, np.zeros((20, 3), dtype=np.float32))
    with pytest.raises(InputError, match="overflow float32"):
        edge_lengths(graph.adjacency, graph.nodes * 1e15, np.full((20, 3), 1e20, dtype=np.float32))
