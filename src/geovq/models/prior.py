"""What a prior over codes is, and what those have in common that give each code a distribution."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.errors import InputError
from geovq.models.code_geometry import CodeGeometry, Embedding, Target
from geovq.models.code_layout import CodeLayout
from geovq.models.codec import Codec
from geovq.models.drawing import Drawing
from geovq.progress import progress


class Prior(nn.Module, ABC):
    """A distribution over the codes of an image, as sequences of ids of a ``CodeLayout``.

    Its constructor gets the layout, beside its settings; where it asks for them, also ``codec`` (the codewords) and
    the sizes of ``transformer``: ``layers``, ``width``, ``heads``, ``dropout``.
    """

    is_prior: ClassVar[bool] = True
    """Whether there is one at all."""
    needs_grid: ClassVar[bool] = False
    """Whether it reads codes on a grid, so that one token per image is not enough."""
    is_ordered: ClassVar[bool] = False
    """Whether it gives one code after another, so that each has a length of its own (``OrderedPrior``)."""
    bits_are_bound: ClassVar[bool] = False
    """Whether ``bits_per_image`` is an upper bound of the code length, and not the code length itself."""
    takes_guidance: ClassVar[bool] = False
    """Whether ``sample`` takes ``guidance``."""
    takes_steps: ClassVar[bool] = False
    """Whether ``sample`` takes ``steps``: it draws many codes at once."""
    completes: ClassVar[bool] = False
    """Whether it has ``complete``."""

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
    def sample(self, start: Tensor, *, seed: int = 0, batch_size: int = 500, **drawing: Any) -> Tensor | list[Tensor]:
        """Codes (N, *layout.shape) for start ids (N,), drawn with ``temperature``, ``top_k`` and ``top_p``."""

    def forward(self, ids: Tensor) -> Tensor:
        """As ``loss``; training calls the module."""
        return self.loss(ids)

    @property
    def device(self) -> torch.device:
        """Where its parameters live."""
        return next(self.parameters()).device


class CategoricalPrior(Prior):
    """A prior whose network gives logits of codes; how they are trained, and drawn in batches.

    Ids that cannot stand at a place (BOS, PAD, classes; END at fixed length; codes that a position lacks) get
    probability zero by a mask on the logits: likelihoods are normalised over what can occur, samples hold only codes.

    Args:
        layout: of the codes.
        codec: the codewords, where embedding or target read them.
        embedding: a learned vector per code, or a learned linear map of the whitened codewords.
        targets: train on the codes, or on a distribution over codes with codewords close by.
        smoothing: width of that distribution, in mean distances of a codeword to its nearest other one.
    """

    takes_guidance: ClassVar[bool] = True
    completes: ClassVar[bool] = True
    allowed: Tensor

    def __init__(
        self, layout: CodeLayout, codec: Codec | None, embedding: Embedding, targets: Target, smoothing: float
    ) -> None:
        super().__init__(layout)
        self.targets: Target = targets
        self.geometry: CodeGeometry | None = None
        if embedding == "codewords" or targets == "smoothed":
            if codec is None:
                raise InputError(f"embedding={embedding}, targets={targets}: these read codewords; give the codec")
            self.geometry = CodeGeometry(codec, layout, smoothing)
        self.register_buffer("allowed", layout.allowed(), persistent=False)

    def nats(self, logits: Tensor, codes: Tensor, smoothed: bool = False) -> Tensor:
        """Negative log-likelihood (B, n) of codes (B, n) under logits (B, n, V), -inf where nothing can stand.

        ``smoothed``: the cross-entropy with the target distribution of the training.
        """
        if not smoothed or self.targets == "one_hot" or self.geometry is None:
            return F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").reshape(codes.shape)
        shares = self.geometry.target(codes)
        logs = logits[..., : shares.shape[-1]].log_softmax(-1)
        return -(shares * logs.masked_fill(logs == -math.inf, 0)).sum(-1)

    def sample(self, start: Tensor, *, seed: int = 0, batch_size: int = 500, **drawing: Any) -> Tensor | list[Tensor]:
        """As of ``Prior``, by the fields of ``Drawing``; deterministic by seed and batch size."""
        codes = torch.zeros(len(start), self.layout.length, dtype=torch.long)
        given = torch.zeros_like(codes, dtype=torch.bool)
        return self._in_batches(start, codes, given, Drawing(**drawing), seed, batch_size)

    def complete(
        self, start: Tensor, codes: Tensor, mask: Tensor, *, seed: int = 0, batch_size: int = 500, **drawing: Any
    ) -> Tensor:
        """Codes (N, *layout.shape) that keep the given ones, the others drawn.

        Args:
            start: ids (N,).
            codes: (N, *layout.shape); what stands where nothing is given is not read.
            mask: where codes are given: bool, shaped as the codes.
            seed: as of ``sample``, like the rest.
            batch_size: images drawn together.
            **drawing: fields of ``Drawing``.

        Raises:
            InputError: codes or mask of another shape, lengths that vary.
        """
        shape = (len(start), *self.layout.shape)
        if tuple(codes.shape) != shape or tuple(mask.shape) != shape or self.layout.variable_length:
            raise InputError(
                f"codes {tuple(codes.shape)} and mask {tuple(mask.shape)} to complete must both be {shape}"
            )
        given = mask.flatten(1)
        known = codes.flatten(1).masked_fill(~given, 0)
        drawn = self._in_batches(start, known, given, Drawing(**drawing), seed, batch_size)
        assert isinstance(drawn, Tensor)
        return drawn

    @torch.no_grad()
    def _in_batches(
        self, start: Tensor, codes: Tensor, given: Tensor, drawing: Drawing, seed: int, batch_size: int
    ) -> Tensor | list[Tensor]:
        if drawing.is_guided and not self.layout.n_classes:
            raise InputError(f"guidance={drawing.guidance:g}: this prior has no classes; leave it at 1")
        device, parts = self.device, []
        with (
            torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []),
            progress("drawing codes", len(start)) as advance,
        ):
            torch.manual_seed(seed)
            for batch in torch.arange(len(start)).split(batch_size):
                ids = self._draw(start[batch].to(device), codes[batch].to(device), given[batch].to(device), drawing)
                parts.append(torch.cat([start[batch, None], ids.cpu()], dim=1))
                advance(len(batch))
        return self.layout.decode(torch.cat(parts))

    @abstractmethod
    def _draw(self, start: Tensor, codes: Tensor, given: Tensor, drawing: Drawing) -> Tensor:
        """Ids (B, S - 1) after start ids (B,), where codes (B, L) stay as they are where they are ``given`` (B, L)."""


class OrderedPrior(CategoricalPrior):
    """One code after another: p(c_1 | s) p(c_2 | s, c_1) …

    ``complete`` draws in this order too: given codes are known to those drawn after them, and do not influence those
    before.
    """

    is_ordered: ClassVar[bool] = True

    @abstractmethod
    def logits(self, ids: Tensor) -> Tensor:
        """Scores (B, S - 1, V) of what may follow each beginning of ids (B, S): -inf of what may not."""

    def loss(self, ids: Tensor) -> Tensor:
        """Cross-entropy with the target in nats (the negative log-likelihood if that is one-hot): (B, S) to (B,)."""
        return self.code_lengths(ids, smoothed=True).sum(1)

    def code_lengths(self, ids: Tensor, smoothed: bool = False) -> Tensor:
        """Negative log-likelihood in nats of each next id: ids (B, S) to (B, S - 1), zero at PAD."""
        target = ids[:, 1:]
        # PAD is masked out of the logits: score END there, which may stand anywhere, then drop the score.
        padded = target == self.layout.pad
        return self.nats(self.logits(ids), target.masked_fill(padded, self.layout.end), smoothed) * ~padded

    @torch.no_grad()
    def bits_per_image(self, ids: Tensor, batch_size: int = 500) -> Tensor:
        """Code length -log2 p(codes | start) of each sequence in bits: (N, S) to (N,)."""
        scores = [self.code_lengths(batch.to(self.device)).sum(1).cpu() for batch in ids.split(batch_size)]
        return torch.cat(scores) / math.log(2.0)
