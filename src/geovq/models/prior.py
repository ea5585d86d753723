"""The autoregressive prior over codes: GPT-2 from a configuration, and how to score and sample with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.models.code_layout import CodeLayout


class CodePrior(nn.Module):
    """p(codes | start) as GPT-2 (Radford et al. 2019) over the ids of a :class:`CodeLayout`.

    Ids that cannot follow (BOS, PAD, classes; END at fixed length; codes that a position lacks) get probability
    zero by a mask on the logits, so likelihoods are normalised over what can occur and samples hold nothing but codes.
    """

    allowed: Tensor

    def __init__(self, layout: CodeLayout, layers: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        self.layout = layout
        configuration = GPT2Config(
            vocab_size=layout.vocabulary,
            n_positions=layout.sequence_length,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=layout.bos,
            eos_token_id=layout.end,
            pad_token_id=layout.pad,
        )
        # Sequences are short: on a CPU plain attention takes less than half the time of the fused kernel there.
        configuration._attn_implementation = "eager"
        self.transformer: Any = GPT2LMHeadModel(configuration)  # its generate is typed for another self
        self.register_buffer("allowed", layout.allowed(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Negative log-likelihood in nats of each next id: ids (B, S) to (B, S - 1), zero at PAD."""
        logits = self.transformer(input_ids=ids[:, :-1], use_cache=False).logits.float()
        logits = logits.masked_fill(~self.allowed[: logits.shape[1]], -math.inf)
        target = ids[:, 1:]
        # PAD is masked out of the logits: score any allowed id there, then drop the score.
        nll = F.cross_entropy(
            logits.flatten(0, 1), target.masked_fill(target == self.layout.pad, 0).flatten(), reduction="none"
        )
        return nll.reshape(target.shape) * (target != self.layout.pad)

    def _mask(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Scores (B, vocabulary) of what follows ids (B, S), without the ids that cannot stand there."""
        return logits.masked_fill(~self.allowed[ids.shape[1] - 1], -math.inf)

    @torch.no_grad()
    def bits_per_image(self, ids: Tensor, batch_size: int = 500) -> Tensor:
        """Code length -log2 p(codes | start) of each sequence in bits: (N, S) to (N,)."""
        device = self.allowed.device
        scores = [self(batch.to(device)).sum(1).cpu() for batch in ids.split(batch_size)]
        return torch.cat(scores) / math.log(2.0)

    @torch.no_grad()
    def sample(
        self,
        start: Tensor,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        batch_size: int = 500,
    ) -> Tensor | list[Tensor]:
        """Draw codes for start ids (N,), with the key-value cache.

        ``temperature=0`` is greedy. ``top_k`` keeps the k most likely codes and ``top_p`` the smallest set
        with that probability (Holtzman et al. 2020); None keeps all. Deterministic by seed and batch size.
        """
        device = self.allowed.device
        settings: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            settings = {
                "do_sample": True,
                "temperature": temperature,
                "top_k": top_k or 0,  # transformers would silently keep 50
                "top_p": 1.0 if top_p is None else top_p,
            }
        sequences = []
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for batch in start.split(batch_size):
                prompt = batch[:, None].to(device)
                ids = self.transformer.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=self.layout.sequence_length - 1,
                    logits_processor=[self._mask],
                    eos_token_id=self.layout.end if self.layout.variable_length else None,
                    pad_token_id=self.layout.pad,
                    use_cache=True,
                    **settings,
                )
                missing = self.layout.sequence_length - ids.shape[1]
                sequences.append(F.pad(ids.cpu(), (0, missing), value=self.layout.pad))
        return self.layout.decode(torch.cat(sequences))
