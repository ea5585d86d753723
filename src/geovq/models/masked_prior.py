"""A masked prior (MaskGIT, Chang et al. 2022): a bidirectional transformer that fills in codes in any order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from geovq.configuration.fields import Count, Positive, ShareBelowOne
from geovq.errors import InputError
from geovq.models.code_geometry import CodeEmbedding, CodeHead, Embedding, Target
from geovq.models.code_layout import CodeLayout
from geovq.models.codec import Codec
from geovq.models.drawing import Drawing
from geovq.models.prior import CategoricalPrior

STEPS = 8
"""Of drawing, where none are given: as in MaskGIT."""
NOISE = 4.5
"""Of the confidences by which drawn codes are kept, in the first step; falls linearly to 0 (MaskGIT's code)."""
MASKS = 16
"""Masks per image behind the bound, where there are more than that."""


class MaskedPrior(CategoricalPrior):
    """Distributions of the codes that are hidden, given those that are not: p(c_i | s, c_known).

    Grids are filled one after another, the coarse one first; within a grid any order will do. The code length is
    bounded by its mean over all orders σ (Uria et al. 2014, Hoogeboom et al. 2022):

        -log p(c | s) <= E_σ Σ_k -log p(c_σ(k) | s, c_σ(1), …, c_σ(k-1)) = L E_k E_mask mean over hidden -log p(c_i | …)

    with k = 0 … L - 1 known codes. Training minimises the right side; with the cosine schedule, k are more often small.

    Args:
        layers: transformer blocks, normalised before attention as in GPT-2.
        width: dimensions of an embedding; a multiple of ``heads``.
        heads: of attention.
        dropout: of embeddings, attention and residual branches.
        schedule: share of codes that is hidden, as a function of time: in training, and from step to step of drawing.
    """

    bits_are_bound: ClassVar[bool] = True
    takes_steps: ClassVar[bool] = True

    def __init__(
        self,
        layout: CodeLayout,
        layers: Count,
        width: Count,
        heads: Count,
        dropout: ShareBelowOne,
        codec: Codec | None = None,
        schedule: Literal["cosine", "linear"] = "cosine",
        embedding: Embedding = "learned",
        targets: Target = "one_hot",
        smoothing: Positive = 0.5,
    ) -> None:
        super().__init__(layout, codec, embedding, targets, smoothing)
        if layout.variable_length:
            raise InputError("a masked prior draws sequences of one length; take prior=autoregressive")
        self.schedule, self.noise = schedule, NOISE
        self.embedding = CodeEmbedding(layout, width, self.geometry if embedding == "codewords" else None)
        self.hidden_code = nn.Parameter(0.02 * torch.randn(width))
        self.start = nn.Embedding(layout.vocabulary - layout.n_codes, width)
        self.position = nn.Parameter(0.02 * torch.randn(layout.length + 1, width))
        self.drop = nn.Dropout(dropout)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = CodeHead(layout, width)
        nn.init.normal_(self.start.weight, std=0.02)
        sizes = [math.prod(grid) for grid in layout.grids]
        self._grids = [(sum(sizes[:level]), size) for level, size in enumerate(sizes)]

    def logits(self, start: Tensor, codes: Tensor, known: Tensor) -> Tensor:
        """Scores (B, L, K) of each code given start ids (B,) and the ``known`` (B, L) ones of codes (B, L)."""
        embedded = self.embedding(codes.masked_fill(~known, 0))
        embedded = torch.where(known[..., None], embedded, self.hidden_code.to(embedded.dtype))
        inputs = torch.cat([self.start(start - self.layout.bos)[:, None], embedded], dim=1) + self.position
        features = self.blocks(self.drop(inputs))[:, 1:]
        return self.head(features, torch.arange(self.layout.length, device=codes.device))

    def loss(self, ids: Tensor) -> Tensor:
        """L times the mean cross-entropy of the hidden codes, one mask for each sequence: ids (B, S) to (B,)."""
        time = torch.rand(len(ids), device=ids.device)
        level, at = self._level(time)
        hidden_share = torch.cos(at * math.pi / 2) if self.schedule == "cosine" else 1 - at
        counts = torch.tensor([size for _, size in self._grids], device=ids.device)[level]
        n_known = ((1 - hidden_share) * counts).long().clamp(max=counts - 1)
        order = torch.rand(len(ids), self.layout.length, device=ids.device)
        return self._hidden_nats(ids, *self._masks(level, n_known, order), smoothed=True)

    def _level(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Times (B,) in [0, 1) over all codes to the grid that is filled (B,) and the time in it (B,)."""
        ends = torch.tensor([first + size for first, size in self._grids], device=time.device) / self.layout.length
        level = torch.bucketize(time, ends[:-1], right=True)
        begins = torch.cat([ends.new_zeros(1), ends[:-1]])
        return level, ((time - begins[level]) / (ends - begins)[level]).clamp(0, 1 - 1e-6)

    def _masks(self, level: Tensor, n_known: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Known codes and those to predict, both (B, L): coarser grids are known, and of the grid those first in order.

        Args:
            level: (B,) the grid that is filled.
            n_known: (B,) known codes in it.
            order: (B, L) numbers by which they are chosen, smallest first.
        """
        of_code = self._of_code.to(order.device)
        here = of_code == level[:, None]
        rank = order.masked_fill(~here, math.inf).argsort(1).argsort(1)
        known = (of_code < level[:, None]) | (here & (rank < n_known[:, None]))
        return known, here & ~known

    @property
    def _of_code(self) -> Tensor:
        return self.layout.places()[:, 0]

    def _hidden_nats(self, ids: Tensor, known: Tensor, asked: Tensor, smoothed: bool = False) -> Tensor:
        """L times the mean nats (B,) of the codes ``asked`` for, the ``known`` ones given."""
        nats = self.nats(self.logits(ids[:, 0], ids[:, 1:], known), ids[:, 1:], smoothed)
        return self.layout.length * (nats * asked).sum(1) / asked.sum(1)

    @torch.no_grad()
    def bits_per_image(self, ids: Tensor, batch_size: int = 500) -> Tensor:
        """Bound of the code length of each sequence in bits: (N, S) to (N,).

        The mean over all masks where these are at most ``MASKS``, else over so many: numbers of known codes evenly from
        0 to L - 1, begun at random, and masks at random, from a seed of their own. Unbiased for each image.
        """
        few = sum(2**size - 1 for _, size in self._grids) <= MASKS
        total = torch.zeros(len(ids))
        for known, asked, weight in self._all_masks() if few else self._drawn_masks(len(ids)):
            for rows in torch.arange(len(ids)).split(batch_size):
                shown, hidden = (each.expand(len(ids), -1)[rows].to(self.device) for each in (known, asked))
                nats = self._hidden_nats(ids[rows].to(self.device), shown, hidden)
                total[rows] += weight * nats.float().cpu()
        return total / math.log(2.0)

    def _drawn_masks(self, n: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Masks of n sequences (known (n, L), asked (n, L)), and their weight."""
        generator, length = torch.Generator().manual_seed(0), self.layout.length
        begin = torch.rand(n, generator=generator)
        firsts = torch.tensor([first for first, _ in self._grids])
        for number in range(MASKS):
            count = ((number + begin) / MASKS * length).long().clamp(max=length - 1)
            level = torch.bucketize(count, firsts[1:], right=True)
            order = torch.rand(n, length, generator=generator)
            yield *self._masks(level, count - firsts[level], order), 1 / MASKS

    def _all_masks(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Every mask (known (1, L), asked (1, L)) with its probability: that of its number of known codes, shared."""
        for level, (first, size) in enumerate(self._grids):
            for count in range(size):
                for chosen in combinations(range(size), count):
                    order = torch.ones(1, self.layout.length)
                    order[0, [first + place for place in chosen]] = 0
                    known, asked = self._masks(torch.tensor([level]), torch.tensor([count]), order)
                    yield known, asked, 1 / (self.layout.length * math.comb(size, count))

    def _draw(self, start: Tensor, codes: Tensor, given: Tensor, drawing: Drawing) -> Tensor:
        """Grid after grid in ``steps`` steps each: draw all hidden codes, keep those drawn with most confidence.

        Confidence is the log-probability of the drawn code plus Gumbel noise that falls to zero; how many stay hidden
        after each step is the schedule's share. Temperature 0 adds no noise.
        """
        codes, known, starts = codes.clone(), given.clone(), drawing.starts(start, self.layout.bos)
        for level, (_, size) in enumerate(self._grids):
            here = (self._of_code == level).to(codes.device)
            n_hidden = (here & ~known).sum(1)
            steps = min(drawing.steps or STEPS, size)
            for step in range(1, steps + 1):
                left = 1 - step / steps
                share = math.cos(math.pi / 2 * step / steps) if self.schedule == "cosine" else left
                asked = here & ~known
                if not bool(asked.any()):
                    break
                shown = known & (self._of_code.to(codes.device) <= level)  # as in training: finer grids come later
                logits = drawing.guided(self.logits(starts, drawing.for_both(codes), drawing.for_both(shown)))
                drawn = drawing.draw(logits[asked])
                confidence = torch.full_like(codes, -math.inf, dtype=torch.float32)
                confidence[asked] = logits[asked].log_softmax(1).gather(1, drawn[:, None])[:, 0]
                if drawing.temperature > 0:
                    uniform = torch.rand(confidence.shape, device=codes.device).clamp(1e-9, 1 - 1e-7)
                    confidence = confidence - self.noise * left * (-uniform.log()).log()
                codes[asked] = drawn
                # At least one more is kept in each step while there are hidden ones.
                stays = (share * n_hidden + 1e-4).long() if step < steps else torch.zeros_like(n_hidden)
                keep = torch.maximum(asked.sum(1) - stays, (asked.sum(1) > 0).long())
                rank = confidence.argsort(1, descending=True).argsort(1)
                known = known | (asked & (rank < keep[:, None]))
        return codes
