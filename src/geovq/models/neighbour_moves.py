"""Codewords that know their neighbours: what a code stands for depends on the tokens decoded before it.

A token's vector is its table entry, moved by a network that sees the vectors of the tokens before it in the grid:

    q_t = c_{k_t} + f(k_t, q_1, …, q_{t-1}),        f(k, …) = Σ_j a_j(q_1, …, q_{t-1}) b_j[k],

after QINCo (Huijben et al. 2024, arXiv 2401.14732), where the tokens before stand for the steps before. The moves are
linear in ``J`` coefficients, which the network gives and all K codewords share, so that all K moved codewords are one
matrix product.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BLOCK = 1 << 22
"""Numbers of moved codewords that exist at a time."""


class NeighbourMoves(nn.Module):
    """The network and the moves ``b_j[k]``, in coordinates in which squared length is pixel error on average.

    Args:
        n_tokens: T, of an image, in the order of reading.
        n_codes: K.
        to: ``(d, r)`` from latents, less the origin, to coordinates.
        back: ``(r, d)`` from coordinates to latents.
        origin: ``(d,)`` latent of coordinates zero.
        scale: ``(r,)`` by which the network divides coordinates.
        width: of the hidden layers.
        layers: residual layers behind the first one.
        n_moves: J.
    """

    to_coordinates: Tensor
    back: Tensor
    origin: Tensor
    scale: Tensor
    earlier: Tensor

    def __init__(
        self,
        n_tokens: int,
        n_codes: int,
        to: Tensor,
        back: Tensor,
        origin: Tensor,
        scale: Tensor,
        width: int,
        layers: int,
        n_moves: int,
    ) -> None:
        super().__init__()
        r = to.shape[1]
        for name, value in (("to_coordinates", to), ("back", back), ("origin", origin), ("scale", scale)):
            self.register_buffer(name, value)
        # (T, 1, T, 1): whether a token (first) is seen by another (third).
        self.register_buffer("earlier", torch.ones(n_tokens, n_tokens).triu(1)[:, None, :, None], persistent=False)
        self.seen = nn.Parameter(0.5 / r**0.5 * torch.randn(n_tokens, r, n_tokens, width))
        self.place = nn.Parameter(0.3 * torch.randn(n_tokens, width))
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU("tanh"), nn.Linear(2 * width, width)
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_moves)
        nn.init.zeros_(self.head.weight)  # nothing moves until something is learnt
        nn.init.zeros_(self.head.bias)
        self.moves = nn.Parameter(torch.zeros(n_moves, r, n_codes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tokens of an image, coordinates of a token, codewords."""
        return self.seen.shape[0], self.seen.shape[1], self.moves.shape[2]

    def entries(self, table: Tensor) -> Tensor:
        """Coordinates (K, r) of table entries (K, d), or (N, r) of latents (N, d)."""
        return (table - self.origin) @ self.to_coordinates

    def coefficients(self, points: Tensor) -> Tensor:
        """``a`` (N, T, J) of every token, from the coordinates (N, T, r) of all: each sees those before it alone."""
        n, n_tokens = points.shape[:2]
        weights = (self.seen * self.earlier).flatten(2).flatten(0, 1)
        return self._head(((points / self.scale).flatten(1) @ weights).view(n, n_tokens, -1) + self.place)

    def moved(self, entries: Tensor, codes: Tensor, coefficients: Tensor) -> Tensor:
        """Coordinates (N, T, r) of codes (N, T) whose coefficients (N, T, J) are known; entries (K, r)."""
        rows = torch.cat([entries.T[None], self.moves]).permute(2, 0, 1)[codes]  # (N, T, 1 + J, r)
        return rows[:, :, 0] + (coefficients[:, :, None] @ rows[:, :, 1:])[:, :, 0]

    def embed(self, table: Tensor, codes: Tensor) -> Tensor:
        """Latents (N, T, d) of codes (N, T), token after token; table (K, d)."""
        entries, vectors = self.entries(table), []
        found = entries.new_empty(len(codes), 0, entries.shape[1])
        for here in codes.T:
            move = torch.einsum("nj,jrn->nr", self.following(found), self.moves[:, :, here])
            vectors.append(table[here] + move @ self.back)
            found = torch.cat([found, (entries[here] + move)[:, None]], 1)
        return torch.stack(vectors, 1)

    @torch.no_grad()
    def encode(self, entries: Tensor, points: Tensor, metrics: Tensor, beam: int = 1) -> tuple[Tensor, Tensor]:
        """Codes (N, T) and coordinates (N, T, r) of least cost found from the first token to the last.

        Every token tries all K codewords as they are moved there, and the ``beam`` beginnings of least cost
        ``Σ (y - q)ᵀM(y - q)`` go on; with one that is greedy.

        Args:
            entries: (K, r).
            points: (N, T, r) coordinates ``y`` of the tokens.
            metrics: (N, T, r, r) ``M``.
            beam: beginnings kept per image.
        """
        (n, n_tokens, r), n_codes = points.shape, len(entries)
        rows = torch.cat([self.moves.flatten(1), entries.T.reshape(1, -1)])  # (J + 1, r·K)
        # Large arrays are made once: to ask the system for memory takes longer than to fill it.
        errors, pulled = (points.new_empty(n * beam, r, n_codes) for _ in range(2))
        total = points.new_zeros(n, 1)  # (n, b)
        codes, found = torch.empty(n, 1, 0, dtype=torch.int64, device=points.device), points.new_empty(n, 1, 0, r)
        image = torch.arange(n, device=points.device)[:, None]
        for token in range(n_tokens):
            kept = total.shape[1]
            given = F.pad(self.following(found.flatten(0, 1)), (0, 1), value=1.0)  # (n·b, J + 1)
            here, there = (each[: n * kept] for each in (errors, pulled))
            goal = points[:, token].repeat_interleave(kept, 0)[..., None]
            torch.mm(given, rows, out=here.view(n * kept, -1))
            torch.bmm(metrics[:, token].repeat_interleave(kept, 0), here.sub_(goal), out=there)
            costs = there.mul_(here).sum(1).view(n, kept, n_codes) + total[..., None]
            total, best = costs.flatten(1).topk(min(beam, kept * n_codes), largest=False)  # (n, b')
            parent, code = best // n_codes, best % n_codes
            value = here[image * kept + parent, :, code] + points[:, token, None]
            codes = torch.cat([codes[image, parent], code[..., None]], 2)
            found = torch.cat([found[image, parent], value[:, :, None]], 2)
        return codes[:, 0], found[:, 0]

    def images_at_once(self, beam: int = 1) -> int:
        """Images whose moved codewords exist at a time."""
        return max(1, min(256, _BLOCK // (beam * self.shape[1] * self.shape[2])))

    def following(self, found: Tensor) -> Tensor:
        """Coefficients (N, J) of the token that follows those with coordinates (N, t, r)."""
        token = found.shape[1]
        weights = self.seen[:token, :, token].flatten(0, 1)
        return self._head((found / self.scale).flatten(1) @ weights + self.place[token])

    def _head(self, features: Tensor) -> Tensor:
        for layer in self.layers:
            features = features + layer(features)
        coefficients: Tensor = self.head(self.norm(features))
        return coefficients

    @classmethod
    def from_tensors(cls, named: Mapping[str, Tensor]) -> NeighbourMoves:
        """Undo ``state_dict``: in evaluation mode, without gradients."""
        n_tokens, _, _, width = named["seen"].shape
        n_moves, _, n_codes = named["moves"].shape
        layers = len({found[1] for name in named if (found := re.match(r"layers\.(\d+)\.", name))})
        maps = (named["to_coordinates"], named["back"], named["origin"], named["scale"])
        with torch.random.fork_rng(devices=[]):
            made = cls(n_tokens, n_codes, *maps, width, layers, n_moves)
        made.load_state_dict(dict(named))
        return made.eval().requires_grad_(False)
