"""Shortest paths from the nodes clicked last, found beside what goes on: the next click need not wait for a search."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np
from scipy.sparse import csr_matrix

from geovq.geometry.paths import nearest_sources, path_from_source, shortest_path

_KEPT = 4
"""Trees, of 4 bytes per node each."""


class KnownPaths:
    """Shortest paths of a graph, at once from nodes that were prepared."""

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
