"""A small nonlinear decoder whose tokens act on each other."""

import torch
from torch import nn


class CurvedDecoder(nn.Module):
    """Tokens of 3 numbers on a 2x2 grid to images of 6x6 pixels that depend on neighbouring tokens too."""

    latent_shape = (3, 2, 2)

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.up = nn.ConvTranspose2d(3, 2, 4, stride=2)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
        self.eval()

    def forward(self, z):
        return torch.sigmoid(self.up(torch.sin(z) + 0.3 * z.mean(dim=(2, 3), keepdim=True) ** 2))


def random_latents(n=5, seed=0):
    return torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
