"""A codebook whose codewords move with the tokens decoded before: what the neighbours tell is not coded again."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field
from math import cos, pi
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from geovq.configuration.fields import Count, Positive, Seed
from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array, check_metrics
from geovq.geometry.graph import TokenGraph
from geovq.geometry.symmetric import quadratic_form, unpack_symmetric
from geovq.models.codec import Codec, conditional_codec
from geovq.models.neighbour_moves import NeighbourMoves
from geovq.progress import progress
from geovq.quantizers.base import Checkpoints, Training, check_fitted
from geovq.quantizers.pullback import MetricCodebook, PullbackKMeans, shift_within

_LEAST_SHARE = 1e-4
"""Of the pixel error that tokens spread over: directions with less do not move."""
_MOVES = "moves."


@dataclass(eq=False, repr=False)
class ConditionalCodebook(MetricCodebook):
    """``Σ_i (z_i − q_i)ᵀ(G_i + ρI)(z_i − q_i)``, where ``q_i`` depends on the tokens before it in its image.

    ``q_i = c_k + f(k, q of the tokens before)``: a table entry moved by a network (``NeighbourMoves``). It starts as
    ``PullbackKMeans``, with ``f = 0``; then every step encodes some images from the first token to the last with the
    network as it is, holds these codes and what they decode to as the context, and goes down the gradient of the cost
    for table, moves and network. Without neighbours, or where that gains nothing, it stays ``PullbackKMeans``.
    ``cost_history_`` is the cost with ``f = 0`` and at the end; ``inertia_`` is in the unit of the metrics.

    Args:
        n_codes: K.
        grid: ``(h, w)`` of the tokens of an image; rows of ``fit`` and ``predict`` are whole images, token after token.
        ridge: ``ρ`` as a share of the mean eigenvalue of the mean metric; above 0.
        max_iter: passes of the k-means that it starts from.
        steps: gradient steps.
        batch_size: images per step.
        learning_rate: of Adam for the network; that of table and moves is a fifth of it.
        width: of the network's hidden layers.
        layers: of the network behind its first one.
        n_moves: J, moves of a codeword that are added up.
        beam: beginnings of an image kept while encoding; 1 is greedy.
        random_state: of seeding, initial weights and batches; the same number gives the same codebook.
        device: where it is fitted and tokens are assigned; the CPU by default.
    """

    rule: ClassVar[str] = (
        "from the first token of an image to the last, smallest (z-q)'G(z-q) over the codewords q as the tokens before "
        "move them, in the token's own metric, or in the mean metric where it has none"
    )
    needs_metrics: ClassVar[bool] = True
    sees_neighbours: ClassVar[bool] = True
    takes_checkpoints: ClassVar[bool] = True
    least_settings: ClassVar[Mapping[str, int]] = {
        **MetricCodebook.least_settings,
        **dict.fromkeys(("steps", "batch_size", "width", "n_moves"), 1),
    }

    moves_: NeighbourMoves = field(init=False)

    n_codes: int = 8
    _: KW_ONLY
    grid: tuple[int, int] = (1, 1)
    ridge: Positive = 1e-3
    max_iter: Count = 25
    steps: Count = 20_000
    batch_size: Count = 64
    learning_rate: Positive = 3e-3
    width: Count = 128
    layers: Annotated[int, Field(ge=0)] = 1
    n_moves: Count = 40
    beam: Count = 1
    random_state: Seed = 0
    device: str | None = None

    def _fit(self, given: Training) -> dict[str, Any]:
        self._images(len(given.points))
        start = PullbackKMeans(
            self.n_codes, ridge=self.ridge, max_iter=self.max_iter, random_state=self.random_state, device=self.device
        )
        packed = self._metrics_of(given)
        start.fit(given.points, metrics=packed, on_progress=given.on_progress)
        found = {name: getattr(start, name) for name in MetricCodebook.state_attributes}
        found["cost_history_"] = np.full(2, start.inertia_)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            moves = self._untrained(start, given.points)
        self.moves_, self.mean_metric_ = moves, start.mean_metric_
        if moves.shape[0] == 1:
            return found
        table = self._train(moves, start.cluster_centers_, given.points, packed, given.checkpoints)
        codes, vectors = self._encoded(given.points, packed, table)
        cost = self._cost(given.points - vectors, packed)
        if not cost < start.inertia_:
            moves.head.weight.data.zero_()
            moves.head.bias.data.zero_()
            return found
        if given.on_progress is not None:
            given.on_progress(start.n_iter_ + 1, cost)
        return found | {
            "cluster_centers_": table.numpy(),
            "labels_": codes.astype(np.int32),
            "cost_history_": np.array([start.inertia_, cost]),
        }

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 of whole images, by the tokens' own metrics where given, else by the mean metric."""
        points = self._check_tokens(tokens)
        self._images(len(points))
        packed = None if metrics is None else check_metrics(metrics, *points.shape)
        return self._encoded(points, packed, torch.from_numpy(self.cluster_centers_))[0].astype(np.int32)

    def decode(self, codes: Array) -> np.ndarray:
        """Latents ``(N, d)`` float32 of the codes ``(N,)`` of whole images.

        Raises:
            InputError: not fitted, another shape, no whole images, or a code that does not exist.
        """
        super().decode(codes)  # checks them
        n_images = self._images(len(as_array(codes)))
        whole = torch.from_numpy(as_array(codes).astype(np.int64)).view(n_images, -1)
        return self.moves_.embed(torch.from_numpy(self.cluster_centers_), whole).flatten(0, 1).numpy()

    def codec(self, grid: tuple[int, int]) -> Codec:
        """What turns grids of codes into grids of latents."""
        check_fitted(self)
        return conditional_codec(torch.from_numpy(self.cluster_centers_), self.moves_, grid)

    def get_state(self) -> dict[str, np.ndarray]:
        """As of every quantizer, with the tensors of the network as ``moves.<name>``."""
        return super().get_state() | {_MOVES + name: each.numpy() for name, each in self.moves_.state_dict().items()}

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray], graph: TokenGraph | None = None) -> Self:
        """The fitted quantizer; InputError where the state lacks a part."""
        quantizer = super().from_state(state, graph)
        named = {name.removeprefix(_MOVES): value for name, value in state.items() if name.startswith(_MOVES)}
        if "seen" not in named:
            raise InputError(f"the state of {cls.__name__} lacks its network; fit the codebook again")
        quantizer.grid = (quantizer.grid[0], quantizer.grid[1])
        quantizer.moves_ = NeighbourMoves.from_tensors({n: torch.from_numpy(each.copy()) for n, each in named.items()})
        return quantizer

    def _images(self, n_tokens: int) -> int:
        """How many images the tokens are; InputError unless they are whole."""
        size = self.grid[0] * self.grid[1]
        if n_tokens % size:
            raise InputError(f"{n_tokens} tokens are no whole images of {self.grid[0]} × {self.grid[1]} tokens")
        return n_tokens // size

    def _untrained(self, start: PullbackKMeans, points: np.ndarray) -> NeighbourMoves:
        """A network that moves nothing yet, and moves that are smooth in the codewords."""
        values, axes = np.linalg.eigh(start.mean_metric_)
        spread = values * ((points - start.origin_) @ axes).var(0)
        kept = spread >= _LEAST_SHARE * spread.sum()
        roots, axes = np.sqrt(values[kept]), axes[:, kept]
        to, back, origin, scale = (
            torch.from_numpy(each.astype(np.float32))
            for each in (axes * roots, (axes / roots).T, start.origin_, np.sqrt(np.maximum(spread[kept], 1e-12)))
        )
        n_tokens, sizes = self.grid[0] * self.grid[1], (self.width, self.layers, self.n_moves)
        moves = NeighbourMoves(n_tokens, self.n_codes, to, back, origin, scale, *sizes)
        entries = moves.entries(torch.from_numpy(start.cluster_centers_)) / scale
        moves.moves.data = smooth_moves(entries, self.n_moves) * scale[:, None]
        return moves.eval().requires_grad_(False)

    def _train(
        self,
        moves: NeighbourMoves,
        table: np.ndarray,
        points: np.ndarray,
        packed: Tensor,
        checkpoints: Checkpoints | None,
    ) -> Tensor:
        """Train the network in place; the table (K, d) that goes with it."""
        device = torch.device(self.device or "cpu")
        begun = torch.from_numpy(table)
        moves.to(device).requires_grad_(True)
        entries = nn.Parameter(moves.entries(begun.to(device)))
        first = entries.detach().clone()
        trained = nn.ParameterList([entries, *moves.parameters()])
        slow = [entries, moves.moves]
        fast = [each for each in moves.parameters() if each is not moves.moves]
        groups = [{"params": fast, "share": 1.0}, {"params": slow, "share": 0.2}]
        optimizer = torch.optim.Adam(groups, self.learning_rate, betas=(0.9, 0.98))
        tokens = torch.from_numpy(points).view(-1, moves.shape[0], points.shape[1])
        metrics = packed.view(*tokens.shape[:2], -1)
        done = 0 if checkpoints is None else checkpoints.restore(trained, optimizer)
        generator = torch.Generator().manual_seed(self.random_state)
        with progress("training the moves", self.steps, done) as advance, torch.enable_grad():
            for step in range(self.steps):
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * group["share"] * rate(step, self.steps)
                index = torch.randint(len(tokens), (self.batch_size,), generator=generator)
                if step < done:  # drawn all the same: what follows depends on how much was drawn before
                    continue
                y, metric = self._coordinates(moves, tokens[index], metrics[index])
                codes, context = moves.encode(entries, y, metric)
                error = moves.moved(entries, codes, moves.coefficients(context)) - y
                loss = (error[..., None, :] @ metric @ error[..., None]).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(fast, 0.5)
                optimizer.step()
                if checkpoints is not None:
                    checkpoints.keep(step + 1, trained, optimizer)
                advance()
        moves.cpu().requires_grad_(False)
        return begun + (entries.detach() - first).cpu() @ moves.back

    def _encoded(self, points: np.ndarray, packed: Tensor | None, table: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Codes (N,) and what they decode to (N, d); by the mean metric without metrics."""
        moves = deepcopy(self.moves_).to(torch.device(self.device or "cpu"))
        tokens = torch.from_numpy(points).view(-1, moves.shape[0], points.shape[1])
        metrics = None if packed is None else packed.view(*tokens.shape[:2], -1)
        codes, vectors = [], []
        step = moves.images_at_once(self.beam)
        entries = moves.entries(table.to(moves.origin))
        with progress("encoding tokens", len(tokens)) as advance:
            for start in range(0, len(tokens), step):
                part = slice(start, start + step)
                coordinates = self._coordinates(moves, tokens[part], None if metrics is None else metrics[part])
                found, _ = moves.encode(entries, *coordinates, self.beam)
                codes.append(found.cpu())
                vectors.append(self.moves_.embed(table, codes[-1]))
                advance(len(found))
        return torch.cat(codes).flatten().numpy(), torch.cat(vectors).flatten(0, 1).numpy()

    def _coordinates(self, moves: NeighbourMoves, tokens: Tensor, metrics: Tensor | None) -> tuple[Tensor, Tensor]:
        """Coordinates (N, T, r) and metrics (N, T, r, r) of tokens (N, T, d) with packed metrics (N, T, d(d+1)/2)."""
        device = moves.origin.device
        y = moves.entries(tokens.to(device))
        if metrics is None:
            return y, torch.eye(y.shape[-1], device=device).expand(*y.shape, -1)
        full = unpack_symmetric(metrics.to(device).float(), tokens.shape[2])
        ridge = shift_within(self.mean_metric_, self.ridge) * torch.eye(tokens.shape[2], device=device)
        return y, moves.back @ (full + ridge) @ moves.back.T

    def _cost(self, errors: np.ndarray, packed: Tensor) -> float:
        """``Σ eᵀ(G + ρI)e`` of errors (N, d)."""
        shift = shift_within(self.mean_metric_, self.ridge)
        squared = quadratic_form(packed.float().cpu(), errors).double().sum()
        return float(squared) + shift * float(np.square(errors, dtype=np.float64).sum())


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: up over the first fiftieth of the steps, then down along half a cosine."""
    return min(1.0, (step + 1) / max(1, steps // 50)) * (0.005 + 0.995 * (1 + cos(pi * step / steps)) / 2)


def smooth_moves(entries: Tensor, n_moves: int) -> Tensor:
    """Moves ``(J, r, K)`` to start from: affine in the entries ``(K, r)``, then random smooth functions of them."""
    n_codes, r = entries.shape
    generator = torch.Generator().manual_seed(0)
    found = [torch.eye(r)[:, :, None].expand(-1, -1, n_codes)]
    found.append((torch.eye(r)[:, None, :, None] * entries.T[None, :, None, :]).flatten(0, 1))
    n_random = max(0, n_moves - r - r * r)
    weights, shifts = torch.randn(n_random, r, generator=generator), torch.randn(n_random, 1, generator=generator)
    directions = torch.randn(n_random, r, generator=generator) / r**0.5
    found.append(directions[:, :, None] * torch.tanh(weights @ entries.T + shifts)[:, None])
    return torch.cat(found)[:n_moves].clone()
