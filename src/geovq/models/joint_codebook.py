"""Codebooks of vectors, kept by vector-quantize-pytorch: moved by gradients or by exponential means.

The penalty is, in squared latent units and as a mean over tokens *and* dimensions,

    |sg[z] - e|^2 + beta |z - sg[e]|^2          (van den Oord et al. 2017, eq. 3)

where z is a token, e its codeword and sg stops gradients; codebooks moved by exponential means have only the second
term, the commitment. In training the library chooses the codes, moves and restarts the codewords, and bends the
gradients. Three things are done here, because the library does otherwise:

- Evaluation looks codewords up with ``nearest``: the library's forward pass starts k-means in evaluation mode too,
  and returns no commitment there.
- The two terms of the published loss are weighed apart: the library has one weight for both.
- The threshold of restarts is a share of the mean count: the library's is a number of tokens per batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from geovq import ranks
from geovq.configuration.fields import Fraction, Positive, Restart
from geovq.models.joint_quantizer import Quantized, TokenQuantizer, straight_through


@torch.no_grad()
def nearest(tokens: Tensor, table: Tensor) -> Tensor:
    """Row of ``table`` (K, d) nearest to each of ``tokens`` (N, d) by latent L2: (N,); ties go to the first row."""
    return torch.addmm(table.square().sum(1), tokens, table.T, beta=1, alpha=-2).argmin(1)


def library_settings(beta: float, decay: float, restart: float) -> dict[str, Any]:
    """What all codebooks of exponential means ask of ``VectorQuantize`` and ``ResidualVQ``."""
    return {
        "decay": decay,
        "commitment_weight": beta,
        "kmeans_init": True,
        # Positive turns restarts on; the number itself is set for each batch by ``set_restarts``.
        "threshold_ema_dead_code": float(restart > 0),
        "rotation_trick": False,
        "sync_codebook": False,
    }


def set_restarts(quantizers: Iterable[Any], n_tokens: int, restart: float) -> None:
    """Let the library restart codes whose exponential count is under ``restart`` times the mean count of a batch.

    Args:
        quantizers: ``VectorQuantize`` modules.
        n_tokens: tokens of the batch, of this rank's share of it where there are several.
        restart: share of the mean count ``n_tokens / K``; 0 was settled when they were made.
    """
    for quantizer in quantizers:
        codebook = quantizer._codebook
        codebook.threshold_ema_dead_code = restart * n_tokens * ranks.count() / quantizer.codebook_size
        codebook.reset_cluster_size = 2 * codebook.threshold_ema_dead_code


class VectorCodebook(TokenQuantizer):
    """K vectors of d dimensions and the nearest-neighbour rule; subclasses say how the vectors move.

    The first training batch starts them by the library's ten passes of k-means.

    Attributes:
        underlying: the ``VectorQuantize`` that holds the codewords.
        penalty_factor: of the mean squared error, in all terms of the penalty together.
    """

    def __init__(
        self, dim: int, n_codes: int, beta: float, restart: float, penalty_weight: float, **settings: Any
    ) -> None:
        # Imported here: einx alone costs every command a second.
        from vector_quantize_pytorch import VectorQuantize

        from geovq.models.shared_codebook import shared

        super().__init__()
        self.dim = dim
        self.sizes = (n_codes,)
        self.beta, self.restart, self.penalty_weight = beta, restart, penalty_weight
        self.penalty_factor = beta
        self.underlying = shared(VectorQuantize(dim, n_codes, **settings))

    @property
    def table(self) -> Tensor:
        """The codewords (K, d); all zero before the first training batch."""
        return self.underlying.codebook

    def codes(self, tokens: Tensor) -> Tensor:
        """The nearest codeword of each token: (N, 1)."""
        return nearest(tokens, self.table)[:, None]

    def tables(self) -> list[Tensor]:
        """The codewords (K, d), without gradient; not a copy."""
        return [self.table.detach()]

    def quantize(self, tokens: Tensor, progress: float) -> Quantized:
        """Codewords with the estimator's gradient; in training mode, then also move the codebook."""
        if self.training:
            set_restarts([self.underlying], len(tokens), self.restart)
            return self.train_on(tokens)
        codes = self.codes(tokens)
        rows = self.embed(codes)
        return Quantized(rows, codes, self.penalty_factor * F.mse_loss(tokens, rows))

    @abstractmethod
    def train_on(self, tokens: Tensor) -> Quantized:
        """Quantize in training mode by the library."""


class GradientCodebook(VectorCodebook):
    """Codewords as weights, pulled to their tokens by the first term of the penalty (van den Oord et al. 2017).

    Codewords move by the optimizer alone.

    Args:
        dim: dimensions of a token.
        n_codes: K.
        beta: commitment, as a share of the codebook term.
        decay: of the counts by which dead codes are found, per step.
        restart: codes with a smaller share of the mean count are put on a random token; 0: never.
        weight: of both terms, next to squared pixel error: about the variance of the pixels.
    """

    def __init__(
        self, dim: int, n_codes: int, beta: Positive, decay: Fraction, restart: Restart, weight: Positive = 0.1
    ) -> None:
        settings = library_settings(1.0, decay, restart) | {"learnable_codebook": True, "ema_update": False}
        super().__init__(dim, n_codes, beta, restart, weight, **settings)
        self.penalty_factor = 1 + beta  # the values of both terms are the same

    def train_on(self, tokens: Tensor) -> Quantized:
        """As in the base class. Given tokens without gradient, the library returns rows, and the first term alone."""
        rows, codes, pull = self.underlying(tokens.detach()[None])
        penalty = pull + self.beta * F.mse_loss(tokens, rows[0].detach())
        return Quantized(straight_through(tokens, rows[0]), codes[0, :, None], penalty)


class MovingCodebook(VectorCodebook):
    """Codewords as exponential means of their tokens (van den Oord et al. 2017, appendix A.1).

    After each training step, with n_k tokens of code k and their sum s_k,

        N_k <- decay N_k + (1 - decay) n_k,     S_k <- decay S_k + (1 - decay) s_k,     e_k = S_k / N'_k

    where N'_k = (N_k + eps) / (N + K eps) * N with N = sum of N_k is the Laplace-smoothed count. Codes under the
    threshold of ``set_restarts`` are then put on random tokens of the batch (Dhariwal et al. 2020).

    Args:
        dim: dimensions of a token.
        n_codes: K.
        beta: commitment.
        decay: of the exponential means, per step.
        restart: codes with a smaller share of the mean count are put on a random token; 0: never.
        rotation: pass gradients by the rotation trick (Fifty et al. 2024) instead of straight-through.
        weight: of the commitment, next to squared pixel error: about the variance of the pixels.
    """

    def __init__(
        self,
        dim: int,
        n_codes: int,
        beta: Positive,
        decay: Fraction,
        restart: Restart,
        rotation: bool = False,
        weight: Positive = 0.1,
    ) -> None:
        settings = library_settings(beta, decay, restart) | {"rotation_trick": rotation}
        super().__init__(dim, n_codes, beta, restart, weight, **settings)

    def train_on(self, tokens: Tensor) -> Quantized:
        """As in the base class; the codewords returned are those before the codebook moves."""
        vectors, codes, penalty = self.underlying(tokens[None])
        return Quantized(vectors[0], codes[0, :, None], penalty)


class TwoGridCodebook(MovingCodebook):
    """``MovingCodebook`` of each of two grids: VQ-VAE-2 (Razavi et al. 2019)."""

    grids: ClassVar[int] = 2
