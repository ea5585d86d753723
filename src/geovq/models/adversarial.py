"""Losses for images that look real: reconstruction, perceptual distance and a discriminator's judgement.

    L = reconstruction(x, y) + w_p * distance(x, y) + w_a * λ * L_adv(y)

(Esser et al. 2021, eq. 5 to 7) with the hinge loss of a patch discriminator D (Isola et al. 2017; Lim & Ye 2017)

    L_adv(y) = -mean D(y)        L_D = ½ mean max(0, 1 - D(x)) + ½ mean max(0, 1 + D(y))

and λ = ‖∇(reconstruction + w_p distance)‖ / ‖∇L_adv‖, so that w_a is a ratio of gradients and has no unit. Both norms
are taken at the decoder's output, not at the weights of its last layer: that holds for any decoder.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.models.layers import normalisation
from geovq.models.perceptual_network import Perception
from geovq.models.vae import reconstruction_loss

_LEAST_NORM = 1e-6


class PatchDiscriminator(nn.Module):
    """Says of overlapping patches of an image whether they are real.

    Args:
        channels: colour channels of the images.
        size: (H, W); it is halved while four pixels or more are left, ``halvings`` times at most.
        width: channels of the first convolution, a multiple of 8, doubled at each halving up to four times as many.
        halvings: at most.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int = 48, halvings: int = 2) -> None:
        super().__init__()
        halvings = max(1, min(halvings, min(size).bit_length() - 2))
        widths = [width * min(2**level, 4) for level in range(halvings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level, (before, after) in enumerate(pairwise(widths), start=2):
            stride = 2 if level <= halvings else 1
            kernel = 4 if stride == 2 else 3
            layers += [nn.Conv2d(before, after, kernel, stride=stride, padding=1), normalisation("group", after)]
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to scores (B, 1, h, w): positive where a patch looks real."""
        return self.layers(2 * images - 1)


class ImageLoss(nn.Module):
    """The loss above and the discriminator's own, which one optimiser descends together.

    The discriminator's gradients do not reach the decoder, nor the decoder's the discriminator.

    Args:
        discriminator: of these images.
        perception: frozen features of another network than the one that judges; not saved with this module.
        reconstruction: mse | l1 | bce, summed over the pixels of an image.
        perceptual_weight: w_p, loss units per unit of perceptual distance.
        adversarial_weight: w_a, the adversarial gradient's norm as a share of that of the other terms.
        adversarial_start: share of the training after which the adversarial term counts.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        perception: Perception,
        reconstruction: str,
        perceptual_weight: float,
        adversarial_weight: float,
        adversarial_start: float,
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self._perception = (perception,)  # in a tuple it is no submodule
        self.reconstruction = reconstruction
        self.perceptual_weight, self.adversarial_weight = perceptual_weight, adversarial_weight
        self.adversarial_start = adversarial_start

    @property
    def perception(self) -> Perception:
        """The frozen features."""
        return self._perception[0]

    def distance(self, logits: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction term and perceptual distance of each image, both (B,)."""
        return reconstruction_loss(logits, x, self.reconstruction), self.perception.distance(x, torch.sigmoid(logits))

    def forward(self, logits: Tensor, x: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a batch, the discriminator's included.

        Args:
            logits: the decoder's output (B, C, H, W) before the sigmoid.
            x: originals in [0, 1].
            progress: share of the training that is done, in [0, 1].

        Returns:
            The loss and scalars worth logging.
        """
        # What pulls at the decoder's output is computed there, so that the decoder is differentiated once.
        output = logits.detach().float().requires_grad_()
        reconstruction, distance = (term.mean() for term in self.distance(output, x))
        kept = reconstruction + self.perceptual_weight * distance
        (pull,) = torch.autograd.grad(kept, output)
        drawn = torch.sigmoid(output)
        adversarial = -self.discriminator(drawn).float().mean()
        if progress >= self.adversarial_start and self.adversarial_weight > 0:
            (other,) = torch.autograd.grad(adversarial, output)
            scale = self.adversarial_weight * pull.norm() / other.norm().clamp(min=_LEAST_NORM)
            pull = pull + scale * other
            kept = kept + scale * adversarial
        real, drawn = (self.discriminator(images).float() for images in (x, drawn.detach()))
        discriminator = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + drawn).mean())
        carried = (logits * pull.to(logits.dtype)).sum()  # its gradient is the pull; its value is replaced
        loss = carried - carried.detach() + kept.detach() + discriminator
        scalars = {"reconstruction": reconstruction, "perceptual": distance, "adversarial": adversarial}
        return loss, {name: value.detach() for name, value in (scalars | {"discriminator": discriminator}).items()}
