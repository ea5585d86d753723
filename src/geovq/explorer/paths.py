"""From one token to another: straight, along the graph, and along a geodesic, decoded frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from geovq.errors import InputError
from geovq.geometry.curves import curve_length, in_context, path_images, refine_paths
from geovq.geometry.energy_descent import Decode
from geovq.geometry.paths import nearest_sources, path_from_source, shortest_path

if TYPE_CHECKING:
    from geovq.explorer.explored_run import SplitTokens

N_FRAMES = 13
_POINTS, _ITERATIONS = 33, 40
"""Of the refined curve: within a thousandth of the length of a longer descent on digits, and quick enough to click."""
_MEASURED = 17
"""Points that a way is measured by, at least, with one more in every gap."""
_KEPT = 4
"""Trees, of 4 bytes per node each."""


class KnownPaths:
    """Shortest paths of a graph, at once from the nodes prepared last, whose search goes on beside all else."""

    def __init__(self, adjacency: csr_matrix) -> None:
        self._adjacency, self._worker, self._lock = adjacency, ThreadPoolExecutor(1), Lock()
        self._trees: dict[int, Future[np.ndarray]] = {}

    def prepare(self, node: int) -> None:
        """Start to look for the shortest paths from a node to all others; returns at once."""
        with self._lock:
            known = self._trees.pop(node) if node in self._trees else self._worker.submit(self._tree, node)
            self._trees[node] = known
            for oldest in list(self._trees)[:-_KEPT]:
                self._trees.pop(oldest).cancel()

    def path(self, a: int, b: int) -> list[int]:
        """The nodes from ``a`` to ``b``, both included; searched for where those from ``a`` are not known yet.

        Raises:
            InputError: no path connects them.
        """
        tree = self._trees.get(a)
        if tree is not None and tree.done() and not tree.cancelled():
            return path_from_source(tree.result(), a, b)
        return shortest_path(self._adjacency, a, b)[0]

    def _tree(self, node: int) -> np.ndarray:
        return nearest_sources(self._adjacency, np.array([node])).predecessor


@dataclass(frozen=True)
class Way:
    """One way between two tokens.

    Attributes:
        name: of the way.
        length: in root-summed pixel error, what the decoded image travels.
        frames: (N_FRAMES, C, H, W) in [0, 1], evenly spaced along it.
        points: (P, d) latents along it.
    """

    name: str
    length: float
    frames: Tensor
    points: Tensor


@lru_cache(maxsize=8)
def ways(split: SplitTokens, first: int, second: int) -> tuple[Way, ...]:
    """Straight line and graph path between two tokens, decoded in the place of the first.

    The other tokens of the first one's image stay as they are. Without a graph its path is left out.

    Raises:
        InputError: the same token, or equal ones.
    """
    start, end = split.tokens[first], split.tokens[second]
    if bool((start == end).all()):
        raise InputError(f"tokens {first} and {second} are the same latent; click another one")
    decode, paths = _decoder(split, first), {"straight line": torch.stack([start, end])}
    if "graph" in split.run.inputs:
        paths["graph path"] = graph_path(split, first, second)
    return tuple(
        Way(name, float(curve_length(decode, _divided(path), 2)), path_images(decode, path, N_FRAMES), path)
        for name, path in paths.items()
    )


def geodesic(split: SplitTokens, first: int, found: Sequence[Way]) -> Way:
    """The shortest of some ways from a token, refined."""
    decode = _decoder(split, first)
    best = min(found, key=lambda way: way.length)
    refined = refine_paths(decode, [best.points], n_points=_POINTS, max_iter=_ITERATIONS)
    points = refined.points[0]
    return Way("geodesic", float(refined.lengths[0]), path_images(decode, points, N_FRAMES), points)


def expect(split: SplitTokens, token: int) -> None:
    """A path from this token will be asked for."""
    if "graph" in split.run.inputs:
        split.run.known_paths.prepare(_node(split, token))


@lru_cache(maxsize=64)
def _node(split: SplitTokens, token: int) -> int:
    """The token's node, or the one that it is attached to most shortly."""
    graph = split.run.graph
    if split.name == "train":
        return int(graph.token_node[token])
    nodes, lengths = graph.attach(split.tokens[token][None].numpy(), device=split.run.device)
    return int(nodes[0, lengths[0].argmin()])


def _divided(path: Tensor) -> Tensor:
    """A path (P, d), its segments divided until it has enough points: of few, bends go unmeasured."""
    parts = -(-(_MEASURED - 1) // (len(path) - 1))
    share = torch.arange(parts)[:, None] / parts
    return torch.cat([(path[:-1, None] + share * path.diff(dim=0)[:, None]).flatten(0, 1), path[-1:]])


def _decoder(split: SplitTokens, token: int) -> Decode:
    """Points (T, d) in the place of a token, decoded."""
    run, place = split.run, split.place(token)
    decoder, latent = split.latent_decoder(place.image), split.mean[place.image].to(run.device)
    inside = in_context(decoder, latent, place.row, place.col)
    return lambda points: inside(points.to(run.device)).float().cpu()


def graph_path(split: SplitTokens, first: int, second: int) -> Tensor:
    """(P, d) the tokens on the shortest path of the graph, both ends included.

    A token that is no node starts at the node that it is attached to most shortly.
    """
    ends = torch.stack([split.tokens[first], split.tokens[second]])
    nodes = split.run.known_paths.path(_node(split, first), _node(split, second))
    stops = torch.from_numpy(split.run.graph.nodes[nodes])
    whole = torch.cat([ends[:1], stops, ends[1:]])
    moved = (whole.diff(dim=0) != 0).any(1)
    return torch.cat([whole[:1], whole[1:][moved]])
