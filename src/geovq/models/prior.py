"""The autoregressive prior over codes: GPT-2 from a configuration, and how to score and sample with it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.configuration.fields import Count, ShareBelowOne
from geovq.models.code_layout import CodeLayout
from geovq.progress import progress


class Prior(nn.Module, ABC):
    """A distribution over the codes of an image, as sequences of ids of a ``CodeLayout``.

    Its constructor gets the layout, beside its settings.
    """

    is_prior: ClassVar[bool] = True
    """Whether there is one at all."""
    needs_grid: ClassVar[bool] = False
    """Whether it reads codes on a grid, so that one token per image is not enough."""

    def __init__(self, layout: CodeLayout) -> None:
        super().__init__()
        self.layout = layout

    @abstractmethod
    def loss(self, ids: Tensor) -> Tensor:
        """What training minimises the mean of, in nats per sequence: ids (B, S), start first, to (B,)."""

    @abstractmethod
    def bits_per_image(self, ids: Tensor, batch_size: int = 500) -> Tensor:
        """Code length -log2 p(codes | start) of each sequence in bits: (N, S) to (N,)."""

    @abstractmethod
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
        """Codes (N, *layout.shape) for start ids (N,)."""

    def forward(self, ids: Tensor) -> Tensor:
        """As ``loss``; training calls the module."""
        return self.loss(ids)

    @property
    def device(self) -> torch.device:
        """Where its parameters live."""
        return next(self.parameters()).device


class CodePrior(Prior):
    """p(codes | start) as GPT-2 (Radford et al. 2019) over the ids of a ``CodeLayout``.

    Ids that cannot follow (BOS, PAD, classes; END at fixed length; codes that a position lacks) get probability
    zero by a mask on the logits, so likelihoods are normalised over what can occur and samples hold nothing but codes.

    Args:
        layout: of the sequences.
        layers: transformer blocks.
        width: dimensions of an embedding; a multiple of ``heads``.
        heads: of attention.
        dropout: of embeddings, attention and residual branches.
    """

    allowed: Tensor

    def __init__(self, layout: CodeLayout, layers: Count, width: Count, heads: Count, dropout: ShareBelowOne) -> None:
        super().__init__(layout)
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
        self.transformer: Any = GPT2LMHeadModel(configuration)  # its generate is typed for another self
        self.register_buffer("allowed", layout.allowed(), persistent=False)

    def loss(self, ids: Tensor) -> Tensor:
        """Negative log-likelihood in nats: ids (B, S), start first, to (B,)."""
        return self.code_lengths(ids).sum(1)

    def code_lengths(self, ids: Tensor) -> Tensor:
        """Negative log-likelihood in nats of each next id: ids (B, S) to (B, S - 1), zero at PAD."""
        logits, target = self.logits(ids), ids[:, 1:]
        # PAD is masked out of the logits: score END there, which may stand anywhere, then drop the score.
        padded = target == self.layout.pad
        scored = target.masked_fill(padded, self.layout.end).flatten()
        nll = F.cross_entropy(logits.flatten(0, 1), scored, reduction="none")
        return nll.reshape(target.shape) * ~padded

    def logits(self, ids: Tensor) -> Tensor:
        """Scores (B, S - 1, vocabulary) of what may follow each beginning of ids (B, S): -inf of what may not."""
        logits = self.transformer(input_ids=ids[:, :-1], use_cache=False).logits.float()
        return logits.masked_fill(~self.allowed[: logits.shape[1]], -math.inf)

    def _mask(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Scores (B, vocabulary) of what follows ids (B, S), without the ids that cannot stand there."""
        return logits.masked_fill(~self.allowed[ids.shape[1] - 1], -math.inf)

    @torch.no_grad()
    def bits_per_image(self, ids: Tensor, batch_size: int = 500) -> Tensor:
        """Code length -log2 p(codes | start) of each sequence in bits: (N, S) to (N,)."""
        device = self.allowed.device
        scores = [self.loss(batch.to(device)).cpu() for batch in ids.split(batch_size)]
        return torch.cat(scores) / math.log(2.0)

    def sample(self, start: Tensor, **sampling: Any) -> Tensor | list[Tensor]:
        """Codes (N, *layout.shape) for start ids (N,): what ``complete`` draws after nothing but a start."""
        return self.complete(start[:, None], **sampling)

    @torch.no_grad()
    def complete(
        self,
        begun: Tensor,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        batch_size: int = 500,
    ) -> Tensor | list[Tensor]:
        """Draw the codes that follow ids (N, P), start first, with the key-value cache; those given are kept.

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
        with (
            torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []),
            progress("drawing codes", len(begun)) as advance,
        ):
            torch.manual_seed(seed)
            for batch in begun.split(batch_size):
                prompt = batch.to(device)
                ids = self.transformer.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=self.layout.sequence_length - begun.shape[1],
                    logits_processor=[self._mask],
                    eos_token_id=self.layout.end if self.layout.variable_length else None,
                    pad_token_id=self.layout.pad,
                    use_cache=True,
                    **settings,
                )
                missing = self.layout.sequence_length - ids.shape[1]
                sequences.append(F.pad(ids.cpu(), (0, missing), value=self.layout.pad))
                advance(len(batch))
        return self.layout.decode(torch.cat(sequences))


class NoPrior(CodePrior):
    """No prior: the settings wait for one, so that a sweep may take it beside others."""

    is_prior: ClassVar[bool] = False
