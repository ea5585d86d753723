"""What the parts of ``gpu_check.py`` compute on: networks of the Fashion-MNIST configuration, untrained, and images,
latents and tokens that are drawn from seeds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "src"))


class Row(TypedDict, total=False):
    """One measurement as it stands in the JSON file; ``failed`` is why there is none, or what is wrong with it."""

    part: str
    name: str
    work: str
    unit: str
    ours: float
    bare: float
    share: float  # speed of ours over that of bare torch
    difference: float
    limit: float
    remark: str
    failed: str


Rows = Iterator[Row]


@dataclass(frozen=True)
class Sizes:
    """How much is computed; ``small`` is for tests, and lets every line run on a CPU."""

    images: int = 4096
    scored: int = 10_000
    neighbours: int = 960_000  # tokens whose neighbours are searched
    queries: int = 8192  # of them, compared with all by the bare search
    assigned: int = 960_000
    square: int = 8192  # side of the square product
    codes: int = 512
    searched: int = 2048
    drawn: int = 5000
    steps: tuple[int, int] = (20, 120)  # a step is the slope between the two
    rounds: int = 3
    compared: int = 64  # images whose results are compared
    joint: tuple[str, ...] = ("vqvae_ema", "residual_vq", "product_vq", "fsq", "gumbel", "vqvae2")
    overrides: tuple[str, ...] = ()


SIZES = {
    "full": Sizes(),
    "small": Sizes(
        48, 24, 1500, 64, 3000, 64, 16, 12, 20, (1, 3), 1, 6, ("vqvae2",),
        ("vae.width=8", "vae.max_width=16", "transformer.width=16", "transformer.layers=1", "vae.batch_size=8",
         "transformer.batch_size=8"),
    ),
}  # fmt: skip


class Problem:
    """Networks and data on the CPU; ``device`` is the one that is checked."""

    def __init__(self, device: str, sizes: Sizes) -> None:
        from geovq.pipeline.device import forbid_tf32

        forbid_tf32()
        self.device, self.sizes = torch.device(device), sizes

    @cached_property
    def config(self) -> Any:
        return self.configured()

    def configured(self, *overrides: str) -> Any:
        """The default configuration for Fashion-MNIST with changes."""
        from hydra import compose, initialize_config_dir

        from geovq.commands.train import read_config

        chosen = ["data=fashion", f"quantizer.K={self.sizes.codes}", f"trainer.device={self.device.type}"]
        with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
            return read_config(compose("train", [*chosen, *self.sizes.overrides, *overrides]))

    @cached_property
    def info(self) -> Any:
        from geovq.data import DataInfo

        return DataInfo("fashion", 60_000, 10_000, 1, 28, 28, 10, tuple(map(str, range(10))), "")

    @cached_property
    def vae(self) -> nn.Module:
        from geovq.pipeline.stages.vae import make_objective

        return make_objective(self.config, self.info).vae.eval().requires_grad_(False)

    @cached_property
    def prior(self) -> Any:
        from geovq.pipeline.stages.prior import make_prior

        return make_prior(self.config, self.info, self.codec).eval()

    @cached_property
    def classifier(self) -> nn.Module:
        from geovq.models.classifier import SmallClassifier

        torch.manual_seed(0)
        return SmallClassifier(1, 28, 28, 10).eval().requires_grad_(False)

    @cached_property
    def codec(self) -> Any:
        from geovq.models.codec import flat_codec

        return flat_codec(self.codewords, self.grid)

    @property
    def grid(self) -> tuple[int, int]:
        return self.config.vae.grid, self.config.vae.grid

    @cached_property
    def codewords(self) -> Tensor:
        return normal(self.sizes.codes, self.config.vae.dim, seed=1)

    def latents(self, n: int) -> Tensor:
        return normal(n, self.config.vae.dim, *self.grid, seed=2)

    def codes(self, n: int, seed: int = 3) -> Tensor:
        return torch.randint(self.sizes.codes, (n, *self.grid), generator=torch.Generator().manual_seed(seed))

    def images(self, n: int) -> Tensor:
        """(n, 1, 28, 28) in [0, 1], smooth."""
        coarse = torch.rand(n, 1, 7, 7, generator=torch.Generator().manual_seed(4))
        return nn.functional.interpolate(coarse, size=(28, 28), mode="bilinear")

    @torch.no_grad()
    def decoded(self, n: int) -> Tensor:
        """Images (n, 1, 28, 28) that codes of ``codes(n)`` decode to, on the CPU."""
        decoder = self.there(self.vae.decoder)
        parts = self.codec.embed(self.codes(n)).split(500)
        return torch.cat([decoder(part.to(self.device)).cpu() for part in parts])

    def there(self, network: Any) -> Any:
        """A copy of a network on the device."""
        return deepcopy(network).to(self.device)

    def seconds(self, function: Callable[[], object]) -> float:
        """What a call takes, until the device has done it."""
        self._wait()
        begun = time.perf_counter()
        function()
        self._wait()
        return time.perf_counter() - begun

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
