"""Losses for images that look real: reconstruction, perceptual distance and a discriminator's judgement.

    L = reconstruction(x, y) + w_p * distance(x, y) + w_f * F(X, Y) + w_a * λ * L_adv(y)

(Esser et al. 2021, eq. 5 to 7) with the Fréchet distance F of the originals and what is drawn as sets
(``geovq.models.frechet_loss``) and the hinge loss (Lim & Ye 2017) of a discriminator D of patches (Isola et al. 2017)

    L_adv(y) = -mean D(y)        L_D = ½ mean max(0, 1 - D(x)) + ½ mean max(0, 1 + D(y))

and λ = ‖∇(all other terms)‖ / ‖∇L_adv‖, so that w_a is a ratio of gradients and has no unit. The gradient of w_f F is
shortened to the length of that of the two terms before it where it is longer. All norms are taken at the decoder's
output, not at the weights of its last layer: that holds for any decoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq import ranks
from geovq.models.frechet_loss import FrechetTerm
from geovq.models.layers import normalisation
from geovq.models.perceptual_network import Perception
from geovq.models.vae import reconstruction_loss

_LEAST_NORM = 1e-6
_MOST_SHIFT = 2  # pixels


class Discriminator(nn.Module):
    """Says of patches of an image, and of places on the maps of a frozen network, whether they are real.

    Pixels show what the network's features miss; these show at once what a discriminator of pixels would have to learn
    first (Sauer et al. 2021).

    Args:
        channels: colour channels of the images.
        size: (H, W); it is halved while four pixels or more are left, twice at most.
        features: channels of each map of the frozen network.
        width: channels of the first convolution, a multiple of 8, doubled at each halving.
    """

    def __init__(self, channels: int, size: tuple[int, int], features: Sequence[int], width: int = 48) -> None:
        super().__init__()
        halvings = max(1, min(2, min(size).bit_length() - 2))
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(halvings):
            before, after = width * 2**level, width * 2 ** (level + 1)
            kernel, stride = (4, 2) if level < halvings - 1 else (3, 1)
            layers += [nn.Conv2d(before, after, kernel, stride, padding=1), normalisation("group", after)]
            layers.append(nn.LeakyReLU(0.2))
        self.pixels = nn.Sequential(*layers, nn.Conv2d(width * 2**halvings, 1, 3, padding=1))
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(each, 64, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 3, padding=1))
            for each in features
        )

    def forward(self, images: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Images (B, C, H, W) in [0, 1] and their maps to scores (B, 1, h, w) each: positive what looks real."""
        judged = [head(each) for head, each in zip(self.maps, features, strict=True)]
        return [self.pixels(2 * images - 1), *judged]


class ImageLoss(nn.Module):
    """The loss above and the discriminator's own, which one optimiser descends together.

    The discriminator's gradients do not reach the decoder, nor the decoder's the discriminator. In training, image and
    original are shifted by the same few pixels before they are compared and judged (Zhao et al. 2020): on networks with
    strides, a texture of the same period would else please where it stands.

    Args:
        discriminator: of these images; None: there is no adversarial term.
        perception: frozen features of another network than the one that judges; not saved with this module.
        reconstruction: mse | l1 | bce, summed over the pixels of an image.
        perceptual_weight: w_p, loss units per unit of perceptual distance.
        adversarial_weight: w_a, the adversarial gradient's norm as a share of that of the other terms.
        adversarial_start: share of the training after which the adversarial term counts.
        frechet: the distance as sets, of vectors of ``perception.layout``; None: there is no such term.
        frechet_weight: w_f, loss units per unit of that distance.
    """

    def __init__(
        self,
        discriminator: Discriminator | None,
        perception: Perception,
        reconstruction: str,
        perceptual_weight: float,
        adversarial_weight: float,
        adversarial_start: float,
        frechet: FrechetTerm | None = None,
        frechet_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.frechet, self.frechet_weight = frechet, frechet_weight
        self._perception = (perception,)  # in a tuple it is no submodule
        self.reconstruction = reconstruction
        self.perceptual_weight, self.adversarial_weight = perceptual_weight, adversarial_weight
        self.adversarial_start = adversarial_start

    @property
    def perception(self) -> Perception:
        """The frozen features."""
        return self._perception[0]

    @property
    def sharpens(self) -> bool:
        """Whether it compares sets, by which it may leave the originals farther away by itself."""
        return self.discriminator is not None or self.frechet is not None

    def held_out(self, logits: Tensor, x: Tensor) -> Tensor:
        """Reconstruction and perceptual term of each image (B,): all but the adversarial one."""
        real, drawn = (self.perception.features(images) for images in (x, torch.sigmoid(logits)))
        reconstruction = reconstruction_loss(logits, x, self.reconstruction)
        return reconstruction + self.perceptual_weight * self.perception.distance(real, drawn)

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
        reconstruction = reconstruction_loss(output, x, self.reconstruction).mean()
        images = torch.sigmoid(output)
        if self.training:
            images, x = _shifted(images, x)
        with torch.no_grad():
            real = self.perception.features(x)
        drawn = self.perception.features(images)
        distance = self.perception.distance(real, drawn).mean()
        kept = reconstruction + self.perceptual_weight * distance
        scalars = {"reconstruction": reconstruction, "perceptual": distance}
        (pull,) = torch.autograd.grad(kept, output, retain_graph=self.sharpens)
        if self.frechet is not None:
            scalars["frechet"] = self.frechet(self.perception.layout(real), self.perception.layout(drawn))
            further = self.frechet_weight * scalars["frechet"]
            (other,) = torch.autograd.grad(further, output, retain_graph=self.discriminator is not None)
            # Where moments are far apart, or lag behind, it would pull without bounds.
            scale = (ranks.norm(pull) / ranks.norm(other).clamp(min=_LEAST_NORM)).clamp(max=1.0)
            pull, kept = pull + scale * other, kept + scale * further
        if self.discriminator is not None:
            adversarial = -_mean(self.discriminator(images, drawn))
            if progress >= self.adversarial_start:
                (other,) = torch.autograd.grad(adversarial, output)
                scale = self.adversarial_weight * ranks.norm(pull) / ranks.norm(other).clamp(min=_LEAST_NORM)
                pull = pull + scale * other
                kept = kept + scale * adversarial
            of_real = self.discriminator(x, real)
            of_drawn = self.discriminator(images.detach(), [each.detach() for each in drawn])
            scalars["adversarial"] = adversarial
            hinges = (_mean([F.relu(1 - each) for each in of_real]), _mean([F.relu(1 + each) for each in of_drawn]))
            scalars["discriminator"] = 0.5 * sum(hinges, start=output.new_zeros(()))
        carried = (logits * pull.to(logits.dtype)).sum()  # its gradient is the pull; its value is replaced
        loss = carried - carried.detach() + kept.detach() + scalars.get("discriminator", 0.0)
        return loss, {name: value.detach() for name, value in scalars.items()}


def _shifted(*batches: Tensor) -> list[Tensor]:
    """Images (B, C, H, W), all moved by the same whole pixels, drawn anew at each call; borders are repeated."""
    down, right = torch.randint(0, 2 * _MOST_SHIFT + 1, (2,)).tolist()
    height, width = batches[0].shape[-2:]
    wide = (F.pad(images, [_MOST_SHIFT] * 4, mode="replicate") for images in batches)
    return [images[..., down : down + height, right : right + width] for images in wide]


def _mean(scores: Sequence[Tensor]) -> Tensor:
    """Mean over places and images of each kind of scores, and of these means."""
    return torch.stack([each.float().mean() for each in scores]).mean()
