"""codes -> prior: train the transformer on training codes; measure code lengths on held-out ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq.models.code_layout import CodeLayout
from geovq.models.codec import Codec
from geovq.models.prior import Prior
from geovq.pipeline.fit import seeded, training_settings
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.networks import codes_stage, final_codes
from geovq.pipeline.stages.training import load_network, train_stage, write_network

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.data import DataInfo
    from geovq.pipeline.artifacts import ArtifactWriter


def make_prior(config: Config, info: DataInfo, codec: Codec) -> Prior:
    """An untrained prior for the codes of a codec, seeded by ``transformer.seed``."""
    settings = config.prior
    assert settings is not None
    classes = info.n_classes if settings.class_conditional else 0
    layout = CodeLayout(max(codec.sizes), codec.shape, classes, sizes=codec.sizes)
    with seeded(settings.seed):
        prior: Prior = settings.make(layout=layout)
    return prior


class PriorTask:
    """Batches and validation of the prior on id sequences that live on the device."""

    name = "prior"

    def __init__(self, model: Prior, train: Tensor, validation: Tensor, class_dropout: float) -> None:
        self.model: nn.Module = model
        self.prior = model
        self.train = train
        self.validation = validation
        self.class_dropout = class_dropout
        self.n_examples = len(train)

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean negative log-likelihood per code, the class withheld at random."""
        ids = self.train[index]
        withheld = torch.rand(len(ids), device=ids.device) < self.class_dropout
        ids = torch.cat([torch.where(withheld, self.prior.layout.bos, ids[:, 0])[:, None], ids[:, 1:]], dim=1)
        loss = model(ids).mean() / self.prior.layout.length
        return loss, {"nats_per_code": loss.detach()}

    def validate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        """Held-out code length in bits per image, given the start token."""
        bits = float(self.prior.bits_per_image(self.validation).mean())
        return bits, {"bits_per_image": bits}


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train, then score the test codes with their class and without it."""
    config, data, device = context.config, context.data, context.device
    settings = config.prior
    assert settings is not None
    prior = make_prior(config, context.info, load_codec(final_codes(inputs))).to(device)
    ids = {
        split: prior.layout.encode(load_codes(final_codes(inputs), split), getattr(data, split).labels)
        for split in ("train", "validation", "test")
    }
    task = PriorTask(prior, ids["train"].to(device), ids["validation"].to(device), settings.class_dropout)
    result = train_stage(context, out, task, settings, of=prior)
    without_class = ids["test"].clone()
    without_class[:, 0] = prior.layout.bos

    def test_bits(ids: Tensor, measured: bool) -> float | None:
        return float(prior.bits_per_image(ids).mean()) if measured else None

    n_classes = prior.layout.n_classes
    write_network(
        out,
        prior,
        result,
        validation_bits_per_image=result.best_score,
        test_bits_per_image=test_bits(without_class, settings.class_dropout > 0 or not n_classes),
        test_bits_per_image_given_class=test_bits(ids["test"], n_classes > 0),
    )


def load_prior(inputs: Inputs, config: Config, info: DataInfo, device: torch.device) -> Prior:
    """The trained prior in evaluation mode, for the codes beside it."""
    return load_network(make_prior(config, info, load_codec(final_codes(inputs))), inputs["prior"], device)


STAGE = Stage(
    name="prior",
    inputs=lambda config: (codes_stage(config),),
    settings=lambda config: {**config.transformer.model_dump(), **training_settings(config.trainer)},
    build=build,
    classes=lambda config: ("transformer",),
    applies=lambda config: config.prior is not None,
)
