"""What cannot fit into memory is refused from the configuration alone; what fits is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geovq.configuration.config import validate
from geovq.data import DataInfo
from geovq.errors import ConfigError
from geovq.pipeline import memory
from geovq.pipeline.stages import STAGES

ALL = [stage.name for stage in STAGES]
TEN = tuple("0123456789")
INFO = {
    "digits": DataInfo("digits", 1_437, 360, 1, 8, 8, 10, TEN, ""),
    "fashion": DataInfo("fashion", 60_000, 10_000, 1, 28, 28, 10, TEN, ""),
    "cifar10": DataInfo("cifar10", 50_000, 10_000, 3, 32, 32, 10, TEN, ""),
}
CONFIGS = Path(__file__).parents[2] / "configs"
CHOSEN = [[f"experiment={path.stem}"] for path in sorted((CONFIGS / "experiment").glob("*.yaml"))] + [
    ["data=fashion", "vae=spatial_7x7", "transformer=large"],
    ["data=cifar10", "transformer=large", "assign=sequential"],
    ["data=cifar10", "quantizer=gumbel", "transformer=large"],
    ["data=cifar10", "quantizer=residual", "geo=exact"],
]


@pytest.fixture
def four_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: 4e9)


@pytest.mark.usefixtures("four_gigabytes")
@pytest.mark.parametrize("overrides", CHOSEN, ids=lambda overrides: " ".join(overrides))
def test_what_is_shipped_fits_into_four_gigabytes(compose: Callable[..., Any], overrides: list[str]) -> None:
    config = validate(compose(*overrides, "trainer.device=cpu"))
    memory.check_memory(config, INFO[config.data.name], ALL)


@pytest.mark.usefixtures("four_gigabytes")
@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["vae.dim=10000000"], "vae.dim=10000000"),
        (["vae.dim=1000000000000000000000000"], "vae.dim=1000000000000000000000000"),
        (["vae.width=1000000", "vae.max_width=1000000"], "vae.width=1000000, vae.max_width=1000000"),
        (["vae.blocks=1000000"], "vae.blocks=1000000"),
        (["data=fashion", "vae.batch_size=50000"], "vae.batch_size=50000"),
        (["transformer.layers=1000000"], "transformer.layers=1000000"),
        (["transformer.width=1000000"], "transformer.width=1000000"),
        (["data=cifar10", "transformer=large", "transformer.batch_size=50000"], "transformer.batch_size=50000"),
        (["data=fashion", "geo.k=100000"], "geo.k=100000"),
        (["evaluation.n_samples=1000000000"], "evaluation.n_samples=1000000000"),
        (["evaluation.n_figure_images=1000000000"], "evaluation.n_figure_images=1000000000"),
        (["samples.per_class=1000000"], "samples.per_class=1000000"),
        (["quantizer=gumbel", "quantizer.K=10000000"], "quantizer.K=10000000"),
        (["assign=sequential", "vae.dim=4000"], "vae.dim=4000"),
    ],
)
def test_a_size_beyond_reason_is_refused_with_its_key_and_an_estimate(
    compose: Callable[..., Any], overrides: list[str], named: str
) -> None:
    config = validate(compose(*overrides, "trainer.device=cpu"))
    with pytest.raises(ConfigError) as caught:
        memory.check_memory(config, INFO[config.data.name], ALL)
    told = str(caught.value).splitlines()
    assert all(line.startswith(f"{named}: at least ") and " GB of memory for " in line for line in told), told


@pytest.mark.usefixtures("four_gigabytes")
def test_what_a_stage_holds_is_compared_with_the_memory_it_is_allowed(compose: Callable[..., Any]) -> None:
    """880,000 tokens of 16 numbers with links to 20 others: at least 70 MB."""
    settings = ["data=fashion", "trainer.device=cpu"]
    memory.check_memory(validate(compose(*settings, "trainer.memory_gb=0.08")), INFO["fashion"], ALL)
    with pytest.raises(ConfigError, match=r"^trainer\.memory_gb=0\.05: at least 0\.0\d+ GB of memory for .*; raise it"):
        memory.check_memory(validate(compose(*settings, "trainer.memory_gb=0.05")), INFO["fashion"], ALL)


@pytest.mark.usefixtures("four_gigabytes")
def test_metric_tensors_need_no_memory_of_their_own(compose: Callable[..., Any]) -> None:
    """Of 880,000 tokens of 100 numbers they are 8.9 GB of files, beside 0.35 GB of tokens."""
    config = validate(compose("data=fashion", "vae.dim=100", "quantizer=pullback", "trainer.device=cpu"))
    memory.check_memory(config, INFO["fashion"], ["latents", "metric_tensors", "graph", "codebook", "codes"])


@pytest.mark.usefixtures("four_gigabytes")
def test_what_is_there_already_is_not_asked_about(compose: Callable[..., Any]) -> None:
    """A network trained elsewhere may be sampled from on a small machine."""
    config = validate(compose("transformer.layers=1000000"))
    memory.check_memory(config, INFO["digits"], [name for name in ALL if "prior" not in name])


def test_the_estimates_count_the_weights_of_the_networks(compose: Callable[..., Any]) -> None:
    """Without a batch: sixteen bytes a weight, from below, and no less than nine tenths of what is there."""
    from geovq.models.autoregressive_prior import AutoregressivePrior
    from geovq.models.code_layout import CodeLayout
    from geovq.pipeline.stages.vae import make_objective

    config = validate(compose("data=cifar10", "transformer.width=64"))
    prior = config.transformer
    real = sum(p.numel() for p in make_objective(config, INFO["cifar10"]).parameters())
    counted = memory.autoencoder_bytes(config, INFO["cifar10"], 1000, {"batch_size": 0}) / 16
    assert 0.9 * real < counted <= real

    network = AutoregressivePrior(CodeLayout(512, (8, 8), 10), prior.layers, prior.width, prior.heads, 0.0)
    real = sum(p.numel() for p in network.parameters())
    counted = memory.prior_bytes(config, prior.layers, prior.width, 0, 64, 512) / 16
    assert 0.9 * real < counted <= real


def test_memory_is_that_of_this_machine() -> None:
    assert 1e8 < memory.machine_memory() < 1e14
