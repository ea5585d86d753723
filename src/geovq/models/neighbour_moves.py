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
        entries, features, vectors = self.entries(table), self.begun(len(codes)), []
        for token in range(codes.shape[1]):
            here = codes[:, token]
            move = torch.einsum("nj,jrn->nr", self.at(features, token), self.moves[:, :, here])
            vectors.append(table[here] + move @ self.back)
            features = self.told(features, token, entries[here] + move)
        return torch.stack(vectors, 1)

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
        table, moves = entries.T.reshape(1, -1), self.moves.flatten(1)
        features = self.begun(n)[:, None]  # (N, b, T, width)
        total = points.new_zeros(n, 1)
        codes, found = torch.empty(n, 1, 0, dtype=torch.int64, device=points.device), points.new_empty(n, 1, 0, r)
        image = torch.arange(n, device=points.device)[:, None]
        for token in range(n_tokens):
            kept = features.shape[1]
            given = self.at(features.flatten(0, 1), token)
            values = torch.addmm(table, given, moves).view(n, kept, r, n_codes)
            errors = (values - points[:, token, None, :, None]).transpose(1, 2).flatten(2)  # (N, r, b·K)
            costs = (metrics[:, token] @ errors).mul_(errors).sum(1) + total.repeat_interleave(n_codes, 1)
            total, best = costs.topk(min(beam, costs.shape[1]), largest=False)  # (N, b')
            parent, code = best // n_codes, best % n_codes
            value = values[image, parent, :, code]
            codes = torch.cat([codes[image, parent], code[..., None]], 2)
            found = torch.cat([found[image, parent], value[:, :, None]], 2)
            features = features[image, parent] if beam > 1 else features
            features = self.told(features.flatten(0, 1), token, value.flatten(0, 1)).view(n, -1, *features.shape[2:])
        return codes[:, 0], found[:, 0]

    def images_at_once(self, beam: int = 1) -> int:
        """Images whose moved codewords exist at a time."""
        return max(1, min(256, _BLOCK // (beam * self.shape[1] * self.shape[2])))

    def begun(self, n: int) -> Tensor:
        """Features (N, T, width) of tokens that have seen nothing yet."""
        return self.place.expand(n, -1, -1)

    def told(self, features: Tensor, token: int, points: Tensor) -> Tensor:
        """The features (N, T, width) after all later tokens have seen the coordinates (N, r) of one."""
        later = self.seen[token, :, token + 1 :]  # (r, T - t - 1, width)
        seen = ((points / self.scale) @ later.flatten(1)).view(len(points), *later.shape[1:])
        return torch.cat([features[:, : token + 1], features[:, token + 1 :] + seen], 1)

    def at(self, features: Tensor, token: int) -> Tensor:
        """Coefficients (N, J) of a token that has seen all before it."""
        return self._head(features[:, token])

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
