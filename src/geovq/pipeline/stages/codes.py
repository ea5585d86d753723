"""codebook -> codes: every token of every image, by one rule for all splits.

The rule is the codebook's own, or the one that ``assign`` names (``geovq.assignment``). With
fine-tuning there are codes twice: ``codes``, which the networks are tuned on, and ``tuned_codes``, which everything
else reads, assigned by the same rule to what came out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from geovq.assignment.search import LEAST_GAIN
from geovq.configuration.codes import Decoding, Search
from geovq.configuration.section import blamed
from geovq.models.codec import Codec, stacked_codec
from geovq.models.tokens import tokens_of
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.assignment_rules import RuleEncoder
from geovq.pipeline.stages.codebook import load_quantizer
from geovq.pipeline.stages.joint import load_joint
from geovq.pipeline.stages.latents import SPLITS
from geovq.pipeline.stages.level_search import LevelSearchEncoder
from geovq.pipeline.stages.metric_tensors import metric_tensors_of
from geovq.pipeline.stages.networks import autoencoder_stage, load_decoder, load_final_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from geovq.configuration.config import Config
    from geovq.pipeline.artifacts import Artifact, ArtifactWriter
    from geovq.quantizers import CodebookEstimator


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Encode the splits; write what turns codes back into latents beside them."""
    encode, codec, rule = encoder_of(context, inputs)
    for split in splits_encoded(context.config, tuned="finetune" in inputs):
        begun = time.perf_counter()
        codes = encode(split)
        seconds = time.perf_counter() - begun
        _check_total(codes, codec, split)
        out.tensors(split, {"codes": codes.to(torch.int32)})
    out.tensors("codec", codec.to_tensors())
    out.json("rule", rule)
    # Of the last split, the test images: those of training may be known already.
    details = encode.summary if isinstance(encode, RuleEncoder | LevelSearchEncoder) else {}
    out.json("summary", {"milliseconds_per_image": 1000 * seconds / len(codes)} | details)


def splits_encoded(config: Config, tuned: bool) -> tuple[str, ...]:
    """All three, or those held out where the rule is dear and nothing learns from the training images' codes.

    Args:
        config: of the run.
        tuned: of ``tuned_codes``, which fine-tuning does not read.
    """
    learnt_from = config.prior is not None or (config.finetune.name != "none" and not tuned)
    # A price on bits is judged by the rate that it leads to, which is counted on training images.
    learnt_from |= getattr(config.assign, "rate_lambda", 0.0) > 0
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


def encoder_of(context: Context, inputs: Inputs) -> tuple[Callable[[str], Tensor], Codec, str]:
    """How a split is encoded, what decodes it, and the rule in words."""
    config = context.config
    own, codec, rule = _joint_rule(context, inputs) if config.is_joint else _quantizer_rule(context, inputs)
    if "finetune" in inputs:
        codec = load_codec(inputs["finetune"], "codec")
    if config.assign.name == "own":
        return own, codec, rule
    decoder = None
    if isinstance(config.assign, Decoding):
        load = load_final_decoder if "finetune" in inputs else load_decoder
        decoder = load(inputs, config, context.info, context.device)
    known = {"own": own, "codes": lambda split: load_codes(inputs["codes"], split), None: None}
    also = also_starts_from(config, tuned="finetune" in inputs)
    if not config.tokens_are_latents:
        start = known[also]
        assert decoder is not None
        assert start is not None
        by_level = LevelSearchEncoder(context, codec, decoder, start)
        return by_level, codec, by_level.rule
    by_rule = RuleEncoder(context, inputs, codec, decoder, known[also])
    return by_rule, codec, by_rule.rule


def _quantizer_rule(context: Context, inputs: Inputs) -> tuple[Callable[[str], Tensor], Codec, str]:
    config = context.config
    quantizer = load_quantizer(inputs, config, context.device)
    codec = codec_of(quantizer, config)

    def encode(split: str) -> Tensor:
        mean = inputs["latents"].tensors(split)["mean"]
        tokens = tokens_of(mean).numpy()
        if split == "train" and config.reads_graph:
            codes = quantizer.encode_training(tokens)
        else:
            metrics = metric_tensors_of(inputs, split) if encodes_with_metric_tensors(config) else None
            with blamed(quantizer, "predict"):
                codes = quantizer.predict(tokens, metrics)
        return torch.from_numpy(codes).reshape(len(mean), *codec.shape)

    return encode, codec, quantizer.rule


def _joint_rule(context: Context, inputs: Inputs) -> tuple[Callable[[str], Tensor], Codec, str]:
    model = load_joint(inputs["joint"], context.config, context.info, context.device)

    def encode(split: str) -> Tensor:
        batches = inputs["latents"].tensors(split)["mean"].split(500)
        return torch.cat([model.codes(batch.to(context.device)).cpu() for batch in batches])

    return encode, model.codec().cpu(), "as the network was trained to"


def codec_of(quantizer: CodebookEstimator, config: Config) -> Codec:
    """What turns the codes of a fitted quantizer back into latents."""
    tables = [torch.from_numpy(table) for table in quantizer.tables_]
    return stacked_codec(tables, (config.vae.grid, config.vae.grid))


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


def has_training_codes(artifact: Artifact) -> bool:
    """Whether the training images were encoded too."""
    return artifact.has("train.safetensors")


def load_codec(artifact: Artifact, name: str = "codec") -> Codec:
    """What turns the codes back into latents."""
    return Codec.from_tensors(artifact.tensors(name))


def _inputs(config: Config) -> tuple[str, ...]:
    """Autoencoder, latents, and what the rule reads: the codebook, its graph, metrics."""
    own, assign = config.assign.name == "own", config.assign.name
    weighs = config.tokens_are_latents  # else the search measures metrics itself, at codes
    held_out = (own and encodes_with_metric_tensors(config)) or (assign in ("metric", "search") and weighs)
    train = (assign in ("whitened", "metric", "search") and weighs) or (held_out and not config.reads_graph)
    return (
        *((autoencoder_stage(config),) if config.is_joint or isinstance(config.assign, Decoding) else ()),
        "latents",
        *(("metric_tensors",) if train else ()),
        *(("metric_tensors_held_out",) if held_out else ()),
        *(("graph",) if config.reads_graph else ()),
        *(() if config.is_joint else ("codebook",)),
    )


def _settings(config: Config, tuned: bool) -> dict[str, Any]:
    settings = config.assign.model_dump(exclude={"training_images"}) | {"splits": splits_encoded(config, tuned)}
    if isinstance(config.assign, Search):  # a number, so that "auto" and that number are one artifact
        settings["n_rounds"] = config.assign.rounds(config.n_tokens)
        settings["least_gain"] = LEAST_GAIN
    also = also_starts_from(config, tuned)
    if also is not None:
        settings[f"starts_from_{also}"] = True
    if isinstance(config.assign, Search) and not config.tokens_are_latents:
        settings |= {"n_probes": config.geo.n_probes, "seed": config.geo.seed}
        settings["n_rounds_coarse"] = config.assign.rounds(((config.vae.grid + 1) // 2) ** 2)
    return settings


STAGE = Stage(
    name="codes",
    inputs=_inputs,
    settings=lambda config: _settings(config, tuned=False),
    build=build,
    classes=lambda config: ("quantizer",),
    schema=3,
)

TUNED = Stage(
    name="tuned_codes",
    inputs=lambda config: (
        *dict.fromkeys((autoencoder_stage(config), *_inputs(config))),
        *(("codes",) if also_starts_from(config, tuned=True) == "codes" else ()),
        "finetune",
    ),
    settings=lambda config: _settings(config, tuned=True),
    build=build,
    classes=lambda config: ("quantizer",),
    applies=lambda config: config.finetune.name != "none",
    schema=2,
)
