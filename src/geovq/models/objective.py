"""The training objective of a VAE as a module, so that the rate controller's state is saved with it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from geovq import ranks
from geovq.models.adversarial import ImageLoss
from geovq.models.autoencoder import decoder_of, encoded
from geovq.models.condition import given
from geovq.models.vae import NATS_PER_BIT, Posterior, RateController, divergence_cost, reconstruction_loss


class VaeObjective(nn.Module):
    """reconstruction + beta * KL with warm-up of beta and, where a rate is given, control of it.

    ``free_bits="rate"`` charges each token only for what it spends above the given rate, and all of it where
    no rate is given. An autoencoder without a posterior has the reconstruction term alone. Where it is set,
    ``image_loss`` stands in the place of the reconstruction term.
    """

    def __init__(
        self,
        vae: nn.Module,
        loss: str,
        beta: float,
        free_bits: float | Literal["rate"],
        rate_bits_per_token: float | None,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.image_loss: ImageLoss | None = None
        self.loss = loss
        self.each_token = free_bits == "rate"
        self.free_bits = float(rate_bits_per_token or 0) if free_bits == "rate" else free_bits
        self.controller = RateController(beta, rate_bits_per_token)

    def forward(
        self, x: Tensor, warm: float, progress: float = 0.0, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of images (B, C, H, W) in [0, 1] with beta scaled by ``warm`` in [0, 1].

        ``progress`` is the share of the training that is done; ``labels`` (B,) are for the decoder.
        """
        logits, divergence = self._sampled(x, labels)
        if self.image_loss is not None:
            reconstruction, scalars = self.image_loss(logits, x, progress)
        else:
            reconstruction = reconstruction_loss(logits, x, self.loss).mean()
            scalars = {"reconstruction": reconstruction.detach()}
        if divergence is None:
            return reconstruction, {"loss": reconstruction.detach(), **scalars}
        beta = self.controller.beta
        loss = reconstruction + warm * beta * divergence_cost(divergence, self.free_bits, self.each_token).mean()
        bits = ranks.mean(divergence.detach().mean()) / NATS_PER_BIT
        if self.training and warm >= 1:
            self.controller.update(bits)
        return loss, {"loss": loss.detach(), **scalars, "kl_bits_per_token": bits, "beta": beta.detach()}

    @property
    def decoder(self) -> nn.Module:
        """Latent grids (B, d, h, w) to images; with ``logits``."""
        return decoder_of(self.vae)

    def _sampled(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Decoder logits at one draw of the posterior, and its divergence (B, h, w) in nats, where there is one."""
        (mean, log_variance), decoder = encoded(self.vae, x), given(self.decoder, labels)
        if log_variance is None:
            return decoder.logits(mean), None
        logits = decoder.logits(Posterior(mean, log_variance).sample())
        return logits, Posterior(mean.float(), log_variance.float()).divergence()

    def held_out_sums(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Sums over a batch of the reconstruction term, at one draw of the posterior, and of the KL in bits: (2,)."""
        logits, divergence = self._sampled(x, labels)
        bits = logits.new_zeros(()) if divergence is None else divergence.sum() / torch.tensor(NATS_PER_BIT)
        if self.image_loss is not None:
            return torch.stack([self.image_loss.held_out(logits, x).sum(), bits])
        return torch.stack([reconstruction_loss(logits, x, self.loss).sum(), bits])

    def held_out_score(self, reconstruction: float, bits_per_token: float, n_tokens: int) -> float:
        """What "best" means on validation data, lower being better.

        With a fixed beta: the loss. At a matched rate beta moves, so losses of different steps do not
        compare; the score is then the reconstruction at the target rate, read off the tangent of the
        rate-distortion curve, whose slope is -beta: ``reconstruction + beta * (KL - target)``. Weights whose
        rate is off by more than 5 % are not eligible (the tangent would flatter them).
        """
        beta = float(self.controller.beta)
        nats = bits_per_token * NATS_PER_BIT * n_tokens
        target = self.controller.target_bits
        if target is None:
            return reconstruction + beta * nats
        if abs(bits_per_token / target - 1) > 0.05:
            return float("inf")
        return reconstruction + beta * (nats - target * NATS_PER_BIT * n_tokens)
