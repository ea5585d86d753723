"""Images of a person, through a run of digits and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from geovq.coding.format import read_body, read_header
from geovq.commands.compress import CompressSettings, compress, compressed, images_for
from geovq.commands.decompress import DecompressSettings, check_run, completed, decompress, decompressed
from geovq.commands.image_files import file_names, write_folder, write_npz
from geovq.configuration.parse import parse
from geovq.data.collection import Collection, read_images
from geovq.data.types import PixelSettings
from geovq.errors import ArtifactError, ConfigError, DataError
from geovq.pipeline.stages.codes import load_codes
from geovq.pipeline.stages.networks import final_codes

RUN = "0123456789abcdef" * 2


@pytest.fixture
def ask(digits_run: Any, compose: Callable[..., Any]) -> Callable[..., Any]:
    """``ask(images, *words)``: what compressing gives, its header and body."""
    runner, _ = digits_run

    def asked(images: Any, *words: str) -> Any:
        settings = parse(CompressSettings, compose(*words, name="compress"))
        found = Collection(np.asarray(images), [f"{index}.png" for index in range(len(images))], ())
        done = compressed(runner, RUN, found, settings)
        header = read_header(done.data, "x.gvq")
        return SimpleNamespace(done=done, header=header, body=read_body(done.data, header, "x.gvq"))

    return asked


@pytest.fixture
def reading(compose: Callable[..., Any]) -> Callable[..., DecompressSettings]:
    return lambda *words: parse(DecompressSettings, compose(*words, name="decompress"))


@pytest.mark.parametrize(
    "words", [[], ["streams=per_image", "names=false"], ["classes=none"], ["probabilities=unigram"]]
)
def test_images_come_back_as_the_run_decodes_its_own_test_images(
    digits_run: Any, ask: Callable[..., Any], reading: Callable[..., Any], words: list[str]
) -> None:
    runner, results = digits_run
    images = runner.context.data.test.images
    found = ask(images, *words)
    names, blocks = found.body
    assert (names is None) == ("names=false" in words)
    read = [decompressed(runner, found.header, blocks, reading(f"batch_size={size}"), "x.gvq") for size in (7, 500)]
    assert (read[0] == read[1]).all()
    artifacts = {name: done.artifact for name, done in results.items()}
    from geovq.pipeline.new_images import images_of

    codes = load_codes(final_codes(artifacts), "test")
    assert (images_of(runner.context, artifacts, codes) == read[0]).all()  # the same rule gave the same codes
    beyond = len(found.done.data) - found.done.bits.sum() / 8  # header, names, checksums, and of each stream its end
    assert 0 < beyond < 300 + 2.5 * len(images)


@pytest.mark.parametrize("streams", ["one", "per_image"])
def test_some_images_alone(
    digits_run: Any, ask: Callable[..., Any], reading: Callable[..., Any], streams: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geovq.coding import file

    runner, _ = digits_run
    monkeypatch.setitem(file._MOST_IMAGES, True, 8)
    images = runner.context.data.test.images
    found = ask(images, f"streams={streams}")
    whole = decompressed(runner, found.header, found.body[1], reading(), "x.gvq")
    some = decompressed(runner, found.header, found.body[1], reading("only=[33,3,34]"), "x.gvq")
    assert (some == whole[[33, 3, 34]]).all()
    if streams == "per_image":  # the other blocks are not looked at
        blocks = [block if number in (0, 4) else None for number, block in enumerate(found.body[1])]
        assert (decompressed(runner, found.header, blocks, reading("only=[33,3,34]"), "x.gvq") == some).all()


def test_half_of_the_codes_are_kept_and_the_others_drawn(
    digits_run: Any, ask: Callable[..., Any], reading: Callable[..., Any]
) -> None:
    runner, results = digits_run
    images = runner.context.data.test.images[:20]
    found = ask(images)
    whole, half, none = (
        decompressed(runner, found.header, found.body[1], reading(f"prefix={share}"), "x.gvq")
        for share in ("1", "0.5", "0")
    )
    assert (whole != half).any()
    assert (half != none).any()
    codes = load_codes(results["codes"].artifact, "test")[:20]
    inputs = {name: done.artifact for name, done in results.items()}
    drawn = completed(runner.context, inputs, codes, torch.full((20,), -1), reading("prefix=0.5"))
    kept = codes.flatten(1).shape[1] // 2
    assert (drawn.flatten(1)[:, :kept] == codes.flatten(1)[:, :kept]).all()
    assert (drawn != codes).any()


def test_another_run_and_missing_artifacts_are_named(
    digits_run: Any, ask: Callable[..., Any], reading: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, _ = digits_run
    found = ask(runner.context.data.test.images[:3])
    check_run(found.header, runner, "x.gvq")
    with pytest.raises(DataError, match=r"x\.gvq: was written with codes 7{16} \(the run has [0-9a-f]{16}\)"):
        check_run(replace(found.header, codes="7" * 16), runner, "x.gvq")
    with pytest.raises(DataError, match=r"x\.gvq: holds images of shape \(1, 28, 28\), and the run has \(1, 8, 8\)"):
        check_run(replace(found.header, height=28, width=28), runner, "x.gvq")
    with pytest.raises(DataError, match=r"the probabilities .* are not those that it was written with"):
        decompressed(runner, replace(found.header, digest=b"another!"), found.body[1], reading(), "x.gvq")
    present = runner.present
    monkeypatch.setattr(runner, "present", lambda names: {k: v for k, v in present(names).items() if k != "prior"})
    with pytest.raises(ArtifactError, match=rf"x\.gvq: needs prior/{runner.keys['prior']}, not there below "):
        decompressed(runner, found.header, found.body[1], reading(), "x.gvq")


def test_images_of_another_shape_are_refused_or_made_to_fit(digits_run: Any, tmp_path: Path) -> None:
    runner, _ = digits_run
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"are 3x20x30 \(channels, height, width\), and the run reads 1x8x8; fit=true"):
        images_for(runner, str(tmp_path), fit=False)
    assert images_for(runner, str(tmp_path), fit=True).images.shape == (1, 1, 8, 8)
    for other in (Image.new("L", (30, 20)), Image.new("RGB", (20, 20))):  # a training run would set data.*
        other.save(tmp_path / "b.png")
        with pytest.raises(DataError, match=r"a\.jpg .* but b\.png .*, and the run reads 1x8x8 .*; fit=true crops"):
            images_for(runner, str(tmp_path), fit=False)
    assert images_for(runner, str(tmp_path), fit=True).images.shape == (2, 1, 8, 8)


def test_what_images_can_be(tmp_path: Path) -> None:
    import shutil

    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    for picture, name in zip(pictures, ("a 1.png", "a2.png", "b/a.png"), strict=True):
        Image.fromarray(picture).save(folder / name)
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", folder)
    names = ["a 1.png", "a2.png", "b/a.png"]
    np.savez(tmp_path / "x.npz", images=pictures)
    np.savez(tmp_path / "y.npz", images=pictures, names=np.array(names))  # as decompress.py writes it
    np.savez(tmp_path / "z.npz", images=pictures, names=np.array(names[:2]))
    for path in (str(folder), archive, *(str(tmp_path / f"{stem}.npz") for stem in "xyz")):
        found = read_images(path, PixelSettings())
        assert (found.images[:, 0] == pictures).all()
        assert found.names == (None if Path(path).name in ("x.npz", "z.npz") else names)
    one = read_images(str(folder / "a2.png"), PixelSettings())
    assert one.names == ["a2.png"]
    assert (one.images[0, 0] == pictures[1]).all()
    (tmp_path / "x.txt").write_text("no image")
    for wrong, message in (
        ("x.txt", "expected a folder"),
        ("none", "no such file"),
        ("photos/b/a.jpg", "no such file"),
    ):
        with pytest.raises(DataError, match=message):
            read_images(str(tmp_path / wrong), PixelSettings())


def test_decoded_images_are_written_under_their_names(tmp_path: Path) -> None:
    images = torch.arange(3 * 64, dtype=torch.uint8).reshape(3, 1, 8, 8)
    assert file_names(None, 11)[-1] == "10.png"
    assert file_names(["a.jpg", "a.png", "b/c.tiff"], 3) == ["a.jpg.png", "a.png.png", "b/c.png"]
    assert len(set(file_names(["a.jpg", "a.png", "a.jpg.png"], 3))) == 3
    write_folder(tmp_path / "out", images, file_names(["a.jpg", "b/c.tiff", "d"], 3))
    assert (np.asarray(Image.open(tmp_path / "out" / "b" / "c.png")) == images[1, 0].numpy()).all()
    write_npz(tmp_path / "x.npz", images.expand(3, 3, 8, 8), ["a", "b", "c"])
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["images"].shape == (3, 8, 8, 3)
        assert arrays["names"].tolist() == ["a", "b", "c"]
    for bad in ("/etc/passwd", "../x", "a/../../x", "c:\\x", ""):
        with pytest.raises(DataError, match="leads out of the folder"):
            file_names([bad], 1)
    with pytest.raises(DataError, match=r"several images are named 'a\.png\.png'"):
        file_names(["a.png", "b.png", "a.png"], 3)


def test_what_is_there_is_not_replaced(ask: Callable[..., Any], compose: Callable[..., Any], tmp_path: Path) -> None:
    """``compress.py images=photos/`` and ``decompress.py photos.gvq`` name the folder of the originals."""
    photos, packed = tmp_path / "photos", tmp_path / "photos.gvq"
    photos.mkdir()
    for number in range(2):
        Image.new("L", (8, 8)).save(photos / f"{number}.png")
    before = [path.read_bytes() for path in sorted(photos.iterdir())]
    packed.write_bytes(ask(np.zeros((3, 1, 8, 8), dtype=np.uint8)).done.data)
    with pytest.raises(ConfigError, match=r"photos/0\.png and 1 more files would be replaced; name another"):
        decompress(OmegaConf.create(compose(f"file={packed}", name="decompress")))
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), dtype=np.uint8))
    with pytest.raises(ConfigError, match=r"x\.npz would be replaced"):
        decompress(OmegaConf.create(compose(f"file={packed}", f"output={tmp_path}/x.npz", name="decompress")))
    for more in ([f"output={photos}/0.png"], []):  # an original, and the file of codes of other images
        with pytest.raises(ConfigError, match=r"(0\.png|photos\.gvq) would be replaced; name another"):
            compress(OmegaConf.create(compose(f"images={photos}", *more, name="compress")))
    assert [path.read_bytes() for path in sorted(photos.iterdir())] == before


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kept.txt").write_text("kept")
    written: list[Path] = []

    def interrupted(path: Path, data: bytes) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        path.write_bytes(data)

    monkeypatch.setattr("geovq.commands.image_files.write_whole", interrupted)
    for folder in (tmp_path / "there", tmp_path / "new" / "deep"):
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            write_folder(folder, torch.zeros(3, 1, 8, 8, dtype=torch.uint8), ["a.png", "b/c.png", "b/d.png"])
        assert len(written) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "kept.txt"]


def test_what_a_run_lacks_is_refused_before_compute(
    make_runner: Callable[..., Any], tmp_path: Path, compose: Callable[..., Any], reading: Callable[..., Any]
) -> None:
    from geovq.coding.of_run import kind_of

    config = make_runner(tmp_path, "prior=masked").context.config
    assert kind_of(config, "auto") == "position"
    with pytest.raises(ConfigError, match="probabilities=autoregressive: this run has prior=masked"):
        kind_of(config, "autoregressive")
