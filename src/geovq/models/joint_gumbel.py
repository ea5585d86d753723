"""Codes as random choices: a Gumbel-softmax sample in training, the likeliest code afterwards.

Plain torch: the library's ``VectorQuantize`` has Gumbel noise (``stochastic_sample_codes``), but on distances, with a
hard choice whose soft part has no noise, without a divergence, and not together with a codebook that is learned.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq import ranks
from geovq.configuration.fields import NotNegative, Positive, Share
from geovq.models.joint_quantizer import Quantized, TokenQuantizer


class GumbelQuantizer(TokenQuantizer):
    """Scores per code, and a codeword mixed by their Gumbel-softmax (Jang et al. 2017, eq. 2).

    The score of code k is ``gain`` times the inner product of the token and weight w_k, standardised over the tokens
    of the batch (in evaluation over its running mean and variance). In training the decoder reads
    ``softmax((l + g) / temperature) E`` with scores l, Gumbel noise g and codewords E_k = ``scale`` w_k, afterwards the
    codeword of the largest score. The temperature falls geometrically from ``temperature_start`` to
    ``temperature_end`` as training proceeds, so that the mixture becomes a choice.

    The penalty is KL(softmax(l) || uniform) in nats per token, which lies in [0, ln K]. In training it is multiplied
    by a factor that rises linearly from 0 to 1 over the first ``kl_ramp`` of it.

    Without the three measures the codes collapse: scores of an untrained layer are small next to the noise, so that
    all tokens get the same mixture (gain); tokens of an untrained encoder differ little from their mean, so that few
    codes win (standardisation); and a code's vector says nothing about the tokens that score it (shared weights).
    Codewords start with unit variance. Adam's steps do not depend on the size of a weight, so codewords move ``scale``
    times as fast as other weights; slower ones lag behind in short trainings.

    Args:
        dim: dimensions of a token.
        n_codes: K.
        temperature_start: of the softmax, at the beginning of the training.
        temperature_end: at its end.
        kl_ramp: share of the training over which the penalty rises from 0.
        gain: of the standardised scores: as large as 6, they are heard above the Gumbel noise.
        scale: codewords are this many times their weights, and move as many times as fast.
        kl_weight: loss units per nat of KL divergence from the uniform choice.
    """

    latents_are_points: ClassVar[bool] = False
    penalty_in_nats: ClassVar[bool] = True

    temperature: Tensor

    def __init__(
        self,
        dim: int,
        n_codes: int,
        temperature_start: Positive,
        temperature_end: Positive,
        kl_ramp: Share,
        gain: Positive,
        scale: Positive,
        kl_weight: NotNegative = 0.01,
    ) -> None:
        super().__init__()
        self.penalty_weight = kl_weight
        self.dim = dim
        self.sizes = (n_codes,)
        self.start, self.end, self.kl_ramp, self.gain = temperature_start, temperature_end, kl_ramp, gain
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(n_codes, dim) / scale)
        self.standardise = nn.BatchNorm1d(n_codes, affine=False)
        self.register_buffer("temperature", torch.tensor(float(temperature_start)))

    @classmethod
    def check_settings(cls, settings: Any) -> None:
        """The samples harden as the temperature falls."""
        if settings.temperature_end > settings.temperature_start:
            raise ValueError(
                f"quantizer.temperature_end={settings.temperature_end} must be at most quantizer.temperature_start="
                f"{settings.temperature_start}: the samples harden as the temperature falls"
            )

    def quantize(self, tokens: Tensor, progress: float) -> Quantized:
        """The relaxed sample in training mode; the likeliest code otherwise."""
        products = F.linear(tokens, self.weight)
        scores = self.gain * self._standardised(products)
        codes = scores.argmax(1, keepdim=True)
        logarithms = F.log_softmax(scores, dim=1)
        divergence = (logarithms.exp() * logarithms).sum(1).mean() + math.log(self.sizes[0])
        if not self.training:
            return Quantized(self.embed(codes), codes, divergence)
        self.temperature.fill_(self.start * (self.end / self.start) ** min(max(progress, 0.0), 1.0))
        uniform = torch.rand_like(scores).clamp(torch.finfo(scores.dtype).tiny, 1 - 2**-24)
        shares = torch.softmax((scores - (-uniform.log()).log()) / self.temperature, dim=1)
        ramp = min(1.0, progress / self.kl_ramp) if self.kl_ramp > 0 else 1.0
        return Quantized(shares @ self._codewords(), codes, ramp * divergence)

    def scores(self, tokens: Tensor) -> Tensor:
        """Tokens (N, dim) to scores (N, K) by the running mean and variance, in training mode as well."""
        norm = self.standardise
        products = F.linear(tokens, self.weight)
        return self.gain * F.batch_norm(products, norm.running_mean, norm.running_var, eps=norm.eps)

    def codes(self, tokens: Tensor) -> Tensor:
        """The code with the largest score: (N, 1). It need not be the nearest codeword."""
        return self.scores(tokens).argmax(1, keepdim=True)

    def _standardised(self, products: Tensor) -> Tensor:
        """Products (N, K) over the tokens of the batch, of all ranks where there are several."""
        if ranks.count() == 1 or not self.training:
            standardised: Tensor = self.standardise(products)
            return standardised
        norm: Any = self.standardise
        n = len(products) * ranks.count()
        mean = ranks.mean(products.mean(0))
        variance = ranks.mean((products - mean).square().mean(0))
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (n / (n - 1)), norm.momentum)
            norm.num_batches_tracked.add_(1)
        return (products - mean) * (variance + norm.eps).rsqrt()

    def _codewords(self) -> Tensor:
        return self.scale * self.weight

    def tables(self) -> list[Tensor]:
        """The codewords (K, d), without gradient."""
        return [self._codewords().detach()]

    def scalars(self) -> dict[str, Tensor]:
        """The temperature of the last step."""
        return {"temperature": self.temperature.clone()}
