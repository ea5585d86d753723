"""A small image classifier: the evaluation classifier, whose features and labels the evaluators use.

Public perceptual metrics need weights that not every machine has or can download. This network is trained
once per data set in about a minute, so that a perceptual distance, a Fréchet distance and label agreement
exist everywhere; every metric built on it carries its name (``fid_fashion_cnn``) since numbers
from different feature networks cannot be compared.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from geovq.errors import InputError

SMALLEST_SIDE = 4
"""Two halvings must leave at least one pixel."""


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.GroupNorm(8, channels_out),
        nn.ReLU(inplace=True),
    )


class SmallClassifier(nn.Module):
    """Three 3x3 convolutions with GroupNorm and two halvings, then one hidden layer.

    Args:
        channels: colour channels of the images, 1 or 3 (any positive number works).
        height: image height in pixels, at least 4.
        width: image width in pixels, at least 4.
        n_classes: number of labels.
        hidden_channels: channels of the first convolution, a multiple of 8; the others have 2 and 4 times as
            many.
        embedding_size: length D of the embedding.

    Raises:
        InputError: a size is out of range.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        n_classes: int,
        hidden_channels: int = 32,
        embedding_size: int = 128,
    ) -> None:
        super().__init__()
        if min(height, width) < SMALLEST_SIDE:
            raise InputError(f"images of {height}x{width}: the classifier needs at least {SMALLEST_SIDE} pixels a side")
        if n_classes < 2:
            raise InputError(f"n_classes={n_classes}: a classifier needs at least 2 classes")
        if hidden_channels < 8 or hidden_channels % 8:
            raise InputError(
                f"hidden_channels={hidden_channels} must be a positive multiple of 8 (groups of GroupNorm)"
            )
        self.image_shape = (channels, height, width)
        self.n_classes = n_classes
        self.block1 = _block(channels, hidden_channels)
        self.block2 = _block(hidden_channels, 2 * hidden_channels)
        self.block3 = _block(2 * hidden_channels, 4 * hidden_channels)
        positions = (height // 4) * (width // 4)
        self.hidden = nn.Linear(4 * hidden_channels * positions, embedding_size)
        self.output = nn.Linear(embedding_size, n_classes)

    def features(self, images: Tensor) -> list[Tensor]:
        """Activations of the three blocks, from fine to coarse.

        Args:
            images: (N, C, H, W) in [0, 1].

        Returns:
            Maps of shape (N, F, H, W), (N, 2F, H//2, W//2) and (N, 4F, H//4, W//4), not negative.

        Raises:
            InputError: the images have another shape than the network was built for.
        """
        if tuple(images.shape[1:]) != self.image_shape:
            raise InputError(f"images of shape {tuple(images.shape[1:])} given to a classifier for {self.image_shape}")
        # x: (N, C, H, W); centred so that the first convolution sees both signs
        first = self.block1(2.0 * images - 1.0)
        second = self.block2(functional.max_pool2d(first, 2))
        third = self.block3(functional.max_pool2d(second, 2))
        return [first, second, third]

    def embedding(self, images: Tensor) -> Tensor:
        """Hidden layer before the logits: (N, C, H, W) to (N, D), not negative."""
        coarsest = self.features(images)[-1]  # (N, 4F, H//4, W//4)
        return functional.relu(self.hidden(coarsest.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.output(self.embedding(images))
        return logits
