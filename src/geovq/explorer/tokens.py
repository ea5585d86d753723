"""One token: what is near it by three distances, how its surroundings decode, its links, what each rule chooses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geovq.explorer.explored_run import SplitTokens, jacobian
from geovq.explorer.projection import Plane
from geovq.geometry.computing import forward_mode
from geovq.geometry.curves import in_context
from geovq.geometry.paths import nearest_marked
from geovq.geometry.symmetric import pack_symmetric
from geovq.pipeline.stages.codes import encodes_with_metric_tensors

_DECODED_AT_ONCE = 64
"""Codewords whose decoded error is looked at: those of least cost in the metric of the token."""


@dataclass(frozen=True)
class Near:
    """Some tokens or codewords, nearest first: ``index`` (k,) and ``distance`` (k,) in the unit that ``title`` says."""

    title: str
    index: Tensor
    distance: Tensor


class TokenView:
    """A token of a split and what the decoder makes of its surroundings.

    Attributes:
        vector: (d,).
        jacobian: (P, d) of the decoded image with respect to the token, in its own image and position; exact.
    """

    def __init__(self, split: SplitTokens, token: int) -> None:
        self.split, self.run, self.token, self.place = split, split.run, token, split.place(token)
        latent, decoder = split.mean[self.place.image].to(self.run.device), split.latent_decoder(self.place.image)
        self.vector = split.tokens[token]
        decode = in_context(decoder, latent, self.place.row, self.place.col)
        self.jacobian = jacobian(decode, self.vector.to(self.run.device))

    @property
    def metric(self) -> Tensor:
        """(d, d) pull-back metric ``JᵀJ``."""
        return self.jacobian.T @ self.jacobian

    @property
    def code(self) -> int | None:
        """The whole code that the run gave it; None where it has none."""
        codes, place = self.split.codes, self.place
        return None if codes is None else int(codes[place.image, place.row, place.col])

    def neighbours(self, k: int, images: Tensor | None = None) -> list[Near]:
        """The k nearest other tokens of the split by latent, whitened and pull-back distance.

        ``images`` keeps those of some images alone.
        """
        allowed = None
        if images is not None:
            per_image = self.split.grid[0] * self.split.grid[1]
            allowed = (images[:, None] * per_image + torch.arange(per_image)).flatten()
        values, vectors = torch.linalg.eigh(self.metric.double())
        own = (vectors * values.clamp(min=0).sqrt()).T.float()  # ‖own·δ‖² = δᵀGδ
        rules = (("latent L2", None), ("whitened, pixel error", self.run.whitening), ("pull-back, pixel error", own))
        return [Near(title, *self._nearest(root, k, allowed)) for title, root in rules]

    def _nearest(self, root: Tensor | None, k: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        tokens = self.split.tokens if allowed is None else self.split.tokens[allowed]
        offset = tokens - self.vector
        distance = (offset if root is None else offset @ root.T).norm(dim=1)
        numbers = torch.arange(len(tokens)) if allowed is None else allowed
        distance[numbers == self.token] = torch.inf
        found = distance.topk(min(k, len(tokens)), largest=False)
        kept = found.values.isfinite()
        return numbers[found.indices][kept], found.values[kept]

    def ellipse(self, plane: Plane, radius: float, n_points: int = 73) -> Tensor:
        """(n, 2) where in the plane a move of the token changes its decoded image by ``radius`` in pixel error.

        The cut ``{v : vᵀ(AᵀGA)v = radius²}`` of the metric's ellipsoid with the plane's axes A, to first order.
        """
        inside = (plane.axes.T @ self.metric @ plane.axes).double()
        values, vectors = torch.linalg.eigh(inside)
        half_axes = radius / values.clamp(min=1e-12 * float(values.max()) + 1e-30).sqrt()
        angle = torch.linspace(0, 2 * torch.pi, n_points, dtype=torch.float64)
        circle = torch.stack([angle.cos(), angle.sin()])
        return (plane(self.vector[None]).double() + ((vectors * half_axes) @ circle).T).float()

    def links(self) -> tuple[Tensor, Tensor, Tensor]:
        """The training tokens that the graph links it to, with lengths in latent L2 and in pixel error, shortest first.

        Of a training token the edges of its node; of another the links by which it is attached to the graph. In a graph
        of latent lengths pixel error is measured by the metric of this token alone.
        """
        graph = self.run.graph
        nodes, lengths = self._attached()
        if self.split.name == "train":
            edges = slice(graph.adjacency.indptr[nodes[0]], graph.adjacency.indptr[nodes[0] + 1])
            nodes, lengths = graph.adjacency.indices[edges], graph.adjacency.data[edges]
        offset = torch.from_numpy(graph.nodes[nodes]) - self.vector
        latent = offset.norm(dim=1)
        pixel = torch.from_numpy(lengths) if graph.unit == "pixel" else (offset @ self.jacobian.T).norm(dim=1)
        order = pixel.argsort()
        return torch.from_numpy(self.run.node_token[nodes])[order], latent[order], pixel[order]

    def _attached(self) -> tuple[np.ndarray, np.ndarray]:
        """The nodes that it is attached to, (k,), and how far they are: of a training token its own, at 0.

        By its metric where the run's own rule takes that.
        """
        graph, config = self.run.graph, self.run.config
        if self.split.name == "train":
            return graph.token_node[self.token : self.token + 1], np.zeros(1)
        by_metric = config.reads_graph and encodes_with_metric_tensors(config)
        packed = pack_symmetric(self.metric[None]) if by_metric else None
        nodes, lengths = graph.attach(self.vector[None].numpy(), packed, device=self.run.device)
        return nodes[0], lengths[0]

    def cheapest(self, k: int) -> list[Near]:
        """The k codewords of least cost under each assignment rule; needs whole codes.

        ``sequential`` counts, to first order, the errors that the codes of the other tokens have made; ``search`` is
        the decoded error of the whole image with the other codes as they are, of the codewords best in the metric.
        """
        codewords = self.run.codewords
        assert codewords is not None
        offset = codewords - self.vector
        by_metric = (offset @ self.jacobian.T).norm(dim=1)
        rules = [
            ("euclidean: latent L2", offset.norm(dim=1)),
            ("whitened: pixel error on average", (offset @ self.run.whitening.T).norm(dim=1)),
            ("metric: pixel error, this token alone", by_metric),
        ]
        found = [Near(title, *_least(cost, k)) for title, cost in rules]
        if self.code is not None:
            others = self._error_of_others()
            sequential = (others + offset @ self.jacobian.T).norm(dim=1)
            found.append(Near("sequential: pixel error, with the others' errors", *_least(sequential, k)))
            tried = by_metric.topk(min(_DECODED_AT_ONCE, len(codewords)), largest=False).indices
            tried = torch.cat([tried, torch.tensor([self.code])]).unique()
            near = _least(self.decoded_errors(tried), k)
            found.append(Near("search: decoded pixel error", tried[near[0]], near[1]))
        if self.run.medoid_nodes is not None:
            found.insert(0, Near(f"own: shortest path, {self.run.unit}", *self._medoids(k)))
        return found

    def decoded(self, codes: Tensor) -> Tensor:
        """(n, C, H, W) what the image's codes decode to with each of some codes (n,) in this token's place."""
        assert self.split.codes is not None
        whole = self.split.codes[self.place.image].repeat(len(codes), 1, 1)
        whole[:, self.place.row, self.place.col] = codes
        latents = self.run.codec.embed(self.run.codec.split_codes(whole))
        return self.run.decoded(latents, self.split.classes_of(torch.tensor([self.place.image])))

    def decoded_errors(self, codes: Tensor) -> Tensor:
        """(n,) root-summed pixel error of these images."""
        original = self.split.data.images[self.place.image].float() / 255
        return (self.decoded(codes) - original).flatten(1).norm(dim=1)

    def _error_of_others(self) -> Tensor:
        """(P,) to first order, how the codes of the other tokens have changed the decoded image."""
        assert self.split.raw_codes is not None
        image, run = self.place.image, self.run
        mean = self.split.mean[image]
        error = run.codec.embed(self.split.raw_codes[image][None])[0] - mean
        error[:, self.place.row, self.place.col] = 0
        decoder, device = self.split.latent_decoder(image), run.device
        with forward_mode():
            change: Tensor = torch.func.jvp(
                lambda z: decoder(z[None])[0].flatten(), (mean.to(device),), (error.to(device),)
            )[1]
        return change.float().cpu()

    def _medoids(self, k: int) -> tuple[Tensor, Tensor]:
        """The medoids nearest along the graph."""
        graph, medoids = self.run.graph, self.run.medoid_nodes
        assert medoids is not None
        starts, offsets = self._attached()
        mark = np.full(graph.n_nodes, -1, np.int32)
        mark[medoids] = np.arange(len(medoids), dtype=np.int32)
        adjacency = graph.adjacency
        ends = starts.astype(np.int64), offsets.astype(np.float64)
        labels, distances = nearest_marked(adjacency.indptr, adjacency.indices, adjacency.data, *ends, mark, k)
        return torch.from_numpy(labels).long(), torch.from_numpy(distances)


def _least(cost: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = cost.topk(min(k, len(cost)), largest=False)
    return found.indices, found.values
