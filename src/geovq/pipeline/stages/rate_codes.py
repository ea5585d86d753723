"""codes -> rate_prior_1 -> rate_codes_1 -> rate_prior_2 -> rate_codes_2: codes and a prior that follow each other.

With ``assign.rate_model=prior`` a prior learns the codes of the quantizer's own rule, images are searched under its
code lengths, a prior learns what came out, and so once more. All else reads the last codes, and the run's own prior
learns them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from geovq.assignment.prices import PriorPrices
from geovq.configuration.codes import Search
from geovq.models.prior import OrderedPrior
from geovq.pipeline.stage import ArtifactWriter, Config, Context, Inputs, Stage
from geovq.pipeline.stages import prior
from geovq.pipeline.stages.assignment_rules import RuleEncoder
from geovq.pipeline.stages.codes import load_codec, load_codes, settings_in_key, write_codes
from geovq.pipeline.stages.latents import SPLITS
from geovq.pipeline.stages.networks import final_codes, final_networks, load_final_decoder, unpriced_codes_stage
from geovq.pipeline.stages.prior import load_prior


class PriorSearchEncoder(RuleEncoder):
    """Codes of a split by search under the code lengths of a prior, from those of the round before."""

    def __init__(self, context: Context, inputs: Inputs, prior: OrderedPrior) -> None:
        before = final_codes(inputs)
        known = partial(load_codes, before)
        super().__init__(context, inputs, load_codec(before), load_final_decoder(context, inputs), known)
        self.prior = prior

    @property
    def rule(self) -> str:
        """The rule in words."""
        return (
            "coordinate descent on the decoded error and the code length under a prior, from the better of the nearest "
            "codewords in the metrics of the tokens and the codes that the prior was trained on"
        )

    def _prices(self, split: str) -> PriorPrices:
        """Those of the whole sequence of an image, given its class where the prior knows classes."""
        assert isinstance(self.settings, Search)
        images = getattr(self.context.data, split)
        start = self.prior.layout.start_ids(images.labels, len(images.images)).to(self.context.device)
        return PriorPrices(self.prior, start, self.settings.rate_lambda)


def _encode(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    learnt = load_prior(context, inputs, next(name for name in inputs if name.startswith("rate_prior")))
    assert isinstance(learnt, OrderedPrior)  # the configuration's rules see to it
    encode = PriorSearchEncoder(context, inputs, learnt)
    write_codes(out, encode, encode.codec, encode.rule, SPLITS)


def _inputs(config: Config, codes: str, learnt: str) -> tuple[str, ...]:
    """Networks, latents and metrics that the search reads; the codes to start from, and the prior that learnt them."""
    return (*final_networks(config), "latents", "metric_tensors", "metric_tensors_held_out", codes, learnt)


def _settings(config: Config) -> dict[str, Any]:
    assert isinstance(config.assign, Search)
    return settings_in_key(config, config.finetune.name != "none") | {"rate_lambda": config.assign.rate_lambda}


# The first prior is that of assign=own, whatever the price: runs share it.
PRIOR_1 = replace(
    prior.STAGE,
    name="rate_prior_1",
    build=lambda context, inputs, out: prior.build(context, inputs, out, "rate_prior_1"),
    inputs=lambda config: (unpriced_codes_stage(config),),
    applies=lambda config: config.searches_under_prior,
    made_as=prior.STAGE.name,
)
PRIOR_2 = replace(
    prior.STAGE,
    name="rate_prior_2",
    build=lambda context, inputs, out: prior.build(context, inputs, out, "rate_prior_2"),
    inputs=lambda config: ("rate_codes_1",),
    applies=lambda config: config.searches_under_prior,
)
CODES_1 = Stage(
    "rate_codes_1",
    lambda config: "assigning codes under the prior's code length",
    _encode,
    lambda config: _inputs(config, unpriced_codes_stage(config), "rate_prior_1"),
    _settings,
    classes=lambda config: ("prior",),
    applies=lambda config: config.searches_under_prior,
    on_ranks=lambda config: True,
)
CODES_2 = replace(CODES_1, name="rate_codes_2", inputs=lambda config: _inputs(config, "rate_codes_1", "rate_prior_2"))
