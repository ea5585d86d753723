"""What the rules choose, and that every setting of a rule reaches the function that it is a setting of."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from curved_decoder import CurvedDecoder
from geovq.configuration.config import validate
from geovq.geometry.metric import token_metrics
from geovq.geometry.symmetric import unpack_symmetric
from geovq.models.codec import flat_codec
from geovq.models.tokens import tokens_of
from geovq.pipeline.stages import assignment_rules

SPLITS = ("train", "validation", "test")


@pytest.fixture
def encoder(compose: Callable[..., Any]) -> Callable[..., assignment_rules.RuleEncoder]:
    """An encoder of a few latents of a small decoder, with the settings of a command line."""

    def make(*overrides: str) -> assignment_rules.RuleEncoder:
        decoder = CurvedDecoder()
        generator = torch.Generator().manual_seed(0)
        latents = {split: torch.randn(6, *decoder.latent_shape, generator=generator) for split in SPLITS}
        images = {split: SimpleNamespace(images=decoder(latents[split])) for split in SPLITS}
        metrics = {split: token_metrics(decoder, latents[split], "exact") for split in SPLITS}
        inputs = {
            "latents": SimpleNamespace(tensors=lambda split: {"mean": latents[split]}),
            **{
                name: SimpleNamespace(tensors=lambda split: {"packed": metrics[split]})
                for name in ("metric_tensors", "metric_tensors_held_out")
            },
        }
        config = validate(compose("data=digits", *overrides))
        context = SimpleNamespace(config=config, device=torch.device("cpu"), data=SimpleNamespace(**images))
        codec = flat_codec(torch.randn(9, 3, generator=generator), decoder.latent_shape[1:])
        known = lambda split: torch.zeros(6, 2, 2, dtype=torch.long)  # noqa: E731
        return assignment_rules.RuleEncoder(context, inputs, codec, decoder, known)  # type: ignore[arg-type]

    return make


def calls_of(name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What a function that a rule uses is called with, from now on; it is carried out too."""
    calls, function = [], getattr(assignment_rules, name)

    def spy(*arguments: Any, **keywords: Any) -> Any:
        calls.append((arguments, keywords))
        return function(*arguments, **keywords)

    monkeypatch.setattr(assignment_rules, name, spy)
    return calls


def test_search_has_its_settings(encoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("assign.n_candidates=3", "assign.n_rounds=2", "assign.damping=1.3", "assign.rate_lambda=0.1")
    settings += ("assign.rate_model=unigram",)
    calls, shifts = calls_of("search_codes", monkeypatch), calls_of("metric_shift", monkeypatch)
    encode = encoder("assign=search", *settings, "assign.ridge=0.25", "trainer.precision=32-true")
    encode("test")
    ((_, given),) = calls
    assert (given["n_candidates"], given["n_rounds"], given["damping"]) == (3, 2, 1.3)
    assert given["precision"] == "32"
    assert torch.exp2(-given["penalty"].double() / 0.1).sum() == pytest.approx(1.0, rel=1e-4)  # 0.1 times code lengths
    assert [len(codes) for codes in given["alternatives"]] == [6]
    assert [arguments[-1] for arguments, _ in shifts] == [0.25]
    assert set(encode.summary) == {"search_gain_db", "search_decodings_per_image"}


def test_sequential_has_its_settings_and_other_probes_for_each_split(
    encoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("assign.n_probes=5", "assign.shrinkage=0.2", "assign.ridge=0.3", "assign.seed=7")
    calls = calls_of("sequential_codes", monkeypatch)
    encode = encoder("assign=sequential", *settings)
    for split in SPLITS:
        encode(split)
    for _, given in calls:
        assert (given["n_probes"], given["shrinkage"], given["ridge"]) == (5, 0.2, 0.3)
    assert len({given["seed"] for _, given in calls}) == 3
    assert calls[0][1]["seed"] == 7


def test_rules_that_look_at_a_token_choose_the_least_cost(encoder: Callable[..., Any]) -> None:
    """By trying all codewords: in latent L2, in the mean metric of the training tokens, in the token's own metric."""
    for rule in ("euclidean", "whitened", "metric"):
        encode = encoder(f"assign={rule}", *(() if rule == "euclidean" else ("assign.ridge=1e-9",)))
        tokens = tokens_of(encode.inputs["latents"].tensors("test")["mean"]).double()
        own = unpack_symmetric(encode.inputs["metric_tensors_held_out"].tensors("test")["packed"].double(), 3)
        mean = unpack_symmetric(encode.inputs["metric_tensors"].tensors("train")["packed"].double(), 3).mean(0)
        metrics = {"euclidean": torch.eye(3).double().expand_as(own), "whitened": mean.expand_as(own), "metric": own}
        difference = tokens[:, None] - encode.codewords[None].double()
        costs = torch.einsum("nki,nij,nkj->nk", difference, metrics[rule], difference)
        assert torch.equal(encode("test").reshape(-1), costs.argmin(1)), rule


@pytest.mark.parametrize(("rule", "function"), [("metric", "metric_shift"), ("whitened", "constant_metric")])
def test_rules_by_metric_have_their_ridge(
    encoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rule: str, function: str
) -> None:
    calls = calls_of(function, monkeypatch)
    encode = encoder(f"assign={rule}", "assign.ridge=0.25")
    assert encode("test").shape == (6, 2, 2)
    assert [arguments[-1] for arguments, _ in calls] == [0.25]
    assert encode.rule == assignment_rules.RULES[rule]
