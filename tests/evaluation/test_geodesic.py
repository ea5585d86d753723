import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from geovq.errors import InputError
from geovq.evaluation.geodesic import draw_cells, geodesic_distortion, n_cells, squared_geodesics
from geovq.geometry.graph import build_graph


def shortest_by_floyd_warshall(adjacency):
    """All pairs, from a dense matrix in which infinity means no edge."""
    distance = np.full(adjacency.shape, np.inf)
    rows, columns = adjacency.nonzero()
    distance[rows, columns] = np.asarray(adjacency[rows, columns]).ravel()
    np.fill_diagonal(distance, 0)
    for middle in range(len(distance)):
        distance = np.minimum(distance, distance[:, middle, None] + distance[None, middle])
    return distance


def brute_force(adjacency, source_nodes, source_lengths, token_nodes, token_lengths, sources):
    """Every way out of the token times every way into the codeword."""
    between = shortest_by_floyd_warshall(adjacency)
    squared = []
    for nodes, lengths, source in zip(token_nodes, token_lengths, sources, strict=True):
        squared.append(
            min(
                a + between[i, j] + b
                for i, a in zip(nodes, lengths, strict=True)
                for j, b in zip(source_nodes[source], source_lengths[source], strict=True)
            )
            ** 2
        )
    return np.array(squared)


def metrics_for(n, d, generator):
    jacobians = torch.randn(n, 6, d, generator=generator)
    rows, columns = torch.triu_indices(d, d)
    return (jacobians.transpose(1, 2) @ jacobians)[:, rows, columns]


@pytest.fixture(scope="module")
def setting():
    """A metric graph of 80 tokens, a codebook off the graph, 60 other tokens, their codes and metrics."""
    generator = torch.Generator().manual_seed(0)
    graph = build_graph(torch.randn(80, 3, generator=generator), metrics_for(80, 3, generator), k=4, recall=1.0)
    codewords = torch.randn(7, 3, generator=generator)
    tokens = torch.randn(60, 3, generator=generator)
    codes = torch.randint(7, (60,), generator=generator)
    return graph, codewords, codes, tokens, metrics_for(60, 3, generator)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), n_sources=st.integers(1, 5), k=st.integers(1, 3))
def test_core_equals_brute_force(seed, n_sources, k):
    random = np.random.default_rng(seed)
    dense = random.uniform(0.1, 2, (15, 15)) * (random.uniform(size=(15, 15)) < 0.2)
    adjacency = csr_matrix(np.maximum(dense, dense.T), dtype=np.float32)
    source_nodes, token_nodes = random.integers(15, size=(n_sources, k)), random.integers(15, size=(12, k))
    # zero lengths: points that are nodes
    source_lengths = random.uniform(0, 1, (n_sources, k)) * random.integers(0, 2, (n_sources, k))
    token_lengths = random.uniform(0, 1, (12, k))
    sources = random.integers(n_sources, size=12)
    arguments = (adjacency, source_nodes, source_lengths, token_nodes, token_lengths, sources)
    np.testing.assert_allclose(squared_geodesics(*arguments), brute_force(*arguments), rtol=1e-5)


def test_exact_distortion_equals_brute_force(setting):
    graph, codewords, codes, tokens, metrics = setting
    result = geodesic_distortion(graph, codewords, codes.view(5, 4, 3), tokens, metrics, n_codewords="all")
    sources, lengths = graph.attach(codewords, None, graph.k)
    expected = brute_force(graph.adjacency, sources, lengths, *graph.attach(tokens, metrics, graph.k), codes.numpy())
    assert result["distortion_geodesic_pixel2"] == pytest.approx(expected.mean(), rel=1e-5)
    assert result["distortion_geodesic_pixel2_standard_error"] == 0
    assert result["distortion_geodesic_codewords"] == len(codes.unique())


def test_sampled_distortion_is_unbiased_and_knows_its_error(setting):
    graph, codewords, codes, tokens, metrics = setting
    exact = geodesic_distortion(graph, codewords, codes, tokens, metrics)["distortion_geodesic_pixel2"]
    draws = [
        geodesic_distortion(graph, codewords, codes, tokens, metrics, n_codewords=4, seed=seed) for seed in range(300)
    ]
    values = np.array([draw["distortion_geodesic_pixel2"] for draw in draws])
    errors = np.array([draw["distortion_geodesic_pixel2_standard_error"] for draw in draws])
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(len(values))
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.15)
    assert max(draw["distortion_geodesic_codewords"] for draw in draws) <= 4


def test_codewords_and_tokens_that_are_nodes_get_the_graphs_own_distance(setting):
    graph = setting[0]
    between = shortest_by_floyd_warshall(graph.adjacency)
    nodes = torch.from_numpy(graph.nodes)
    codes = torch.arange(80) % 3
    result = geodesic_distortion(graph, nodes[:3], codes, nodes, torch.from_numpy(graph.node_metrics))
    expected = np.mean(between[np.arange(80), codes.numpy()] ** 2)
    assert result["distortion_geodesic_pixel2"] == pytest.approx(expected, rel=1e-5)


def test_never_below_the_straight_line_in_a_euclidean_graph():
    generator = torch.Generator().manual_seed(1)
    graph = build_graph(torch.randn(100, 2, generator=generator), k=5, recall=1.0)
    codewords, tokens = torch.randn(4, 2, generator=generator), torch.randn(40, 2, generator=generator)
    codes = torch.arange(40) % 4
    result = geodesic_distortion(graph, codewords, codes, tokens, None)
    straight = float((tokens - codewords[codes]).square().sum(1).mean())
    assert result["distortion_geodesic_latent2"] >= straight
    assert "distortion_geodesic_pixel2" not in result


def test_order_of_tokens_does_not_matter(setting):
    graph, codewords, codes, tokens, metrics = setting
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    first = geodesic_distortion(graph, codewords, codes, tokens, metrics)
    assert geodesic_distortion(graph, codewords, codes[order], tokens[order], metrics[order]) == pytest.approx(first)


def test_cells_are_drawn_in_proportion():
    codes = np.repeat([0, 2, 3], [10, 30, 60])
    times = np.zeros(5)
    for seed in range(400):
        draw = draw_cells(codes, 5, 4, seed)
        assert not draw.is_exact
        assert draw.times.sum() == 4
        times[draw.codewords] += draw.times
    np.testing.assert_allclose(times / times.sum(), [0.1, 0, 0.3, 0.6, 0], atol=0.04)
    everything = draw_cells(codes, 5, 5, 0)
    assert everything.is_exact
    assert everything.codewords.tolist() == [0, 2, 3]
    assert everything.times.tolist() == [10, 30, 60]


def test_drawn_cells_are_unbiased_and_know_their_error_where_cells_differ_most():
    random = np.random.default_rng(0)
    share = random.pareto(1.0, 64) + 0.05  # a few cells hold most tokens, and some hold none
    codes = random.choice(64, size=400, p=share / share.sum())
    costs = random.pareto(2.5, 64)[codes] * random.exponential(size=400)  # and a few cells most of the distortion
    cell_means = np.bincount(codes, costs, 64) / np.maximum(np.bincount(codes, minlength=64), 1)
    values, errors = [], []
    for seed in range(4000):
        draw = draw_cells(codes, 64, 16, seed)
        drawn = np.repeat(cell_means[draw.codewords], draw.times)
        values.append(np.average(cell_means[draw.codewords], weights=draw.times))
        errors.append(drawn.std(ddof=1) / np.sqrt(16))
    assert np.mean(values) == pytest.approx(costs.mean(), abs=4 * np.std(values) / np.sqrt(4000))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.05)


def test_all_cells_are_measured_where_that_takes_seconds():
    assert n_cells("all", 512, 10**9) == 512
    assert n_cells("auto", 512, 565_516) >= 512  # digits
    assert 32 <= n_cells("auto", 512, 26_000_000) < 512  # Fashion-MNIST
    assert n_cells("auto", 512, 10**9) == 32
    assert n_cells(40, 512, 10**9) == 40


def test_refuses(setting):
    graph, codewords, codes, tokens, metrics = setting
    with pytest.raises(InputError, match="-1"):
        geodesic_distortion(graph, codewords, codes - 1, tokens, metrics)
    with pytest.raises(InputError, match="59 codes"):
        geodesic_distortion(graph, codewords, codes[1:], tokens, metrics)
    with pytest.raises(InputError, match="n_codewords=1"):
        geodesic_distortion(graph, codewords, codes, tokens, metrics, n_codewords=1)
    with pytest.raises(InputError, match="metrics"):
        geodesic_distortion(graph, codewords, codes, tokens, metrics[1:])
