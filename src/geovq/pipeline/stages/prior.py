"""codes -> prior: train the transformer on training codes; measure code lengths on held-out ones."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geovq.configuration.options import SIZES
from geovq.models.code_layout import CodeLayout
from geovq.models.codec import Codec
from geovq.models.prior import Prior
from geovq.pipeline.contracts import check_losses, mean_bits
from geovq.pipeline.fit import Metrics, Task, seeded, training_settings
from geovq.pipeline.stage import ArtifactWriter, Config, Context, DataInfo, Inputs, Stage
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.latents import SPLITS
from geovq.pipeline.stages.networks import codes_stage, final_codes
from geovq.pipeline.stages.training import load_network, train_stage, write_network


def make_prior(config: Config, info: DataInfo, codec: Codec) -> Prior:
    """An untrained prior for the codes of a codec, seeded by ``transformer.seed``."""
    settings = config.transformer
    classes = info.n_classes if settings.class_conditional else 0
    levels = tuple((*level.grid, len(level.sizes)) for level in codec.levels)
    layout = CodeLayout(max(codec.sizes), codec.shape, classes, sizes=codec.sizes, levels=levels)
    with seeded(settings.seed):
        prior: Prior = config.prior.make(layout=layout, codec=codec, **config.prior.asked_of(settings))
    return prior


@dataclass
class PriorTask(Task[Prior]):
    """Batches and validation of the prior on id sequences."""

    name = "prior"
    class_dropout: float

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean negative log-likelihood per code, the class withheld at random."""
        ids, layout = self.train[index], self.model.layout
        withheld = torch.rand(len(ids), device=ids.device) < self.class_dropout
        ids = torch.cat([torch.where(withheld, layout.bos, ids[:, 0])[:, None], ids[:, 1:]], dim=1)
        losses = model(ids)
        check_losses(self.model, losses, len(ids))
        loss = losses.mean() / layout.length
        return loss, {"nats_per_code": loss.detach()}

    def validate(self, model: nn.Module) -> tuple[float, Metrics]:
        """Held-out code length in bits per image, given the start token."""
        assert isinstance(self.validation, Tensor)
        bits = mean_bits(self.model, self.validation)
        return bits, {"bits_per_image": bits}


def build(context: Context, inputs: Inputs, out: ArtifactWriter, stage: str = "prior") -> None:
    """Train, then score the test codes with their class and without it; curves are told under the ``stage``."""
    config, data, device, stored = context.config, context.data, context.device, final_codes(inputs)
    settings = config.transformer
    prior = make_prior(config, context.info, load_codec(stored)).to(device)
    train, validation, test = (
        prior.layout.encode(load_codes(stored, split), getattr(data, split).labels) for split in SPLITS
    )
    task = PriorTask(prior, train.to(device), validation.to(device), settings.class_dropout)
    result = train_stage(context, out, task, settings, of=prior, stage=stage)
    without_class = test.clone()
    without_class[:, 0] = prior.layout.bos

    n_classes = prior.layout.n_classes
    asked = {"": (without_class, settings.class_dropout > 0 or not n_classes), "_given_class": (test, n_classes > 0)}
    bits: dict[str, float | bool | None] = {
        f"test_bits_per_image{given}": mean_bits(prior, ids) if measured else None
        for given, (ids, measured) in asked.items()
    }
    if prior.bits_are_bound:
        print("remark: the bits of this prior are an upper bound of its code length", file=sys.stderr)
        bits["bits_are_bound"] = True
    write_network(out, prior, result, validation_bits_per_image=result.best_score, **bits)


def load_prior(context: Context, inputs: Inputs, stage: str = "prior") -> Prior:
    """The trained prior of a stage in evaluation mode, for the codes beside it."""
    untrained = make_prior(context.config, context.info, load_codec(final_codes(inputs)))
    return load_network(untrained, inputs[stage], context.device)


_KNOWN_AS = {"geovq.models.autoregressive_prior.AutoregressivePrior": "geovq.models.prior.CodePrior"}
"""Classes that had another name: artifacts keep it, so that older ones are still found."""


def settings_in_key(config: Config) -> dict[str, Any]:
    """What the prior depends on; a class without sizes does not depend on them."""
    own = config.transformer.model_dump(exclude=set(SIZES)) | config.prior.asked_of(config.transformer)
    target = _KNOWN_AS.get(config.prior.target, config.prior.target)
    return training_settings(config.trainer, own, _target_=target, **config.prior.in_key)


STAGE = Stage(
    "prior",
    lambda config: f"training the prior, {config.transformer.steps:,} steps",
    build,
    lambda config: (codes_stage(config),),
    settings_in_key,
    classes=lambda config: ("prior",),
    applies=lambda config: config.has_prior,
    on_ranks=lambda config: True,
)
