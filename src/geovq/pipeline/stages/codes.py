"""codebook -> codes: every token of every image, by one rule for all splits: the codebook's own, or that of ``assign``.

With fine-tuning there are codes twice: ``codes``, which the networks are tuned on, and ``tuned_codes``, which all else
reads, assigned by the same rule to what came out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from geovq.assignment.search import LEAST_GAIN
from geovq.configuration.codes import Decoding, Search, Simple
from geovq.configuration.section import blamed
from geovq.models.codec import Codec
from geovq.models.tokens import tokens_of
from geovq.pipeline.contracts import check_codes
from geovq.pipeline.stage import Artifact, ArtifactWriter, Config, Context, Inputs, Stage, those
from geovq.pipeline.stages.assignment_rules import LevelSearchEncoder, RuleEncoder
from geovq.pipeline.stages.codebook import load_quantizer
from geovq.pipeline.stages.joint import load_joint
from geovq.pipeline.stages.latents import SPLITS
from geovq.pipeline.stages.metric_tensors import load_metric_tensors
from geovq.pipeline.stages.networks import autoencoder_stage, load_decoder, load_final_decoder

Rule = tuple[Callable[[str], Tensor], Codec, str]
"""How a split is encoded, what decodes it, and the rule in words."""


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Encode the splits; write what turns codes back into latents beside them."""
    splits = splits_encoded(with_first_rule(context.config), tuned="finetune" in inputs)
    write_codes(out, *encoder_of(context, inputs), splits)


def write_codes(
    out: ArtifactWriter, encode: Callable[[str], Tensor], codec: Codec, rule: str, splits: tuple[str, ...]
) -> None:
    """Encode splits and write them with the codec, the rule in words, and what the last of them took."""
    for split in splits:
        begun = time.perf_counter()
        codes = encode(split)
        seconds = time.perf_counter() - begun
        _check_total(codes, codec, split)
        out.tensors(split, {"codes": codes.to(torch.int32)})
    out.tensors("codec", codec.to_tensors())
    out.json("rule", rule)
    # Of the last split, the test images: those of training may be known already.
    details = getattr(encode, "summary", {})
    out.json("summary", {"milliseconds_per_image": 1000 * seconds / len(codes)} | details)


def with_first_rule(config: Config) -> Config:
    """The configuration with the rule of the first codes: the quantizer's own where a search goes on under a prior.

    A prior learns these with fewer bits than those of plain search, and a search that starts there stays near them.
    """
    own = Simple(name="own")
    return config.model_copy(update={"assign": own}) if config.searches_under_prior else config


def splits_encoded(config: Config, tuned: bool) -> tuple[str, ...]:
    """All three, or those held out where the rule is dear and nothing learns from the training images' codes.

    Fine-tuning does not read ``tuned_codes``.
    """
    learnt_from = config.has_prior or (config.finetune.name != "none" and not tuned)
    # A price on bits is judged by the rate that it leads to, which is counted on training images.
    learnt_from |= isinstance(config.assign, Search) and config.assign.priced_by != "none"
    if isinstance(config.assign, Decoding) and config.assign.training_images == "needed" and not learnt_from:
        return ("validation", "test")
    return SPLITS


def also_starts_from(config: Config, tuned: bool) -> Literal["own", "codes"] | None:
    """The codes that search may start from besides those by the tokens' metrics.

    After fine-tuning the codes that the networks were tuned on, which fit them better than any rule from before; else
    the quantizer's own, unless its rule is that of ``assign=metric``.
    """
    if not isinstance(config.assign, Search):
        return None
    if tuned:
        return "codes"
    return None if config.own_rule_is_metric_rule else "own"


def encoder_of(context: Context, inputs: Inputs) -> Rule:
    """The rule of the configuration."""
    config, tuned = with_first_rule(context.config), "finetune" in inputs
    own, codec, rule = (_joint_rule if config.is_joint else _quantizer_rule)(context, inputs)
    if tuned:
        codec = load_codec(inputs["finetune"])
    if config.assign.name == "own":
        return own, codec, rule
    decoder = None
    if isinstance(config.assign, Decoding):
        decoder = (load_final_decoder if tuned else load_decoder)(context, inputs)
    also = also_starts_from(config, tuned)
    known = {"own": own, "codes": lambda split: load_codes(inputs["codes"], split), None: None}[also]
    encoder = RuleEncoder if config.tokens_are_latents else LevelSearchEncoder
    encode = encoder(context, inputs, codec, decoder, known)
    return encode, codec, encode.rule


def _quantizer_rule(context: Context, inputs: Inputs) -> Rule:
    config = context.config
    quantizer = load_quantizer(context, inputs)
    codec = quantizer.codec((config.vae.grid, config.vae.grid))

    def encode(split: str) -> Tensor:
        mean = inputs["latents"].tensors(split)["mean"]
        tokens = tokens_of(mean).numpy()
        if split == "train" and config.reads_graph:
            codes = quantizer.encode_training(tokens)
        else:
            metrics = load_metric_tensors(inputs, split) if encodes_with_metric_tensors(config) else None
            with blamed(quantizer, "predict"):
                codes = quantizer.predict(tokens, metrics)
        check_codes(quantizer, codes, len(tokens), codec)
        return torch.from_numpy(codes).reshape(len(mean), *codec.shape)

    return encode, codec, quantizer.rule


def _joint_rule(context: Context, inputs: Inputs) -> Rule:
    model = load_joint(context, inputs)

    def encode(split: str) -> Tensor:
        batches = inputs["latents"].tensors(split)["mean"].split(500)
        return torch.cat([model.codes(batch.to(context.device)).cpu() for batch in batches])

    return encode, model.codec().cpu(), "as the network was trained to"


def encodes_with_metric_tensors(config: Config) -> bool:
    """Whether the quantizer's own rule encodes tokens with metrics of their own.

    With ``geo.context=neighbours`` a link to the graph is measured by the nodes' metrics alone.
    """
    if config.reads_graph:
        return config.geo.metric != "none" and config.geo.context == "own"
    return config.reads_metric_tensors


def _check_total(codes: Tensor, codec: Codec, split: str) -> None:
    """Every slot has one of its codes: anything else is a fault of the program, not of the input."""
    flat = codes.flatten(1)
    if (flat < 0).any() or (flat >= torch.tensor(codec.sizes)).any():
        raise AssertionError(f"{split} codes reach from {flat.min()} to {flat.max()} with sizes {set(codec.sizes)}")


def load_codes(artifact: Artifact, split: str) -> Tensor:
    """Codes (N, *shape) of a split."""
    return artifact.tensors(split)["codes"].long()


def load_codec(artifact: Artifact) -> Codec:
    """What turns the codes back into latents."""
    return Codec.from_tensors(artifact.tensors("codec"))


def _inputs(config: Config) -> tuple[str, ...]:
    """Autoencoder, latents, and what the rule reads: the codebook, its graph, metrics."""
    # Without a latent for each token the search measures metrics itself, at codes.
    assign = config.assign.name if config.tokens_are_latents else ""
    own = config.assign.name == "own" and encodes_with_metric_tensors(config)
    held_out = own or assign in ("metric", "search")
    decodes = config.is_joint or isinstance(config.assign, Decoding)
    return (
        *((autoencoder_stage(config),) if decodes else ()),
        *those(
            latents=True,
            metric_tensors=assign in ("whitened", "metric", "search") or (held_out and not config.reads_graph),
            metric_tensors_held_out=held_out,
            graph=config.reads_graph,
            codebook=not config.is_joint,
        ),
    )


def settings_in_key(config: Config, tuned: bool) -> dict[str, Any]:
    """What the rule depends on, without a prior's prices."""
    settings = config.assign.model_dump(exclude={"training_images", "rate_model", "rate_lambda"})
    settings |= {"splits": splits_encoded(config, tuned)}
    if isinstance(config.assign, Search):  # a number, so that "auto" and that number are one artifact
        settings["rate_lambda"] = config.assign.rate_lambda if config.assign.priced_by == "unigram" else 0.0
        settings["n_rounds"] = config.assign.rounds(config.n_tokens)
        settings["least_gain"] = LEAST_GAIN
        if not config.tokens_are_latents:
            settings |= {"n_probes": config.geo.n_probes, "seed": config.geo.seed}
            settings["n_rounds_coarse"] = config.assign.rounds(((config.vae.grid + 1) // 2) ** 2)
    also = also_starts_from(config, tuned)
    return settings | ({} if also is None else {f"starts_from_{also}": True})


def on_ranks(config: Config) -> bool:
    """Whether the rule goes through the images block by block, which ranks share out."""
    config = with_first_rule(config)
    rule = config.assign.name
    return isinstance(config.assign, Decoding) or (
        encodes_with_metric_tensors(config) if rule == "own" else rule == "metric"
    )


STAGE = Stage(
    "codes",
    lambda config: "assigning codes to all tokens",
    build,
    lambda config: _inputs(with_first_rule(config)),
    lambda config: settings_in_key(with_first_rule(config), tuned=False),
    classes=lambda config: ("quantizer",),
    on_ranks=on_ranks,
    schema=3,
)

TUNED = Stage(
    "tuned_codes",
    lambda config: "assigning codes anew",
    build,
    lambda config: (
        *dict.fromkeys((autoencoder_stage(config), *_inputs(with_first_rule(config)))),
        *those(codes=also_starts_from(with_first_rule(config), tuned=True) == "codes", finetune=True),
    ),
    lambda config: settings_in_key(with_first_rule(config), tuned=True),
    classes=lambda config: ("quantizer",),
    applies=lambda config: config.finetune.name != "none",
    on_ranks=on_ranks,
    schema=2,
)
