"""Nearest sources on a GPU: relax all edges of the frontier at once until nothing changes.

Dijkstra's algorithm settles one node at a time, which suits a processor. Here every round offers the distances that
fell in the round before to all neighbours together (Bellman 1958; Ford 1956): O(rounds · frontier edges) work in
place of O(E log M), and rounds are few in a neighbour graph, where sources are a few dozen edges away.
"""

from __future__ import annotations

import numpy as np
import torch

from geovq.errors import InputError


def relaxed_labels(
    indptr: np.ndarray,
    indices: np.ndarray,
    lengths: np.ndarray,
    sources: np.ndarray,
    device: torch.device | str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What ``geovq.geometry.dijkstra.nearest_labels`` answers, computed on ``device``.

    Distances are the same sums in float64, so they agree to the last bit; where paths tie, labels may differ.

    Raises:
        InputError: lengths that are not positive.
    """
    n_nodes = len(indptr) - 1
    starts = torch.from_numpy(np.asarray(indptr, dtype=np.int64)).to(device)
    degrees = starts[1:] - starts[:-1]
    ends = torch.from_numpy(np.asarray(indices, dtype=np.int64)).to(device)
    length = torch.from_numpy(np.asarray(lengths, dtype=np.float64)).to(device)
    if len(length) and not bool((length > 0).all()):
        raise InputError("lengths hold zero or negative numbers; shortest paths need positive ones")
    places = torch.from_numpy(np.asarray(sources, dtype=np.int64)).to(device)
    distance = torch.full((n_nodes,), torch.inf, dtype=torch.float64, device=device)
    distance[places] = 0.0
    frontier = torch.unique(places)
    while len(frontier):
        edges, tails = _edges_of(frontier, starts, degrees)
        before = distance.clone()
        distance.scatter_reduce_(0, ends[edges], distance[tails] + length[edges], "amin")
        frontier = torch.nonzero(distance < before)[:, 0]
    label = torch.full((n_nodes,), -1, dtype=torch.int64, device=device)
    for_source = torch.arange(len(places), device=device)
    # Of equal nodes the first gives the label.
    firsts = torch.full((n_nodes,), len(places), dtype=torch.int64, device=device)
    firsts.scatter_reduce_(0, places, for_source, "amin")
    label[places] = firsts[places]
    predecessor = _predecessors(distance, starts, degrees, ends, length)
    # Every node asks its predecessor; the chain to the source halves in every round.
    ancestor = torch.where(predecessor < 0, torch.arange(n_nodes, device=device), predecessor)
    while True:
        further = ancestor[ancestor]
        if bool((further == ancestor).all()):
            break
        ancestor = further
    label = torch.where(torch.isfinite(distance), label[ancestor], -1)
    return (
        distance.cpu().numpy(),
        label.to(torch.int32).cpu().numpy(),
        predecessor.to(torch.int32).cpu().numpy(),
    )


def _edges_of(nodes: torch.Tensor, starts: torch.Tensor, degrees: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of all stored edges that leave ``nodes``, and the node each leaves."""
    degree = degrees[nodes]
    tails = nodes.repeat_interleave(degree)
    before = torch.cumsum(degree, 0) - degree
    within = torch.arange(len(tails), device=nodes.device) - before.repeat_interleave(degree)
    return starts[tails] + within, tails


def _predecessors(
    distance: torch.Tensor,
    starts: torch.Tensor,
    degrees: torch.Tensor,
    ends: torch.Tensor,
    length: torch.Tensor,
) -> torch.Tensor:
    """For every node the smallest neighbour whose offer is its distance; −1 for sources and unreached nodes."""
    n_nodes = len(distance)
    edges, tails = _edges_of(torch.arange(n_nodes, device=distance.device), starts, degrees)
    tight = torch.isfinite(distance[tails]) & (distance[tails] + length[edges] == distance[ends[edges]])
    best = torch.full((n_nodes,), n_nodes, dtype=torch.int64, device=distance.device)
    best.scatter_reduce_(0, ends[edges][tight], tails[tight], "amin")
    return torch.where((best == n_nodes) | (distance == 0), -1, best)
