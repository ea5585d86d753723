"""The autoregressive prior over codes: GPT-2 from a configuration, and how to score and sample with it."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.configuration.fields import Count, Positive, ShareBelowOne
from geovq.models.code_geometry import CodeEmbedding, Embedding, Target
from geovq.models.code_layout import CodeLayout
from geovq.models.codec import Codec
from geovq.models.drawing import Drawing
from geovq.models.prior import OrderedPrior


class AutoregressivePrior(OrderedPrior):
    """p(codes | start) as GPT-2 (Radford et al. 2019) over the ids of a ``CodeLayout``.

    Args:
        layers: transformer blocks.
        width: dimensions of an embedding; a multiple of ``heads``.
        heads: of attention.
        dropout: of embeddings, attention and residual branches.
        positions: a vector per place in the sequence, or the sum of one each for grid, row, column and slot.
    """

    def __init__(
        self,
        layout: CodeLayout,
        layers: Count,
        width: Count,
        heads: Count,
        dropout: ShareBelowOne,
        codec: Codec | None = None,
        positions: Literal["sequence", "grid"] = "sequence",
        embedding: Embedding = "learned",
        targets: Target = "one_hot",
        smoothing: Positive = 0.5,
    ) -> None:
        super().__init__(layout, codec, embedding, targets, smoothing)
        from transformers import GPT2Config, GPT2LMHeadModel

        configuration = GPT2Config(
            vocab_size=layout.vocabulary,
            n_positions=layout.sequence_length,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own in one kernel: a step takes 184 ms, not 221
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=layout.bos,
            eos_token_id=layout.end,
            pad_token_id=layout.pad,
        )
        # Sequences are short: on a CPU plain attention takes less than half the time of the fused kernel there.
        configuration._attn_implementation = "eager"
        network: Any = GPT2LMHeadModel(configuration)
        self.transformer = network
        if positions == "grid":
            network.transformer.wpe = GridPositions(layout, width)
        self.codewords = CodeEmbedding(layout, width, self.geometry) if embedding == "codewords" else None

    def logits(self, ids: Tensor) -> Tensor:
        """Scores (B, S - 1, vocabulary) of what may follow each beginning of ids (B, S): -inf of what may not."""
        logits = self.transformer(**self._inputs(ids[:, :-1], 0), use_cache=False).logits.float()
        return logits.masked_fill(~self.allowed[: logits.shape[1]], -math.inf)

    def _inputs(self, ids: Tensor, first: int) -> dict[str, Tensor]:
        """Ids (B, n), of which the first stands at place ``first`` of the sequence, as the network takes them."""
        if self.codewords is None:
            return {"input_ids": ids}
        vectors = self.transformer.transformer.wte(ids)
        is_code = ids < self.layout.n_codes
        positions = (torch.arange(first, first + ids.shape[1], device=ids.device) - 1).clamp(0, self.layout.length - 1)
        embedded = self.codewords(ids.masked_fill(~is_code, 0), positions)
        return {"inputs_embeds": torch.where(is_code[..., None], embedded.to(vectors.dtype), vectors)}

    def _draw(self, start: Tensor, codes: Tensor, given: Tensor, drawing: Drawing) -> Tensor:
        """One id after another, keys and values of those before in a cache; what all begin with is read at once."""
        layout, cache = self.layout, None
        known = int(given.all(0).long().cumprod(0).sum())
        drawn = [codes[:, :known]]
        ended = torch.zeros_like(start, dtype=torch.bool)
        ids = torch.cat([drawing.starts(start, layout.bos)[:, None], drawing.for_both(codes[:, :known])], dim=1)
        for place in range(known, layout.sequence_length - 1):
            inputs = self._inputs(ids, place + 1 - ids.shape[1])
            found = self.transformer(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = found.past_key_values
            logits = drawing.guided(found.logits[:, -1].float()).masked_fill(~self.allowed[place], -math.inf)
            chosen = drawing.draw(logits).masked_fill(ended, layout.pad)
            if place < layout.length:
                chosen = torch.where(given[:, place], codes[:, place], chosen)
            drawn.append(chosen[:, None])
            ended = ended | (chosen == layout.end)
            if layout.variable_length and bool(ended.all()):
                break
            ids = drawing.for_both(chosen[:, None])
        drawn_ids = torch.cat(drawn, dim=1)
        return F.pad(drawn_ids, (0, layout.sequence_length - 1 - drawn_ids.shape[1]), value=layout.pad)


class GridPositions(nn.Module):
    """What GPT-2 adds at each place of a sequence: vectors of grid, row, column and slot of the code that comes next.

    Args:
        layout: of the sequences.
        width: dimensions.
    """

    places: Tensor

    def __init__(self, layout: CodeLayout, width: int) -> None:
        super().__init__()
        places = layout.places()
        places = torch.cat([places, places[-1:]]) if layout.variable_length else places
        self.register_buffer("places", places, persistent=False)
        counts = (places.amax(0) + 1).tolist()
        self.tables = nn.ParameterList([nn.Parameter(0.02 * torch.randn(count, width)) for count in counts])

    def forward(self, positions: Tensor) -> Tensor:
        """Places in the sequence (…) to vectors (…, width)."""
        places = self.places[positions]
        return torch.stack([table[places[..., axis]] for axis, table in enumerate(self.tables)]).sum(0)


class NoPrior(AutoregressivePrior):
    """No prior: the settings wait for one, so that a sweep may take it beside others."""

    is_prior: ClassVar[bool] = False
