"""The way of the data with autoencoders that someone else trained: models of diffusers, a class with its weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from geovq.configuration.config import validate
from geovq.errors import ConfigError, GeoVQError, InputError
from tiny import TINY, command

OURS = [word for word in TINY if not word.startswith("vae.")]
SMALL = (*OURS, "data.limit=60", "data.image_size=32", "vae=pretrained", "tracking=none", "transformer=none")
RUNS = {
    "AutoencoderKL": ("quantizer=pullback", "assign=search", "assign.n_rounds=2"),
    "AutoencoderTiny": ("quantizer=euclidean", "assign=metric"),
    "AutoencoderDC": ("quantizer=whitened", "assign=sequential", "assign.n_probes=4"),
    "VQModel": ("quantizer=residual", "finetune=decoder", "finetune.steps=6"),
}

NETS = """
import torch
from torch import nn

class MyAutoencoder(nn.Module):
    def __init__(self, image_shape: tuple[int, int, int], hidden: int = 4):
        super().__init__()
        self.inner = nn.Conv2d(image_shape[0], hidden, 8, stride=8)
        self.outer = nn.ConvTranspose2d(hidden, image_shape[0], 8, stride=8)

    def encode(self, x):
        return self.inner(x)

    def decode(self, z):
        return torch.sigmoid(self.outer(z))

class Flat(MyAutoencoder):
    def encode(self, x):
        return super().encode(x).flatten(1)

class Sized(MyAutoencoder):
    def __init__(self, image_shape: tuple[int, int, int], dim: int, grid: int):
        super().__init__(image_shape, dim)

class Noisy(MyAutoencoder):
    def decode(self, z):
        return nn.functional.dropout(super().decode(z) / 2, 0.5, training=True)

class Training(MyAutoencoder):
    def eval(self):
        return self.train()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, compose: Callable[..., Any]) -> Callable[..., Any]:
    """``run(*overrides)``: the artifacts of a run below a folder that all runs of this module share."""
    from geovq.pipeline.runner import Runner
    from geovq.pipeline.stage import Context

    root = tmp_path_factory.mktemp("pretrained")

    def run(*overrides: str) -> dict[str, Any]:
        from geovq.commands.train import open_data

        config = validate(compose(*SMALL, f"paths.root={root}", *overrides))
        results = Runner(Context(config, *open_data(config))).run()
        return {name: result.artifact for name, result in results.items()}

    return run


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module with classes of someone else's, and weights of the first in half precision."""
    from safetensors.torch import save_file

    (tmp_path / "nets_of_mine.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    import nets_of_mine  # type: ignore[import-not-found]

    torch.manual_seed(0)
    weights = nets_of_mine.MyAutoencoder((1, 32, 32)).half().state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    yield tmp_path
    del sys.modules["nets_of_mine"]


@pytest.mark.parametrize("kind", RUNS)
def test_codes_of_a_model_by_every_rule(
    run: Callable[..., Any], small_autoencoder: Callable[[str], Path], kind: str
) -> None:
    stages = "stages=[codes,tuned_codes]" if kind == "VQModel" else "stages=[codes]"
    artifacts = run(f"vae.path={small_autoencoder(kind)}", stages, *RUNS[kind])
    codes = artifacts["tuned_codes" if kind == "VQModel" else "codes"].tensors("test")["codes"]
    assert codes.shape[:3] == (12, 4, 4)
    assert codes.unique().numel() > 1
    settings = artifacts["vae"].manifest["settings"]
    assert settings["architecture"]["_class_name"] == kind
    assert {"steps", "learning_rate", "path"}.isdisjoint(settings)
    assert artifacts["vae"].json("summary")["best_step"] == 0


def test_its_artifact_holds_all_that_later_runs_need(
    run: Callable[..., Any], small_autoencoder: Callable[[str], Path], tmp_path: Path, compose: Callable[..., Any]
) -> None:
    from geovq.commands.train import open_data
    from geovq.pipeline.runner import Runner
    from geovq.pipeline.stage import Context

    folder = small_autoencoder("AutoencoderTiny").rename(tmp_path / "model")
    values = compose(*SMALL, f"paths.root={tmp_path}", f"vae.path={folder}", "stages=[latents]", "quantizer=random")
    context = Context(config := validate(values), *open_data(config))
    built = Runner(context).run()
    recorded = json.loads(json.dumps(context.config.model_dump(mode="json")))
    assert (recorded["vae"]["grid"], recorded["vae"]["dim"], len(recorded["vae"]["weights_sha256"])) == (4, 4, 64)
    folder.rename(tmp_path / "elsewhere")
    again = Runner(Context(config := validate(recorded | {"stages": ["codes"]}), *open_data(config)))
    assert again.keys["vae"] == built["vae"].artifact.key
    assert again.run()["codes"].artifact.json("summary")
    again.store.peek("vae", again.keys["vae"]).path("weights.safetensors").unlink()
    with pytest.raises(ConfigError, match="no such folder"):
        Runner(Context(config, *open_data(config))).obtain(("vae",))


def test_keys_follow_the_weights_and_not_the_folder(
    compose: Callable[..., Any], small_autoencoder: Callable[[str], Path], tmp_path: Path
) -> None:
    from geovq.commands.train import open_data
    from geovq.pipeline.runner import plan
    from geovq.pipeline.stage import Context
    from small_autoencoders import built, saved

    def key(folder: Path) -> str:
        config = validate(compose(*SMALL, f"paths.root={tmp_path}", f"vae.path={folder}"))
        return plan(Context(config, *open_data(config)))["vae"]

    first = small_autoencoder("AutoencoderKL")
    import diffusers

    copy = saved(diffusers.AutoencoderKL.from_pretrained(first), tmp_path / "copy")
    other = saved(built("AutoencoderKL"), tmp_path / "other")
    assert key(first) == key(copy) != key(other)


def test_half_precision_is_read_as_float32(run: Callable[..., Any], tmp_path: Path) -> None:
    from small_autoencoders import built, saved

    model = built("AutoencoderKL").half()
    folder = saved(model, tmp_path / "half", variant="fp16")
    weights = run(f"vae.path={folder}", "stages=[vae]", "quantizer=random")["vae"].tensors("weights")
    name = "vae.decoder.network.conv_in.weight"
    assert weights[name].dtype == torch.float32
    torch.testing.assert_close(weights[name], model.decoder.conv_in.weight.detach().float(), atol=0, rtol=0)


def test_adversarial_tuning_moves_the_decoder_alone(
    run: Callable[..., Any], small_autoencoder: Callable[[str], Path]
) -> None:
    given = ("finetune=adversarial", "finetune.steps=4", "finetune.batch_size=16", "stages=[tuned_codes]")
    artifacts = run(f"vae.path={small_autoencoder('AutoencoderKL')}", "quantizer=euclidean", *given)
    assert artifacts["finetune"].json("history")
    before, after = artifacts["vae"].tensors("weights"), artifacts["finetune"].tensors("decoder")
    assert {f"vae.decoder.{name}" for name in after} == {name for name in before if name.startswith("vae.decoder.")}


def test_a_class_with_its_weights_is_not_trained(run: Callable[..., Any], nets: Path) -> None:
    from safetensors.torch import load_file

    given = ("vae._target_=nets_of_mine.MyAutoencoder", f"vae.checkpoint={nets / 'weights.safetensors'}")
    artifacts = run(*given, "quantizer=pullback", "stages=[codes]")
    weights = artifacts["vae"].tensors("weights")
    for name, value in load_file(nets / "weights.safetensors").items():
        torch.testing.assert_close(weights[f"vae.{name}"], value.float(), atol=0, rtol=0)
    assert artifacts["latents"].tensors("test")["mean"].shape == (12, 4, 4, 4)


def test_our_own_vae_takes_weights_too(compose: Callable[..., Any], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from geovq.commands.train import open_data
    from geovq.models.vae import VAE
    from geovq.pipeline.runner import Runner
    from geovq.pipeline.stage import Context

    weights = VAE((1, 8, 8), 4, 16, 8, 16, 1, "group").state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    given = (f"vae.checkpoint={tmp_path / 'weights.safetensors'}", "vae.rate_bits_per_token=null", "stages=[vae]")
    config = validate(compose(*TINY, "tracking=none", f"paths.root={tmp_path}", *given))
    found = Runner(Context(config, *open_data(config))).run()["vae"].artifact.tensors("weights")
    assert all(torch.equal(found[f"vae.{name}"], value) for name, value in weights.items())


def folder_without(small: Path, to: Path, **changes: Any) -> Path:
    """A copy of a model with other entries in config.json; None removes the file of weights."""
    to.mkdir()
    config = json.loads((small / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(config))
    (to / "diffusion_pytorch_model.safetensors").symlink_to(small / "diffusion_pytorch_model.safetensors")
    return to


def cut_short(small: Path, to: Path) -> Path:
    """A copy of a model whose weights end before their time, as of a download that was broken off."""
    folder_without(small, to)
    file = to / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: len(content) // 2])
    return to


BAD: dict[str, tuple[Callable[[Path, Path], tuple[str, ...]], str]] = {
    "no path": (lambda small, to: (), r"^vae\.path=null: vae=pretrained needs a folder"),
    "no folder": (lambda small, to: (f"vae.path={to}",), r"no such folder; give one .* or vae\.download=true"),
    "a hub name": (lambda small, to: ("vae.path=some/model",), r"^vae\.path=some/model: no such folder; .*download"),
    "no model": (lambda small, to: (f"vae.path={small.parent}",), r"no model, for there is no config\.json"),
    "a file": (lambda small, to: (f"vae.path={small / 'config.json'}",), r": a file; give the folder"),
    "another class": (
        lambda small, to: (f"vae.path={folder_without(small, to, _class_name='AutoencoderKLWan')}",),
        r"class AutoencoderKLWan, which is not known here; take AutoencoderKL, .*_target_",
    ),
    "no class": (lambda small, to: (f"vae.path={folder_without(small, to, _class_name=None)}",), r"names no class"),
    "weights cut short": (
        lambda small, to: (f"vae.path={cut_short(small, to)}",),
        r"model: diffusion_pytorch_model\.safetensors cannot be read \(.*\); save the model again$",
    ),
    "other colours": (
        lambda small, to: (f"vae.path={folder_without(small, to, in_channels=4, out_channels=4)}",),
        r"takes images of 4 channels, and these have 3; take data\.channels=",
    ),
    "a posterior metric": (lambda small, to: (f"vae.path={small}", "geo=posterior"), r"^geo\.metric=posterior reads"),
    "a joint quantizer": (
        lambda small, to: (f"vae.path={small}", "quantizer=vqvae"),
        r"quantizer=vqvae trains an",
    ),
    "a rate": (lambda small, to: (f"vae.path={small}", "vae.rate_bits_per_token=9"), r"^vae\.rate_bits_per_token=9"),
    "a loss": (lambda small, to: (f"vae.path={small}", "vae.loss=perceptual"), r"^vae\.loss=perceptual: weights"),
    "a checkpoint beside it": (
        lambda small, to: (f"vae.path={small}", f"vae.checkpoint={small / 'diffusion_pytorch_model.safetensors'}"),
        r"^vae\.checkpoint=.*: the weights are those of vae\.path; leave it out",
    ),
    "another grid": (lambda small, to: (f"vae.path={small}", "vae.grid=8"), r"^vae\.grid=8: the model has 4 for"),
    "another size": (
        lambda small, to: (f"vae.path={small}", "data.image_size=28"),
        r"^images of 28x28: .* squares whose sides 8 divides; take data\.image_size=24 or 32$",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_run_is_told_in_a_line_before_any_compute(
    compose: Callable[..., Any], small_autoencoder: Callable[[str], Path], tmp_path: Path, case: str
) -> None:
    from geovq.commands.train import open_data

    make, message = BAD[case]
    small = small_autoencoder("AutoencoderKL")
    more = ("data.channels=3",) if case == "other colours" else ()
    with pytest.raises(ConfigError, match=message) as told:
        open_data(validate(compose(*SMALL, *more, *make(small, tmp_path / "model"))))
    assert "\n" not in str(told.value)


def test_pickles_are_refused(compose: Callable[..., Any], tmp_path: Path) -> None:
    from small_autoencoders import built, saved

    pytest.importorskip("diffusers")
    saved(built("AutoencoderTiny"), tmp_path / "model", safe_serialization=False)
    with pytest.raises(ConfigError, match=r"weights in diffusion_pytorch_model\.bin alone, a pickle"):
        validate(compose(*SMALL, f"vae.path={tmp_path / 'model'}"))
    torch.save({}, tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match=r"weights\.pt: no safetensors \(a pickle, which could run code\)"):
        validate(compose("vae.checkpoint=" + str(tmp_path / "weights.pt"), "vae.rate_bits_per_token=null"))


def test_a_whole_pipeline_names_the_folder_of_its_autoencoder(compose: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"a whole pipeline; give the folder of its autoencoder, {tmp_path}/vae"):
        validate(compose(*SMALL, f"vae.path={tmp_path}"))


def test_the_extra_is_named_where_it_is_missing(
    compose: Callable[..., Any], small_autoencoder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from geovq.configuration import model_folder

    folder = small_autoencoder("AutoencoderKL")
    monkeypatch.setattr(model_folder, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs diffusers, which is not installed: pip install -e \.\[pretrained\]$"):
        validate(compose(*SMALL, f"vae.path={folder}"))


def test_a_name_that_cannot_be_fetched_is_told_in_a_line(
    compose: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def offline(*arguments: Any, **named: Any) -> str:
        raise ConnectionError("no route to host.\nand more")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(ConfigError, match=r"^vae\.path=some/model: cannot be fetched .* \(no route to host\); give"):
        validate(compose(*SMALL, "vae.path=some/model", "vae.download=true"))


def test_a_name_is_fetched_into_a_folder(
    compose: Callable[..., Any], small_autoencoder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, small = pytest.importorskip("huggingface_hub"), small_autoencoder("AutoencoderKL")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **named: str(small.parent) if name == "a/b" else "")
    config = validate(compose(*SMALL, "vae.path=a/b/AutoencoderKL", "vae.download=true"))
    assert config.vae.path == "a/b/AutoencoderKL"
    assert config.vae.has_posterior


def test_weights_of_another_model_are_refused(
    run: Callable[..., Any], small_autoencoder: Callable[[str], Path], tmp_path: Path
) -> None:
    small = small_autoencoder("AutoencoderKL")
    folder = folder_without(small, tmp_path / "model", layers_per_block=2)
    with pytest.raises(ConfigError, match=r"the weights are not those of config\.json \(\d+ missing keys, first "):
        run(f"vae.path={folder}", "stages=[vae]", "quantizer=random")
    folder = folder_without(small, tmp_path / "other", latent_channels=8)
    with pytest.raises(
        ConfigError, match=r"the weights cannot be read \(.*size mismatch for .*\); save the model again$"
    ):
        run(f"vae.path={folder}", "stages=[vae]", "quantizer=random")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("vae._target_=nets_of_mine.Flat",), r"the latents of an image have shape \(64,\); a square grid"),
        (("vae._target_=nets_of_mine.Sized",), r"^vae\.grid=auto, vae\.dim=auto: the constructor of .*Sized asks"),
        (("vae._target_=nets_of_mine.Noisy",), r"Noisy: the decoder gives another image at every call"),
        (("vae._target_=nets_of_mine.Training",), r"Training: the decoder is in train mode; call decoder\.eval\(\)"),
        (("vae._target_=nets_of_mine.MyAutoencoder", "+vae.hidden=5"), r"not weights of nets_of_mine\.MyAutoencoder: "),
        (("vae._target_=nets_of_mine.MyAutoencoder", "vae.dim=5"), r"encode gives latents of shape \(4, 4, 4\)"),
        (("vae._target_=nets_of_mine.MyAutoencoder", "vae.path=/m"), r"^vae\.path=/m: vae=pretrained does not read it"),
        (
            ("vae._target_=nets_of_mine.MyAutoencoder", "vae.checkpoint=/no"),
            r"^vae\.checkpoint=/no: no such file",
        ),
        (("vae._target_=nets_of_mine.MyAutoencoder", "vae.checkpoint=null"), r"^vae\.grid=auto: read off a model that"),
    ],
)
def test_classes_that_do_not_fit_are_told(
    run: Callable[..., Any], nets: Path, overrides: tuple[str, ...], message: str
) -> None:
    grid = ("vae.grid=4",) if "vae.dim=5" in overrides else ()
    with pytest.raises(GeoVQError, match=message):
        run(f"vae.checkpoint={nets / 'weights.safetensors'}", "stages=[vae]", "quantizer=random", *grid, *overrides)


def test_weights_that_changed_since_are_refused(run: Callable[..., Any], nets: Path) -> None:
    given = ("vae._target_=nets_of_mine.MyAutoencoder", f"vae.checkpoint={nets / 'weights.safetensors'}")
    with pytest.raises(ConfigError, match=r"the weights have the hash .*, and 0{12} is asked for; give those"):
        run(*given, f"vae.weights_sha256={'0' * 64}", "vae.grid=4", "vae.dim=4", "stages=[vae]", "quantizer=random")


def test_weights_with_nan_are_refused(run: Callable[..., Any], nets: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(nets / "weights.safetensors")
    weights["outer.bias"][0] = torch.nan
    save_file(weights, nets / "nan.safetensors")
    with pytest.raises((ConfigError, InputError), match=r"outer\.bias holds NaN or infinity"):
        run(
            "vae._target_=nets_of_mine.MyAutoencoder",
            f"vae.checkpoint={nets / 'nan.safetensors'}",
            "stages=[vae]",
            "quantizer=random",
        )


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_from_images_to_a_file_by_the_commands(small_autoencoder: Callable[[str], Path], tmp_path: Path) -> None:
    from PIL import Image

    folder = small_autoencoder("AutoencoderKL")
    given = (*OURS, "data.image_size=32", "vae=pretrained", f"vae.path={folder}", "quantizer=geodesic")
    done = command(tmp_path, "train", *given, "finetune=both", "assign=search", "assign.n_rounds=2")
    assert done.returncode == 0, done.stderr
    assert "taking the autoencoder's weights as they are" in done.stderr
    folder.rename(tmp_path / "gone")
    image = torch.rand(32, 32) * 255
    Image.fromarray(image.byte().numpy()).save(tmp_path / "image.png")
    for script, more in (
        ("sample", ()),
        ("evaluate", ()),
        ("compress", (f"images={tmp_path / 'image.png'}", f"output={tmp_path / 'image.gvq'}")),
        ("decompress", (f"file={tmp_path / 'image.gvq'}", f"output={tmp_path / 'back'}")),
    ):
        done = command(tmp_path, script, "trainer.threads=1", *more)
        assert done.returncode == 0, done.stderr
    (tmp_path / "gone").rename(folder)
    assert list((tmp_path / "back").rglob("*.png"))
