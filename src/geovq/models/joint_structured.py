"""Codebooks of several slots per token, kept by vector-quantize-pytorch: residual stages, and blocks of dimensions."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.configuration.fields import Fraction, Parts, Positive, Restart
from geovq.errors import InputError
from geovq.models.joint_codebook import MovingCodebook, library_settings, nearest, set_restarts
from geovq.models.joint_quantizer import Quantized, TokenQuantizer, straight_through
from geovq.models.sizes import SplitCodes, split_sizes


class ResidualCodebook(SplitCodes, TokenQuantizer):
    """Each stage quantizes what the stages before it left; a token is the sum of a codeword of each.

    The penalty is the sum of the stages' commitments beta |r_m - sg[e_m]|^2 (means over tokens and dimensions), where
    r_m = z - sg[e_1 + ... + e_(m-1)]: each partial sum is held to the token (Lee et al. 2022; Zeghidour et al. 2021).

    The library passes the decoder's gradient through every stage, so that the tokens get it M times; here it passes
    once, straight through the sum. Codebooks, restarts and penalty are the library's.

    Args:
        dim: dimensions of a token.
        K: codes of one token, split over the stages; the product of their sizes, or a little more.
        n_stages: number of stages.
        beta: commitment.
        decay: of the exponential means, per step.
        restart: codes with a smaller share of the mean count are put on a random token; 0: never.
        weight: of the commitment, next to squared pixel error: about the variance of the pixels.
    """

    slots_setting: ClassVar[str | None] = "n_stages"

    def __init__(
        self,
        dim: int,
        K: int,
        n_stages: Parts,
        beta: Positive,
        decay: Fraction,
        restart: Restart,
        weight: Positive = 0.1,
    ) -> None:
        from vector_quantize_pytorch import ResidualVQ

        from geovq.models.shared_codebook import shared

        super().__init__()
        self.dim = dim
        self.sizes = split_sizes(K, n_stages)
        self.beta, self.restart, self.penalty_weight = beta, restart, weight
        self.underlying = ResidualVQ(dim=dim, codebook_size=self.sizes, **library_settings(beta, decay, restart))
        for stage in self.underlying.layers:
            shared(stage)

    def quantize(self, tokens: Tensor, progress: float) -> Quantized:
        """Sum of the stages' codewords, straight-through as a whole."""
        if self.training:
            set_restarts(self.underlying.layers, len(tokens), self.restart)
            total, codes, commitments = self.underlying(tokens[None])
            return Quantized(straight_through(tokens, total[0]), codes[0], commitments.sum())
        codes = self.codes(tokens)
        left, penalty = tokens, tokens.new_zeros(())
        for slot, table in enumerate(self.tables()):
            rows = table[codes[:, slot]]
            penalty = penalty + self.beta * F.mse_loss(left, rows)
            left = left - rows
        return Quantized(self.embed(codes), codes, penalty)

    def codes(self, tokens: Tensor) -> Tensor:
        """Greedy, stage after stage: (N, M)."""
        codes = []
        for table in self.tables():
            codes.append(nearest(tokens, table))
            tokens = tokens - table[codes[-1]]
        return torch.stack(codes, dim=1)

    def tables(self) -> list[Tensor]:
        """The stages' codewords."""
        return [stage.codebook for stage in self.underlying.layers]


class ProductCodebook(SplitCodes, TokenQuantizer):
    """Each block of consecutive dimensions has a codebook of its own (Jegou et al. 2011).

    The configuration asks for equal blocks; here they may differ by one dimension. The penalty is the mean over tokens
    and all dimensions, so that a dimension weighs the same in every block. The library's heads would do the same with
    one codebook size and one width for all; here both may differ, so each block has its own ``VectorQuantize``.

    Args:
        dim: dimensions of a token.
        K: codes of one token, split over the blocks; the product of their sizes, or a little more.
        n_parts: number of blocks.
        beta: commitment.
        decay: of the exponential means, per step.
        restart: codes with a smaller share of the mean count are put on a random token; 0: never.
        weight: of the commitment, next to squared pixel error: about the variance of the pixels.
    """

    slots_setting: ClassVar[str | None] = "n_parts"

    def __init__(
        self,
        dim: int,
        K: int,
        n_parts: Parts,
        beta: Positive,
        decay: Fraction,
        restart: Restart,
        weight: Positive = 0.1,
    ) -> None:
        super().__init__()
        if n_parts > dim:
            raise InputError(f"{n_parts} parts of {dim} dimensions: take at most {dim} parts, or more dimensions")
        self.dim = dim
        self.sizes = split_sizes(K, n_parts)
        self.penalty_weight = weight
        self.widths = [len(block) for block in torch.arange(dim).tensor_split(n_parts)]
        self.parts = nn.ModuleList(
            MovingCodebook(width, size, beta, decay, restart)
            for width, size in zip(self.widths, self.sizes, strict=True)
        )

    def _codebooks(self) -> list[MovingCodebook]:
        return [cast(MovingCodebook, part) for part in self.parts]

    def quantize(self, tokens: Tensor, progress: float) -> Quantized:
        """The blocks' codewords side by side, straight-through."""
        blocks = tokens.split(self.widths, dim=1)
        chosen = [part.quantize(block, progress) for part, block in zip(self._codebooks(), blocks, strict=True)]
        vectors = torch.cat([each.vectors for each in chosen], dim=1)
        codes = torch.cat([each.codes for each in chosen], dim=1)
        penalties = [each.penalty * width for each, width in zip(chosen, self.widths, strict=True)]
        return Quantized(vectors, codes, torch.stack(penalties).sum() / self.dim)

    def codes(self, tokens: Tensor) -> Tensor:
        """The nearest codeword of each block: (N, M)."""
        blocks = tokens.split(self.widths, dim=1)
        return torch.cat([part.codes(block) for part, block in zip(self._codebooks(), blocks, strict=True)], dim=1)

    def tables(self) -> list[Tensor]:
        """The blocks' codewords, zero in the dimensions of other blocks."""
        tables, before = [], 0
        for part, width in zip(self._codebooks(), self.widths, strict=True):
            tables.append(F.pad(part.table.detach(), (before, self.dim - before - width)))
            before += width
        return tables
