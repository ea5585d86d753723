"""A recorded run as benchmarks of its files read it: test codes and images, codec, priors; nothing is built."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass
class CodedRun:
    """Artifacts of a recorded run by name, ``latest``, or the beginning of its id."""

    which: str

    def __post_init__(self) -> None:
        from hydra import compose, initialize_config_dir
        from omegaconf import OmegaConf

        from geovq.commands.decompress import DecompressSettings
        from geovq.commands.recorded import MADE_FROM_CODES, find, restore
        from geovq.configuration.parse import parse

        with initialize_config_dir(str(Path(__file__).parents[1] / "configs"), version_base="1.3"):
            composed = compose("decompress", ["stale=ignore", "trainer.threads=1"])
            values: Any = OmegaConf.to_container(composed, resolve=True)
        settings = parse(DecompressSettings, values | {"run": self.which})
        self.record = find(settings)
        self.runner, _ = restore(self.record, settings, indifferent=MADE_FROM_CODES)
        self.context = self.runner.context
        self.inputs = self.runner.present()

    @cached_property
    def codec(self) -> Any:
        from geovq.pipeline.stages.codes import load_codec
        from geovq.pipeline.stages.networks import final_codes

        return load_codec(final_codes(self.inputs))

    @cached_property
    def codes(self) -> Tensor:
        """(N, *shape) of the test images."""
        from geovq.pipeline.stages.codes import load_codes
        from geovq.pipeline.stages.networks import final_codes

        return load_codes(final_codes(self.inputs), "test")

    @cached_property
    def prior(self) -> Any:
        from geovq.pipeline.stages.prior import load_prior

        return load_prior(self.context, self.inputs)

    @property
    def test_images(self) -> Tensor:
        """(N, C, H, W) bytes."""
        return self.context.data.test.images

    def decoded(self) -> Tensor:
        """The test images as their codes are decoded, in bytes."""
        from geovq.pipeline.new_images import images_of

        with torch.no_grad():
            return images_of(self.context, self.inputs, self.codes)

    def weights(self) -> dict[str, int]:
        """Bytes of what a reader of files needs: decoder (of the autoencoder's weights), codewords, prior."""
        from geovq.pipeline.stages.networks import load_final_decoder

        def parameters(module: Any) -> int:
            return sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())

        tables = sum(4 * level.tables.numel() for level in self.codec.levels)
        found = {"decoder": parameters(load_final_decoder(self.context, self.inputs)), "codewords": tables}
        return found | ({"prior": parameters(self.prior)} if "prior" in self.inputs else {})
