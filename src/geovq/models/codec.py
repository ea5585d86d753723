"""From codes back to latent grids: the one interface of all codebooks, flat, product, residual and two-level.

A token is the sum of one table row per code slot. A flat codebook has one slot; a residual one a slot per stage; a
product one a slot per block of dimensions, whose rows are zero elsewhere; finite scalars a slot per dimension. The rows
of a conditional one are moved by the tokens before (``NeighbourMoves``). Codes on two levels lie on a coarse and a fine
grid, whose vectors stand one above the other in the channels of the latent grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2, prod

import torch
from torch import Tensor
from torch.nn import functional as F

from geovq.errors import InputError
from geovq.models.neighbour_moves import NeighbourMoves
from geovq.models.sizes import JOINED_CODES


@dataclass(frozen=True, eq=False)
class CodeLevel:
    """The codes of one grid.

    Attributes:
        tables: ``(M, K, d)`` float32; slot m of a token adds ``tables[m, code]``. Rows from ``sizes[m]`` on are unused.
        sizes: how many codes each of the M slots has.
        grid: ``(h, w)``.
        moves: by which the tokens before a token move the rows of its one slot; None where a row is all there is.
    """

    tables: Tensor
    sizes: tuple[int, ...]
    grid: tuple[int, int]
    moves: NeighbourMoves | None = None

    def __post_init__(self) -> None:
        slots, rows, _ = self.tables.shape
        if len(self.sizes) != slots or max(self.sizes) > rows or min(self.sizes) < 1:
            raise InputError(f"tables of shape {tuple(self.tables.shape)} do not hold slots of {self.sizes} codes")

    @property
    def n_slots(self) -> int:
        """Slots of all tokens of the grid."""
        return len(self.sizes) * self.grid[0] * self.grid[1]

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (N, h*w*M), slots of a token side by side, to vectors (N, d, h, w)."""
        slots = len(self.sizes)
        indices = codes.reshape(len(codes), -1, slots).long()
        if self.moves is not None:
            device = self.moves.origin.device
            vectors = self.moves.embed(self.tables[0].to(device), indices[..., 0].to(device)).to(codes.device)
            return vectors.mT.unflatten(2, self.grid).contiguous()
        tables = self.tables.to(indices.device)
        tokens = sum(tables[slot][indices[..., slot]] for slot in range(slots))
        assert isinstance(tokens, Tensor)
        return tokens.reshape(len(codes), *self.grid, -1).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True, eq=False)
class Codec:
    """Codes (N, *shape) to latent grids (N, d, h, w): what a decoder reads.

    One level: ``shape`` is ``(h, w)``, or ``(h, w, M)`` with M slots per token. Several, coarse first: ``(L,)``, the
    slots of all grids in a row; each coarse vector is repeated over the fine positions that it covers.
    """

    levels: tuple[CodeLevel, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the codes of one image."""
        if len(self.levels) > 1:
            return (sum(level.n_slots for level in self.levels),)
        slots = len(self.levels[0].sizes)
        return (*self.levels[0].grid, *((slots,) if slots > 1 else ()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many codes each position of the flattened codes can take."""
        return tuple(size for level in self.levels for size in level.sizes * (level.grid[0] * level.grid[1]))

    @property
    def nominal_bits(self) -> float:
        """Bits per image where all codes are equally likely."""
        return sum(log2(size) for size in self.sizes)

    def streams(self, codes: Tensor) -> list[tuple[Tensor, int]]:
        """Codes (N, *shape) as streams of one alphabet each: ``[(codes (N, n), size), …]``.

        The slots of a token are joined into one code where it has at most ``JOINED_CODES`` values, so that usage and
        entropy are those of whole tokens; else each slot is a stream.
        """
        streams = []
        for level, part in zip(self.levels, self.by_level(codes.long()), strict=True):
            slots = part.reshape(len(part), -1, len(level.sizes))
            if prod(level.sizes) <= JOINED_CODES:
                streams.append((joined(slots, level.sizes), prod(level.sizes)))
            else:
                streams += [(slots[..., slot], size) for slot, size in enumerate(level.sizes)]
        return streams

    @property
    def sees_neighbours(self) -> bool:
        """Whether what a code stands for depends on other codes of its image."""
        return any(level.moves is not None for level in self.levels)

    def whole_codewords(self) -> Tensor | None:
        """(P, d): every value that a token can take, in the order of the joined codes of ``streams``.

        None with several levels, with more than ``JOINED_CODES`` values, or where other tokens move them.
        """
        level = self.levels[0]
        if len(self.levels) > 1 or prod(level.sizes) > JOINED_CODES or self.sees_neighbours:
            return None
        values = level.tables.new_zeros(1, level.tables.shape[2])
        for table, size in zip(level.tables, level.sizes, strict=True):
            values = (values[:, None] + table[None, :size]).flatten(0, 1)
        return values

    def split_codes(self, joined: Tensor) -> Tensor:
        """Undo the joining of one level: whole codes (N, h, w) to codes (N, *shape)."""
        level, slots = self.levels[0], []
        for size in reversed(level.sizes):
            slots.append(joined % size)
            joined = joined // size
        return torch.stack(slots[::-1], dim=-1).reshape(len(joined), *self.shape)

    def join_codes(self, codes: Tensor) -> Tensor:
        """Codes (N, *shape) of one level to whole codes (N, h, w), the rows of ``whole_codewords``."""
        level = self.levels[0]
        slots = codes.reshape(len(codes), -1, len(level.sizes)).long()
        return joined(slots, level.sizes).reshape(len(codes), *level.grid)

    def cpu(self) -> Codec:
        """The same with its tables on the CPU."""
        return Codec(tuple(replace(level, tables=level.tables.cpu()) for level in self.levels))

    def embed(self, codes: Tensor) -> Tensor:
        """Latent grids (N, d, h, w) on the finest grid, with the channels of all levels, coarse first.

        Raises:
            InputError: codes of another shape.
        """
        if tuple(codes.shape[1:]) != self.shape:
            raise InputError(f"codes have shape {tuple(codes.shape[1:])} per image, the codec reads {self.shape}")
        parts = zip(self.levels, self.by_level(codes), strict=True)
        grids = [self.lift(index, level.embed(part)) for index, (level, part) in enumerate(parts)]
        return torch.stack(grids).sum(0) if len(grids) > 1 else grids[0]

    def by_level(self, codes: Tensor) -> tuple[Tensor, ...]:
        """Codes (N, *shape) to those of each level, (N, slots of all its tokens)."""
        return codes.flatten(1).split([level.n_slots for level in self.levels], dim=1)

    def lift(self, index: int, vectors: Tensor) -> Tensor:
        """Vectors (N, d_i, h_i, w_i) of a level to their part of latent grids (N, d, h, w), zero in other channels."""
        if len(self.levels) == 1:
            return vectors
        depths = [level.tables.shape[2] for level in self.levels]
        fine = F.interpolate(vectors, size=self.levels[-1].grid, mode="nearest")
        return F.pad(fine, (0, 0, 0, 0, sum(depths[:index]), sum(depths[index + 1 :])))

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain tensors for ``from_tensors``."""
        named: dict[str, Tensor] = {}
        for index, level in enumerate(self.levels):
            named[f"{index}.tables"] = level.tables
            named[f"{index}.sizes"] = torch.tensor(level.sizes, dtype=torch.int32)
            named[f"{index}.grid"] = torch.tensor(level.grid, dtype=torch.int32)
            if level.moves is not None:
                moves = level.moves.state_dict().items()
                named |= {f"{index}.moves.{name}": value.detach().cpu().clone() for name, value in moves}
        return named

    @classmethod
    def from_tensors(cls, named: Mapping[str, Tensor]) -> Codec:
        """Undo ``to_tensors``."""
        levels = []
        for index in range(sum(name.endswith(".grid") for name in named)):
            height, width = named[f"{index}.grid"].tolist()
            sizes = tuple(named[f"{index}.sizes"].tolist())
            prefix = f"{index}.moves."
            parts = {name.removeprefix(prefix): each for name, each in named.items() if name.startswith(prefix)}
            moves = NeighbourMoves.from_tensors(parts) if parts else None
            levels.append(CodeLevel(named[f"{index}.tables"], sizes, (height, width), moves))
        return cls(tuple(levels))


def half_mask(codec: Codec, half: str) -> Tensor:
    """Where the codes (*shape) of the ``upper`` or ``left`` half of an image stand, on every grid: bool.

    Raises:
        InputError: a grid of one row (of one column).
    """
    parts = []
    for level in codec.levels:
        side = level.grid[0] if half == "upper" else level.grid[1]
        if side < 2:
            lines = "row" if half == "upper" else "column"
            raise InputError(f"this run has a grid with one {lines} of tokens, so no {half} half; take vae=spatial")
        given = torch.zeros(*level.grid, len(level.sizes), dtype=torch.bool)
        given[: side // 2] |= half == "upper"
        given[:, : side // 2] |= half == "left"
        parts.append(given.flatten())
    return torch.cat(parts).reshape(codec.shape)


def picture_mask(codec: Codec, picture: Tensor) -> Tensor:
    """The same where a picture (H, W) of values in [0, 1] is white over more than half of a token's place.

    Raises:
        InputError: it gives no code, or all.
    """
    parts = []
    for level in codec.levels:
        white = F.adaptive_avg_pool2d(picture[None].float(), level.grid)[0] > 0.5
        parts.append(white[..., None].expand(*level.grid, len(level.sizes)).flatten())
    mask = torch.cat(parts)
    if mask.all() or not mask.any():
        given = "no code" if not mask.any() else "all codes"
        raise InputError(f"this picture gives {given}; paint white what is kept and black what is drawn")
    return mask.reshape(codec.shape)


def joined(slots: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Mixed-radix numbers (…) of digits (…, M), the first slot counting most."""
    number = torch.zeros_like(slots[..., 0])
    for slot, size in enumerate(sizes):
        number = number * size + slots[..., slot]
    return number


def flat_codec(codewords: Tensor, grid: tuple[int, int]) -> Codec:
    """The codec of codewords (K, d): one code per token."""
    return Codec((CodeLevel(codewords[None], (len(codewords),), grid),))


def stacked_codec(tables: Sequence[Tensor], grid: tuple[int, int]) -> Codec:
    """The codec of several tables (K_m, d) that may differ in K: a token is the sum of a row of each."""
    most = max(len(table) for table in tables)
    padded = torch.stack([F.pad(table, (0, 0, 0, most - len(table))) for table in tables])
    return Codec((CodeLevel(padded, tuple(len(table) for table in tables), grid),))


def conditional_codec(codewords: Tensor, moves: NeighbourMoves, grid: tuple[int, int]) -> Codec:
    """The codec of codewords (K, d) that the tokens before a token move."""
    return Codec((CodeLevel(codewords[None], (len(codewords),), grid, moves),))
