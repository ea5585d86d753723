"""Between arrays of codes and token sequences for a language model.

A sequence is ``[start, code_1, …, code_L]``, followed by END and PAD where lengths vary. ``start`` is the
class token of the image, or BOS when there is no class or it is withheld. The first code is thus
predicted like every other one, never drawn uniformly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from geovq.errors import InputError


@dataclass(frozen=True)
class CodeLayout:
    """Vocabulary and shape of the sequences.

    Codes take ids [0, n_codes), then BOS, END, PAD and one id per class. ``shape`` is ``(L,)`` for flat
    codes, ``(h, w)`` for grids, read row by row, or ``(h, w, M)`` with the slots of a token side by side; with
    ``variable_length`` L is the largest length. ``sizes`` (L of them) says how many codes each position has where these
    differ: fewer than n_codes at some. ``levels`` are the grids in the order of their codes, coarse first, each
    ``(h, w, slots per token)``; None takes one, of ``shape``.
    """

    n_codes: int
    shape: tuple[int, ...]
    n_classes: int = 0
    variable_length: bool = False
    sizes: tuple[int, ...] | None = None
    levels: tuple[tuple[int, int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.levels is not None and sum(map(prod, self.levels)) != self.length:
            raise InputError(f"grids {self.levels} do not hold {self.length} codes")
        if self.sizes is not None and (len(self.sizes) != self.length or max(self.sizes) > self.n_codes):
            raise InputError(f"sizes of {len(self.sizes)} positions do not fit {self.length} of {self.n_codes} codes")

    @property
    def length(self) -> int:
        """Largest number of codes in a sequence."""
        return prod(self.shape)

    @property
    def grids(self) -> tuple[tuple[int, int, int], ...]:
        """``(h, w, slots)`` of each grid, coarse first; codes without a grid are one row."""
        if self.levels is not None:
            return self.levels
        grid = (1, *self.shape, 1) if len(self.shape) == 1 else (*self.shape, 1)[:3]
        return ((grid[0], grid[1], grid[2]),)

    def places(self) -> Tensor:
        """(L, 4) of each code: its grid, row, column and slot."""
        parts = []
        for level, grid in enumerate(self.grids):
            place = torch.cartesian_prod(*map(torch.arange, grid)).reshape(-1, 3)
            parts.append(torch.cat([torch.full((len(place), 1), level), place], dim=1))
        return torch.cat(parts)

    def streams(self) -> Tensor:
        """(L,) number of the table of each code: grids one after another, the slots of each."""
        before = torch.tensor([0, *(slots for _, _, slots in self.grids)]).cumsum(0)
        places = self.places()
        return before[places[:, 0]] + places[:, 3]

    @property
    def bos(self) -> int:
        """Id of the start token without a class."""
        return self.n_codes

    @property
    def end(self) -> int:
        """Id of the end token, used only where lengths vary."""
        return self.n_codes + 1

    @property
    def pad(self) -> int:
        """Id that fills sequences up to the longest one; never predicted."""
        return self.n_codes + 2

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self.n_codes + 3 + self.n_classes

    @property
    def sequence_length(self) -> int:
        """Ids per sequence: start, codes, and END where lengths vary."""
        return 1 + self.length + int(self.variable_length)

    def start_ids(self, labels: Tensor | None, n: int) -> Tensor:
        """Start ids (n,): class tokens for labels in [0, n_classes), BOS for label -1 or no labels."""
        if labels is None or self.n_classes == 0:
            return torch.full((n,), self.bos)
        if int(labels.max()) >= self.n_classes or int(labels.min()) < -1:
            raise InputError(f"label {int(labels.max())} has no class token: labels go from 0 to {self.n_classes - 1}")
        return torch.where(labels < 0, self.bos, self.n_codes + 3 + labels)

    def encode(self, codes: Tensor | Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Codes (N, *shape), (N,) when shape is (1,), or a list of 1-d tensors, to ids (N, sequence_length)."""
        if self.variable_length:
            body = torch.full((len(codes), self.length + 1), self.pad)
            for i, row in enumerate(codes):
                if row.numel() > self.length:
                    raise InputError(f"sequence {i} has {row.numel()} codes, the layout holds {self.length}")
                body[i, : row.numel()] = row.flatten()
                body[i, row.numel()] = self.end
            valid = body[(body != self.pad) & (body != self.end)]
        elif isinstance(codes, Tensor):
            valid = body = codes.reshape(len(codes), -1).long()
            if body.shape[1] != self.length:
                raise InputError(f"codes of shape {tuple(codes.shape[1:])} do not fit the layout {self.shape}")
        else:
            raise InputError("a list of sequences needs a layout with variable_length=True")
        if valid.numel() and (int(valid.min()) < 0 or int(valid.max()) >= self.n_codes):
            raise InputError(
                f"codes reach from {int(valid.min())} to {int(valid.max())}, the layout has 0 to {self.n_codes - 1}"
            )
        start = self.start_ids(labels, len(body)).to(body.device)
        return torch.cat([start[:, None], body], dim=1)

    def decode(self, ids: Tensor) -> Tensor | list[Tensor]:
        """Ids (N, sequence_length), start included, back to codes (N, *shape), or a list where lengths vary."""
        body = ids[:, 1:]
        if not self.variable_length:
            return body.reshape(len(ids), *self.shape)
        rows = []
        for row in body:
            stop = ((row == self.end) | (row == self.pad)).nonzero()
            rows.append(row[: int(stop[0])] if len(stop) else row)
        return rows

    def allowed(self) -> Tensor:
        """Mask (sequence_length - 1, vocabulary) of the ids that may stand at each place after the start.

        They are the codes of the position, and END where lengths vary: alone at the last place, behind L codes.
        """
        mask = torch.zeros(self.sequence_length - 1, self.vocabulary, dtype=torch.bool)
        mask[: self.length, : self.n_codes] = True
        mask[:, self.end] = self.variable_length
        if self.sizes is not None:
            ids = torch.arange(self.n_codes)
            mask[: self.length, : self.n_codes] = ids < torch.tensor(self.sizes)[:, None]
        return mask
