"""Squared graph geodesics between tokens and the codewords they were assigned to, for any codebook.

Codewords need not be nodes of the graph, nor do the tokens: both are attached to a few nodes by edges, and
the distance is

    d(token, codeword) = min over attached nodes i of the token and j of the codeword
                         of  length(token, i) + d_graph(i, j) + length(j, codeword).

All codewords become extra rows of the sparse matrix, with edges that lead from them into the graph only:
paths leave a codeword but never run through another one, and one run of Dijkstra's algorithm per codeword
serves its whole cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from geovq.errors import InputError
from geovq.evaluation import needs
from geovq.evaluation.codebook import check_assignment
from geovq.evaluation.evaluator import LOWER, NEITHER, Measured, Score, evaluator
from geovq.progress import track

if TYPE_CHECKING:
    from geovq.geometry.graph import TokenGraph
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun


# What "auto" lets Dijkstra's algorithm walk at most over all codewords, where that is not too few of them: ten seconds.
_EDGES_WALKED, _FEWEST_CELLS = 1_000_000_000, 32


class CellDraw(NamedTuple):
    """Which cells of a codebook are measured, and how often each counts."""

    codewords: np.ndarray
    """(m,) distinct codewords, rising."""
    times: np.ndarray
    """(m,) how often each was drawn; its number of tokens when all cells are measured."""
    is_exact: bool


def geodesic_distortion(
    graph: TokenGraph,
    codewords: Tensor,
    codes: Tensor,
    tokens: Tensor,
    token_metrics: Tensor | None,
    n_codewords: int | Literal["auto", "all"] = "auto",
    seed: int = 0,
    k: int | None = None,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Mean squared graph geodesic between tokens and the codewords they were assigned to.

    Exact over the given tokens when all cells are measured; else estimated without bias from cells drawn in
    proportion to their size (``draw_cells``). One run of Dijkstra's algorithm per distinct codeword: about 1.5 s
    where it must see a million nodes, a few times less where cells are small.

    Args:
        graph: of the training tokens, its components joined.
        codewords: (K, d), of any codebook.
        codes: T integers in [0, K), in any shape.
        tokens: (T, d) tokens, row-major over (image, row, column); held out or nodes of the graph.
        token_metrics: (T, d(d+1)/2) packed metrics of the tokens, or ``None`` for a graph with Euclidean
            lengths.
        n_codewords: draws, at least 2; with K or more all cells are measured. ``"all"``: K. ``"auto"``: all
            where that takes some ten seconds at most, else as many as do, but no fewer than 32.
        seed: of the draws.
        k: nodes that each codeword and each token is attached to; by default the graph's own k.
        device: where these nodes are searched; paths are walked on the CPU.

    Returns:
        ``distortion_geodesic_pixel2``, or ``distortion_geodesic_latent2`` on a graph with Euclidean lengths;
        the same with ``_standard_error``, of the sampling of cells, 0 when exact; and
        ``distortion_geodesic_codewords``, the number of distinct codewords measured.

    Raises:
        InputError: shapes or codes that do not fit together, or a token that no path connects with its
            codeword.
    """

    flat = check_assignment(tokens, codewords, codes).numpy()
    if token_metrics is not None and len(token_metrics) != len(tokens):
        raise InputError(f"{len(token_metrics)} metrics for {len(tokens)} tokens: each token needs its own")
    n_sampled = n_cells(n_codewords, len(codewords), graph.adjacency.nnz)
    draw = draw_cells(flat, len(codewords), n_sampled, seed)
    place = np.full(len(codewords), -1)
    place[draw.codewords] = np.arange(len(draw.codewords))
    member = np.flatnonzero(place[flat] >= 0)
    sources = place[flat[member]]

    # a codeword has no image of its own, hence no metric: its edges take the lengths that the nodes see
    source_nodes, source_lengths = graph.attach(codewords.float().cpu()[draw.codewords], None, k, device)
    metrics = None if token_metrics is None else token_metrics[member].cpu()
    token_nodes, token_lengths = graph.attach(tokens[member].float().cpu(), metrics, k, device)
    squared = squared_geodesics(graph.adjacency, source_nodes, source_lengths, token_nodes, token_lengths, sources)
    if not np.isfinite(squared).all():
        count = int((~np.isfinite(squared)).sum())
        raise InputError(
            f"no path connects {count} tokens with their codewords: join the components of the graph first"
        )

    cell_means = np.bincount(sources, weights=squared) / np.bincount(sources)
    mean = float(np.average(cell_means, weights=draw.times))
    error = 0.0
    if not draw.is_exact:
        error = float(np.repeat(cell_means, draw.times).std(ddof=1) / np.sqrt(n_sampled))
    name = f"distortion_geodesic_{graph.unit}2"
    return {
        name: mean,
        f"{name}_standard_error": error,
        "distortion_geodesic_codewords": float(len(draw.codewords)),
    }


def n_cells(wanted: int | Literal["auto", "all"], n_codes: int, n_edges: int) -> int:
    """How many cells to measure of K, on a graph with so many stored edges; K or more stands for all.

    Raises:
        InputError: fewer than two are wanted.
    """
    if wanted == "all":
        return n_codes
    if wanted == "auto":
        return max(_FEWEST_CELLS, _EDGES_WALKED // n_edges)
    if wanted < 2:
        raise InputError(f"n_codewords={wanted}: a standard error needs at least 2")
    return wanted


def draw_cells(codes: np.ndarray, n_codes: int, n_sampled: int, seed: int) -> CellDraw:
    """All cells of the codes (T,) when K = ``n_codes`` is at most ``n_sampled``; else so many draws from ``seed``, with
    replacement, in proportion to their size.

    Drawn so, the plain mean of the drawn cells' means is an unbiased estimate of the mean over tokens (Hansen
    and Hurwitz 1943).
    """
    counts = np.bincount(codes, minlength=n_codes)
    if n_codes <= n_sampled:
        codewords = np.flatnonzero(counts)
        return CellDraw(codewords, counts[codewords], True)
    drawn = np.random.default_rng(seed).choice(n_codes, size=n_sampled, p=counts / counts.sum())
    codewords, times = np.unique(drawn, return_counts=True)
    return CellDraw(codewords, times, False)


def squared_geodesics(
    adjacency: csr_matrix,
    source_nodes: np.ndarray,
    source_lengths: np.ndarray,
    token_nodes: np.ndarray,
    token_lengths: np.ndarray,
    token_sources: np.ndarray,
) -> np.ndarray:
    """Squared geodesic from each token to its source, both attached to nodes of the graph.

    Needs one copy of the graph, in float64.

    Args:
        adjacency: (M, M) symmetric edge lengths.
        source_nodes: (S, k) nodes that each source is attached to.
        source_lengths: (S, k) lengths of these edges; may be 0.
        token_nodes: (T, k) the same for the tokens.
        token_lengths: (T, k).
        token_sources: (T,) index in [0, S) of the source that each token belongs to.

    Returns:
        (T,) float64, in the squared unit of the lengths; infinite where no path leads.
    """
    n_nodes, n_sources = adjacency.shape[0], len(source_nodes)
    graph = _with_sources(adjacency, source_nodes, source_lengths)
    order = np.argsort(token_sources, kind="stable")
    bounds = np.searchsorted(token_sources[order], np.arange(n_sources + 1))
    squared = np.empty(len(token_sources), dtype=np.float64)
    # a cell is a small part of the graph: search as far as earlier cells needed, everywhere if that fails
    limit, farthest = np.inf, 0.0
    for source in track(range(n_sources), "geodesic distortion", n_sources):
        cell = order[bounds[source] : bounds[source + 1]]
        if len(cell) == 0:
            continue
        for radius in (limit, np.inf):
            distance = dijkstra(graph, directed=True, indices=n_nodes + source, limit=radius)  # (M + S,)
            found = np.min(distance[token_nodes[cell]] + token_lengths[cell], axis=1)
            # nodes beyond the radius came back infinite: they could only give more than the radius
            if found.max() <= radius:
                break
        squared[cell] = found**2
        farthest = max(farthest, float(found.max()))
        limit = 1.25 * farthest
    return squared


def _with_sources(adjacency: csr_matrix, nodes: np.ndarray, lengths: np.ndarray) -> csr_matrix:
    """The graph with one more row per source; edges of length 0 stay edges, as stored zeros."""
    n_nodes, n_sources, k = adjacency.shape[0], len(nodes), nodes.shape[1]
    rows_end = adjacency.indptr[-1] + k * np.arange(1, n_sources + 1, dtype=np.int64)
    # scipy wants both index arrays of one type; 32 bits hold them for any graph that fits in memory here
    index_type = np.int32 if rows_end[-1] <= np.iinfo(np.int32).max else np.int64
    graph = csr_matrix((n_nodes + n_sources, n_nodes + n_sources), dtype=np.float64)
    graph.data = np.concatenate([adjacency.data, lengths.ravel()], dtype=np.float64)
    graph.indices = np.concatenate([adjacency.indices, nodes.ravel()], dtype=index_type)
    graph.indptr = np.concatenate([adjacency.indptr, rows_end], dtype=index_type)
    return graph


def _graph(run: EvaluatedRun) -> str | None:
    """the graph (`evaluation.geodesic_codewords`)"""
    return run.why_no_graph


def _whole_codewords(run: EvaluatedRun) -> str | None:
    """tokens of at most 65,536 values, which no neighbours move"""
    if run.codec.sees_neighbours:
        return "what a code stands for depends on the codes before it, so there are no cells of codewords"
    few = run.codec.whole_codewords() is not None
    return None if few else "tokens take too many values to measure paths to each"


@evaluator(
    Score(
        *("distortion_geodesic_<unit>2", "geodesic distortion", "<unit>²", LOWER, ".4g"),
        "squared geodesic on the graph between training tokens, mean over test tokens",
    ),
    Score(
        *("distortion_geodesic_<unit>2_standard_error", "its standard error", "<unit>²", NEITHER, ".4g"),
        "of the sampling of cells; 0 where all are measured",
    ),
    Score("distortion_geodesic_codewords", "cells measured", form=".0f", description="of distinct codewords"),
    needs=[needs.points, _graph, _whole_codewords],
)
def geodesic(run: EvaluatedRun) -> Measured:
    """Squared geodesics on the graph that codebooks are fitted on"""
    codewords = run.codec.whole_codewords()
    assert codewords is not None
    own = run.unit == "pixel" and run.config.geo.context == "own"
    found = geodesic_distortion(
        run.graph,
        codewords,
        run.codec.streams(run.codes)[0][0].reshape(-1),
        run.tokens,
        run.metric_tensors if own else None,
        n_codewords=run.config.evaluation.geodesic_codewords,
        seed=run.config.evaluation.seed,
        device=run.device,
    )
    return Measured(found)
