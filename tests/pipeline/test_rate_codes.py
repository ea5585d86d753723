"""Search under a prior's code length through the pipeline: keys, rounds, what is shared, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from geovq.configuration.config import validate
from geovq.errors import ConfigError
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.latents import SPLITS, decode
from geovq.pipeline.stages.networks import load_decoder
from geovq.pipeline.stages.prior import load_prior

SEARCH = ("quantizer=whitened", "assign=search", "evaluation.geodesic_codewords=0")
PRICE = 0.3


def under_prior(price: float) -> tuple[str, ...]:
    return (*SEARCH, "assign.rate_model=prior", f"assign.rate_lambda={price}")


def test_keys_change_where_bits_cost_something_and_nowhere_else(
    tmp_path: Path, make_runner: Callable[..., Any]
) -> None:
    plain = make_runner(tmp_path, *SEARCH).keys
    for model in ("none", "unigram", "prior"):
        assert make_runner(tmp_path, *SEARCH, f"assign.rate_model={model}").keys == plain
    own = make_runner(tmp_path, *SEARCH, "assign=own").keys
    priced, dearer = (make_runner(tmp_path, *under_prior(price)).keys for price in (PRICE, 2 * PRICE))
    assert priced["codes"] == own["codes"]
    assert priced["rate_prior_1"] == dearer["rate_prior_1"] == own["prior"]
    for stage in ("rate_codes_1", "rate_prior_2", "rate_codes_2", "prior", "report"):
        assert priced[stage] != dearer[stage], stage
    unigram = make_runner(tmp_path, *SEARCH, "assign.rate_model=unigram", f"assign.rate_lambda={PRICE}").keys
    assert unigram["codes"] != plain["codes"]
    assert not {"rate_prior_1", "rate_codes_1"} & set(unigram)


@pytest.mark.parametrize("tuning", [(), ("finetune=codebook",)])
def test_each_round_is_nowhere_dearer_and_all_else_reads_the_last(
    tmp_path: Path, begin: Callable[[Path], Path], make_runner: Callable[..., Any], tuning: tuple[str, ...]
) -> None:
    root = begin(tmp_path)
    own = make_runner(root, *SEARCH, "assign=own", *tuning, "stages=[prior]").run()
    runner = make_runner(root, *under_prior(PRICE), *tuning)
    results = runner.run()
    artifacts = {name: result.artifact for name, result in results.items()}
    first = "tuned_codes" if tuning else "codes"
    assert results["rate_prior_1"].cached
    assert artifacts["rate_prior_1"].directory == own["prior"].artifact.directory
    assert set(artifacts["prior"].manifest["inputs"]) == {"rate_codes_2"}
    assert set(artifacts["rate_codes_1"].manifest["inputs"]) >= {first, "rate_prior_1"}

    context, images = runner.context, runner.context.data.test
    decoder = load_decoder(context, artifacts)
    rounds = ((first, "rate_codes_1", "rate_prior_1"), ("rate_codes_1", "rate_codes_2", "rate_prior_2"))
    for before, after, learnt in rounds:
        prior = load_prior(context, {**artifacts, "codes": artifacts[after]}, learnt)
        costs = []
        for stage in (before, after):
            codes = load_codes(artifacts[stage], "test")
            decoded = decode(decoder, load_codec(artifacts[stage]).embed(codes), context.device)
            error = (decoded - images.images.float() / 255).square().flatten(1).sum(1)
            costs.append(error + PRICE * prior.bits_per_image(prior.layout.encode(codes, images.labels)))
        assert (costs[1] <= costs[0] * (1 + 1e-5)).all()
        assert costs[1].mean() < costs[0].mean()
        assert all(artifacts[after].has(f"{split}.safetensors") for split in SPLITS)
    tables = [load_codec(artifacts[stage]).levels[0].tables for stage in (first, "rate_codes_2")]
    assert torch.equal(*tables)
    reported = artifacts["report"].json("metrics")["rate_prior_bits_per_image_given_class"]
    assert reported == artifacts["prior"].json("summary")["test_bits_per_image_given_class"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("assign.rate_lambda=-1",), "assign.rate_lambda=-1: input should be greater than or equal to 0"),
        (("assign.rate_lambda=0.1",), "assign.rate_lambda=0.1 is a price of bits, and assign.rate_model=none"),
        (("assign.rate_model=words",), "assign.rate_model='words'"),
        (("assign.rate_model=prior", "transformer=none"), "rate_model=prior needs a prior: transformer=none must be"),
        (("assign.rate_model=prior", "prior=none"), "rate_model=prior needs a prior: prior=none must be another"),
        (("assign.rate_model=prior", "prior=masked"), "prior=masked gives only a bound: take prior=autoregressive"),
        (("assign.rate_model=prior", "quantizer=vqvae2"), "quantizer=vqvae2 has more, or scores: take assign.rate"),
        (("assign.rate_model=prior", "quantizer=residual"), "quantizer=residual has more, or scores"),
        (("stages=[rate_codes_1]",), r"stages=\[rate_codes_1\] .*assign.rate_model"),
    ],
)
def test_what_cannot_be_priced_is_refused(compose: Callable[..., Any], words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(compose("data=digits", "assign=search", *words))
