"""Every YAML composes and validates; every key is read; faults are told together."""

from __future__ import annotations

import ast
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pydantic import BaseModel
from safetensors.torch import save_file

from composing import CONFIGS, by_hydra
from geovq.commands.sweep import jobs_of
from geovq.configuration.config import validate
from geovq.configuration.section import Option, Section
from geovq.errors import ConfigError

GROUPS = (
    "data",
    "vae",
    "quantizer",
    "geo",
    "assign",
    "finetune",
    "transformer",
    "prior",
    "evaluation",
    "tracking",
    "trainer",
    "debug",
    "experiment",
)
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONFIGS / group).glob("[!_]*.yaml"))]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: str(value))
def test_every_option_composes_and_validates(
    compose: Callable[..., Any], tmp_path: Path, group: str, option: str
) -> None:
    extra = ["data.path=somewhere"] if option in ("folder", "huggingface") else []
    if option == "pretrained":
        pytest.importorskip("diffusers")
        model = {"_class_name": "AutoencoderTiny", "in_channels": 3, "encoder_block_out_channels": [8, 8]}
        (tmp_path / "config.json").write_text(json.dumps(model | {"latent_channels": 4}))
        save_file({"weight": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
        extra = [f"vae.path={tmp_path}"]
    config = validate(compose(f"{group}={option}", *extra))
    assert config.quantizer.K >= 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train", ()),
        ("train", ("quantizer.K=32", "geo=exact", "stages=[vae,latents]", "quantizer=vqvae2", "vae.seed=3", "seed=1")),
        ("train", ("experiment=rate_distortion", "+evaluation.evaluators=[{_target_: a.B}]", "paths.root=/y")),
        ("sample", ("temperature=[1,2]", "n=3", "paths.root=/x")),
    ],
)
def test_the_configurations_of_all_tests_are_those_of_hydra(
    compose: Callable[..., Any], name: str, words: tuple[str, ...]
) -> None:
    by_itself = OmegaConf.to_container(by_hydra(*words, name=name), resolve=True)
    assert compose(*words, name=name) == compose(*words, name=name) == by_itself


def test_options_cover_every_group() -> None:
    assert {group for group, _ in OPTIONS} >= set(GROUPS) - {"experiment"}


@pytest.mark.parametrize(
    ("data", "vae", "quantizer"),
    list(itertools.product(["digits", "cifar10"], ["spatial", "flat"], ["euclidean", "geodesic"])),
)
def test_groups_combine(compose: Callable[..., Any], data: str, vae: str, quantizer: str) -> None:
    config = validate(compose(f"data={data}", f"vae={vae}", f"quantizer={quantizer}"))
    assert (config.data.name, config.vae.name, config.quantizer.name) == (data, vae, quantizer)


def test_all_faults_are_told_together_each_with_key_and_value(compose: Callable[..., Any]) -> None:
    values = compose("quantizer.K=abc", "vae.steps=-3", "geo.k=2.5", "trainer.device=tpu", "+vae.depth=3")
    with pytest.raises(ConfigError) as caught:
        validate(values)
    text = str(caught.value)
    for part in (
        "quantizer.K='abc'",
        "vae.steps=-3",
        "geo.k=2.5",
        "trainer.device='tpu'",
        "vae.depth: no such key",
    ):
        assert part in text
    assert len(text.splitlines()) == 5


def test_missing_key_is_named(compose: Callable[..., Any]) -> None:
    values = compose()
    del values["geo"]["k"]
    with pytest.raises(ConfigError, match=r"geo\.k: missing"):
        validate(values)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["transformer.heads=3"], "multiple of transformer.heads=3"),
        (["vae=flat", "vae.grid=2"], "vae.grid=2 must be 1"),
        (["data=folder"], "data.path"),
        (["geo=posterior", "vae.loss=bce"], "vae.loss=bce must be mse"),
        (["quantizer=posterior", "vae.loss=l1"], "quantizer=posterior .* vae.loss=l1 must be mse"),
        (["geo=posterior", "vae.free_bits=1.5"], "vae.free_bits=1.5 must be rate or 0"),
        (["quantizer=pullback", "geo=euclidean"], "quantizer=pullback needs the tokens' metrics"),
        (["geo=euclidean", "geo.search=whitened"], "geo.search=whitened needs"),
        (["stages=[vaee]"], "'vaee'"),
        (["stages=[]"], r"stages=\[\]: "),
        (["quantizer=product", "geo=euclidean"], "or quantizer.metric=euclidean"),
        (["quantizer=conditional", "vae=flat"], "^quantizer=conditional reads .* vae=flat has one token per image"),
        (
            ["quantizer=conditional", "assign=search"],
            "^assign=search takes each code for one vector, .*: take assign=own",
        ),
        (["quantizer=conditional", "geo=euclidean"], "^quantizer=conditional needs the tokens' metrics"),
        (["geo.metric=abc"], "^geo.metric='abc': "),
        (["geo.search=abc"], "^geo.search='abc': "),
        (["quantizer=product", "quantizer.metric=l2"], "^quantizer.metric='l2': "),
        (["transformer.name=5"], "^transformer.name=5: "),
        (["prior=pixelcnn", "vae=flat"], "^prior=pixelcnn reads codes on a grid, and vae=flat has one token"),
        (["prior=none", "stages=[prior]"], "needs a prior: prior=none must be another"),
        (["samples.guidance=2", "transformer.class_dropout=0"], "^samples.guidance=2 needs a prior .* never without"),
        (["samples.guidance=2", "transformer.class_conditional=false"], "^samples.guidance=2 needs a prior with cla"),
        (["samples.steps=4"], "^samples.steps=4: prior=autoregressive draws code after code"),
        (["prior=masked", "samples.steps=0"], "^samples.steps=0: input should be greater than or equal to 1"),
        (["prior._target_=torch.nn.Linear"], "has to extend geovq.models.prior.Prior$"),
        (["prior._target_=geovq.models.prior.Prior"], "the class has to write bits_per_image, loss, sample$"),
        (["quantizer._target_=geovq.quantizers.base.CodebookEstimator"], "the class has to write _fit, predict$"),
        (["vae._target_=torch.nn.Linear"], "^vae._target_=torch.nn.Linear: the class has no encode and no decode$"),
        (["quantizer._target_=no.such.Thing"], "^quantizer._target_=no.such.Thing: quantizer=geodesic needs it, and "),
        (["samples.top_k=600"], "samples.top_k=600 must be at most quantizer.K=64"),
        (["vae.width=1000000"], "vae.width=1000000 must be at most vae.max_width=128"),
        (["trainer.threads=1000000"], "trainer.threads=1000000"),
        (["trainer.precision=null"], "^trainer.precision=null: "),
        (["samples.top_k=true"], "^samples.top_k=true: true and false are for switches"),
        (["samples.temperatures=[1,true]"], r"^samples.temperatures\[1\]=true: true and false are for switches"),
        (["evaluation.bootstrap=1000000000000"], "^evaluation.bootstrap=1000000000000: "),
        (["assign=search", "assign.n_rounds=0"], "n_rounds=0: input should be 'auto' or greater than or equal to 1$"),
    ],
)
def test_cross_field_rules(compose: Callable[..., Any], overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(compose(*overrides))


def test_what_a_quantizer_needs_is_asked_of_its_class(
    compose: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from geovq.quantizers import EuclideanKMeans

    values = compose("quantizer=euclidean", "geo=euclidean")
    validate(values)
    monkeypatch.setattr(EuclideanKMeans, "needs_metrics", True)
    with pytest.raises(ConfigError, match=r"quantizer=euclidean needs the tokens' metrics: geo.metric=none"):
        validate(values)


@pytest.mark.parametrize(
    "overrides",
    [
        ["vae=flat", "vae.width=8", "vae.max_width=8"],
        ["quantizer=vqvae2", "vae.grid=2", "vae.width=4", "vae.max_width=8"],
        ["vae=flat", "vae.width=1"],
    ],
)
def test_a_network_that_would_normalise_single_values_is_refused(
    compose: Callable[..., Any], overrides: list[str]
) -> None:
    from geovq.configuration.checks import check
    from geovq.data import DataInfo

    info = DataInfo("digits", 1437, 360, 1, 8, 8, 10, tuple("0123456789"), "")
    small = [*overrides, "quantizer.K=16"]
    with pytest.raises(ConfigError, match=r"^vae.width=\d, vae.max_width=\d+: .* normalise each value by itself"):
        check(validate(compose(*small)), info)
    check(validate(compose(*small, "vae.norm=none")), info)
    check(validate(compose(*small, "vae.width=16", "vae.max_width=16")), info)


def test_images_too_small_for_the_classifier_are_refused(compose: Callable[..., Any]) -> None:
    from geovq.configuration.checks import check
    from geovq.data import DataInfo

    config = validate(compose("vae.grid=1", "quantizer.K=16"))
    check(config, DataInfo("digits", 1437, 360, 1, 3, 3, 0, (), ""))
    with pytest.raises(ConfigError, match=r"images of 3x3: the classifier .* data.image_size=4"):
        check(config, DataInfo("digits", 1437, 360, 1, 3, 3, 10, tuple("0123456789"), ""))


def test_log2_k_follows_the_codebook(compose: Callable[..., Any]) -> None:
    assert validate(compose("vae.rate_bits_per_token=log2_K", "quantizer.K=128")).rate_bits_per_token == 7.0
    assert validate(compose("data=mnist", "quantizer.K=64")).rate_bits_per_token == 9.0


@pytest.mark.parametrize("path", sorted((CONFIGS / "data").glob("[!_]*.yaml")), ids=lambda path: path.stem)
def test_the_default_codebook_and_rate_of_a_data_set_match(compose: Callable[..., Any], path: Path) -> None:
    config = validate(
        compose(f"data={path.stem}", *(("data.path=here",) if path.stem in ("folder", "huggingface") else ()))
    )
    assert config.rate_bits_per_token == math.log2(config.quantizer.K)
    few = path.stem == "digits"
    assert (config.quantizer.K, config.transformer.dropout) == ((64, 0.1) if few else (512, 0.0))


def test_a_codebook_that_the_rate_does_not_match_is_remarked_on(compose: Callable[..., Any]) -> None:
    from geovq.configuration.checks import remarks
    from geovq.data import DataInfo

    info = DataInfo("mnist", 60_000, 10_000, 1, 28, 28, 2, ("0", "1"), "")
    (told,) = remarks(validate(compose("data=mnist", "quantizer.K=64")), info)
    assert told.startswith("the VAE spends 9 bits per token and quantizer.K=64 carries 6: ")
    for overrides in ([], ["quantizer.K=64", "vae.rate_bits_per_token=log2_K"], ["quantizer=fsq", "quantizer.K=64"]):
        assert remarks(validate(compose("data=mnist", *overrides)), info) == []


def test_a_codebook_needs_as_many_tokens_as_codewords_that_share_them(compose: Callable[..., Any]) -> None:
    from geovq.configuration.checks import check
    from geovq.data import DataInfo

    info = DataInfo("mnist", 200, 100, 1, 28, 28, 2, ("0", "1"), "")
    size = ("data=mnist", "data.validation=100", "quantizer.K=4096", "geo.k=5")  # 100 images of 16 tokens to train on
    for enough in ("product", "residual", "scalar", "fsq"):
        check(validate(compose(*size, f"quantizer={enough}")), info)
    for short in ("whitened", "vqvae"):
        with pytest.raises(ConfigError, match=r"quantizer\.K=4096: there are 1600 training tokens"):
            check(validate(compose(*size, f"quantizer={short}")), info)


@pytest.mark.parametrize(("grid", "rounds"), [("1", 5), ("4", 5), ("7", 15), ("8", 20)])
def test_rounds_of_search_follow_the_number_of_tokens(compose: Callable[..., Any], grid: str, rounds: int) -> None:
    from geovq.pipeline.stages.codes import STAGE

    config = validate(compose("assign=search", f"vae.grid={grid}"))
    assert config.assign.rounds(config.n_tokens) == rounds
    given = validate(compose("assign=search", f"vae.grid={grid}", f"assign.n_rounds={rounds}"))
    assert STAGE.settings(config) == STAGE.settings(given)  # one artifact for both


@pytest.mark.parametrize("name", ["sample", "evaluate"])
def test_other_entry_points_compose(compose: Callable[..., Any], name: str) -> None:
    from geovq.commands.evaluate import EvaluateSettings
    from geovq.commands.sample import SampleSettings
    from geovq.configuration.parse import parse

    kind = {"sample": SampleSettings, "evaluate": EvaluateSettings}[name]
    assert parse(kind, compose(name=name)).run == "latest"


def test_evaluation_keys_of_evaluate_yaml_exist(compose: Callable[..., Any]) -> None:
    assert set(compose(name="evaluate")["evaluation"]) <= set(compose()["evaluation"])


def names_read(source: str) -> set[str]:
    """Names that code can read a setting by: attributes, arguments and their names, words. Not prose, not f-strings."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def unread(kinds: Iterable[type[BaseModel]], sources: Iterable[str], interpolated: str) -> list[str]:
    """``Section.key`` of each key that neither code nor another value of the configuration reads."""
    read = set().union(*map(names_read, sources)) | set(re.findall(r"\$\{[\w.]*?(\w+)\}", interpolated))
    return [f"{kind.__name__}.{key}" for kind in kinds for key in kind.model_fields if key not in read]


def test_every_key_is_read_somewhere(compose: Callable[..., Any]) -> None:
    """A key that nothing reads is a lie to the person who sets it."""
    from quantizer_classes import OPTIONS as QUANTIZERS

    package = CONFIGS.parent / "src" / "geovq"
    modules = [import_module(f"geovq.configuration.{name}") for name in ("sections", "codes", "config")]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    sections = {kind for kind in kinds if issubclass(kind, Section) and kind not in (Section, Option)}
    own = {type(validate(compose(f"quantizer={name}")).quantizer) for name in QUANTIZERS}
    # The sections and the rules between them check values: that alone is no use of one. A method beside a key is.
    declaring = set((package / "configuration").glob("*.py"))
    sources = [path.read_text() for path in package.rglob("*.py") if path not in declaring]
    interpolated = "".join(path.read_text() for path in CONFIGS.rglob("*.yaml"))
    assert unread(sections | own, sources, interpolated) == []


def test_a_key_that_is_only_declared_checked_or_told_of_counts_as_unread() -> None:
    class Made(Section):
        used: int
        handed_on: int
        interpolated: int
        told_of: int
        assigned: int

    source = """
        def f(config, handed_on):
            "told_of, and config.told_of"
            config.assigned = 1
            raise ValueError(f"made.told_of={config.used}")
    """
    assert unread([Made], [dedent(source)], "a: ${made.interpolated}") == ["Made.told_of", "Made.assigned"]


def sweeps(name: str) -> list[tuple[str, ...]]:
    """The overrides of every job of an experiment; a single () without a sweep."""
    sweeper = by_hydra(f"experiment={name}", hydra_too=True).hydra.sweeper
    return jobs_of(sweeper.params or {}, [])


EXPERIMENTS = [
    pytest.param(option, marks=[pytest.mark.slow] * (option == "factorial"))  # as the others, with the most jobs
    for group, option in OPTIONS
    if group == "experiment"
]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_job_of_an_experiment_composes_and_validates(compose: Callable[..., Any], name: str) -> None:
    jobs = sweeps(name)
    # One seed is enough to compose: the axis is the slowest part of the product and adds nothing to what can be wrong.
    first = next((value for job in jobs for value in job if value.startswith("seed=")), None)
    jobs = [job for job in jobs if first is None or first in job]
    configs = {validate(compose(f"experiment={name}", *job)).model_dump_json() for job in jobs}
    assert len(configs) == len(jobs), "two jobs of the sweep are the same run"


def test_sweeps_are_found() -> None:
    assert len(sweeps("posthoc_against_joint")) == 3 * 2 * 2 * 2
    assert sweeps("euclidean_k512") == [()]
    assert ("quantizer.K=64", "quantizer=euclidean") in sweeps("rate_distortion")
