"""Image files as cameras, scanners, file servers and other people's programs leave them."""

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from geovq.data import files, limits, load_data, open_source, summary
from geovq.errors import ConfigError, DataError

RAMP = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))
ORIENTATION = 0x0112


def encode(pixels: np.ndarray = RAMP, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def opened(path: Path, **settings: object):
    return open_source("folder", "x", path=path, test_fraction=0.5, **settings)


def told(path: Path, **settings: object) -> str:
    return "\n".join(load_data(opened(path, **settings), validation=1, seed=0).remarks)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_is_one_rule_for_all_formats(tmp_path, form, orientation) -> None:
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:8], pixels[:, :8] = 250, 120
    turned = {3: PIL.Image.Transpose.ROTATE_180, 6: PIL.Image.Transpose.ROTATE_90}[orientation]
    stored = np.asarray(PIL.Image.fromarray(pixels).transpose(turned))
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    content = encode(stored, form, exif=exif)
    images = opened(write(tmp_path, {f"{i}.{form.lower()}": content for i in range(2)})).load().train_images
    assert images.shape[1:] == (3, 32, 48)
    assert np.abs(images[0].permute(1, 2, 0).numpy().astype(int) - pixels).mean() < 4


def test_of_the_exif_only_the_orientation_is_read(tmp_path) -> None:
    entries = struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0) + struct.pack("<HHII", 0x11A, 10, 1, 38)
    rational = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + b"\0\0\0\0" + struct.pack("<ii", -1, 0)
    path = write(tmp_path, {f"{i}.jpg": encode(RAMP[:8], "JPEG", exif=rational) for i in range(2)})
    assert opened(path).load().train_images.shape == (1, 1, 16, 8)


def test_exif_that_cannot_be_read_turns_nothing_and_is_told(tmp_path, monkeypatch) -> None:
    path = write(tmp_path, {f"{i}.jpg": encode(RAMP, "JPEG") for i in range(4)})
    monkeypatch.setattr(PIL.Image.Image, "getexif", lambda self: struct.unpack("<I", b""))
    assert "4 of 4 files have Exif data that cannot be read" in told(path)


def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch) -> None:
    path = write(tmp_path, {f"{i}.png": encode() for i in range(2)})
    monkeypatch.setattr(PIL.Image, "open", lambda *_, **__: 1 / 0)
    with pytest.raises(DataError, match=r"\d\.png: not a readable image \(division by zero\)"):
        opened(path).info()


def test_what_pillow_reads_is_an_image_whatever_its_suffix(tmp_path) -> None:
    contents = {
        "1.jfif": encode(RAMP, "JPEG"),
        "2.avif": encode(RAMP, "AVIF"),
        "3.jp2": encode(RAMP, "JPEG2000"),
        "4.jpe": encode(RAMP, "JPEG"),
        "5.eps": b"%!PS-Adobe-3.0 EPSF-3.0",
        "6.ico": b"x",
    }
    info = opened(write(tmp_path, contents), channels=1).info()
    assert info.n_train + info.n_test == 4
    assert "left out 2 files" in info.remarks[0]


def test_several_frames_are_told(tmp_path) -> None:
    frames = [PIL.Image.fromarray(RAMP // (k + 1)) for k in range(3)]
    content = encode(RAMP, "GIF", save_all=True, append_images=frames)
    path = write(tmp_path, {"0.gif": content, **{f"{i}.png": encode() for i in range(1, 4)}})
    assert "1 of 4 files hold several frames, of which the first is read, such as 0.gif" in told(path, channels=1)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_integers_of_32_bits_are_refused_as_floats_are(tmp_path, dtype) -> None:
    path = write(tmp_path, {f"{i}.tif": encode(RAMP.astype(dtype), "TIFF") for i in range(2)})
    with pytest.raises(DataError, match=r"\d\.tif: holds .*; save it as an 8- or 16-bit image"):
        opened(path).info()


def test_dark_images_are_told_of_and_stretched(tmp_path) -> None:
    twelve_bits = (RAMP.astype(np.uint16) << 4) + 15
    path = write(tmp_path, {f"{i}.png": encode(twelve_bits) for i in range(4)})
    assert "data.full_scale says which value is white, such as 4095" in told(path)
    assert opened(path).load().train_images.max() < 20
    stretched = opened(path, full_scale=4095).load()
    np.testing.assert_array_equal(stretched.train_images[0, 0], np.round((twelve_bits / 4095) * 255))
    assert "full_scale" not in told(path, full_scale=4095)
    assert "values above data.full_scale=1000 are cut" in told(path, full_scale=1000)
    arrays = tmp_path / "images.npz"
    np.savez(arrays, images=np.repeat(RAMP[None] // 16, 4, axis=0))
    assert "values go from 0 to 15, and 255 is white" in told(arrays)
    assert "such as 15" in told(arrays)
    np.testing.assert_array_equal(opened(arrays, full_scale=15).load().train_images[0, 0], RAMP // 16 * 17)


def test_full_scale_that_does_not_fit(tmp_path) -> None:
    path = write(tmp_path, {f"{i}.png": encode() for i in range(2)})
    with pytest.raises(DataError, match=r"\d\.png: is an 8-bit image: data\.full_scale=4095 must be null or 1 to 255"):
        opened(path, full_scale=4095).info()
    for name, value in (("folder", 0), ("digits", 256)):
        with pytest.raises(ConfigError, match=rf"data\.full_scale={value}: "):
            open_source(name, "x", path=path if name == "folder" else None, full_scale=value)


def test_transparency_is_stretched_as_colour_is(tmp_path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., :3], pixels[:2, :, 3] = 3, 255
    path = write(tmp_path, {f"{i}.png": encode(pixels) for i in range(2)})
    image = opened(path, full_scale=6).load().train_images[0, 0]
    assert image[0, 0] == 128
    assert image[3, 0] == 255


def test_names_of_any_bytes(tmp_path) -> None:
    folder = write(tmp_path / "images", {f"{name}/{i}.png": encode() for name in "ab" for i in range(4)})
    plain = opened(folder).info().fingerprint
    os.rename(folder / "a/0.png", os.fsencode(folder / "a") + b"/caf\xe9.png")
    source = opened(folder)
    assert source.info().fingerprint != plain
    assert len(source.load().train_images) == 4
    (folder / "a" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a/caf\\xe9\.png: not a readable image"):
        opened(folder).load()
    odd = tmp_path / os.fsdecode(b"\xe9")
    odd.mkdir()
    with pytest.raises(DataError, match=r"data\.path=.*\\xe9: is no UTF-8"):
        opened(odd)


def test_names_in_zips_of_other_programs(tmp_path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for part in ("train", "test"):
            for i in range(4):
                member = zipfile.ZipInfo("x")
                member.filename = f".\\{part}\\{'ab'[i % 2]}\\{i}.png"
                archive.writestr(member, encode())
        member = zipfile.ZipInfo("x")
        member.filename = "train\\@eaDir\\1.png"
        archive.writestr(member, b"x")
    info = opened(path).info()
    assert (info.n_train, info.n_test, info.class_names) == (4, 4, ("a", "b"))


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch) -> None:
    write(tmp_path, {f"{name}/{i}.png": encode() for name in "ab" for i in range(2)})
    listed = os.scandir

    def scandir(folder):
        if Path(folder).name == "b":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(files.os, "scandir", scandir)
    with pytest.raises(DataError, match=r"/b: cannot be listed \(Permission denied\)"):
        opened(tmp_path).info()


def test_pipes_and_devices_are_left_out_and_told(tmp_path) -> None:
    write(tmp_path, {f"{i}.png": encode() for i in range(4)})
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    info = opened(tmp_path).info()
    assert info.n_train + info.n_test == 4
    assert "left out 2 pipes or devices, such as pipe.png" in info.remarks
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"nowhere\.png: cannot be read"):
        opened(tmp_path).info()


@pytest.mark.parametrize("name", ["images.npz", "images.zip"])
def test_a_pipe_for_an_archive(tmp_path, name) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is a pipe or a device"):
        opened(tmp_path / name)


def test_one_file_has_a_largest_size(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "LARGEST_FILE", 10_000)
    contents = {**{f"{i}.png": encode() for i in range(4)}, "9.png": encode() + bytes(20_000)}
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    assert (tmp_path / "images.zip").stat().st_size < 10_000
    for path in (tmp_path / "images.zip", write(tmp_path / "images", contents)):
        with pytest.raises(DataError, match=r"9\.png: has 20,\d+ bytes, and one image file may have 10,000"):
            opened(path).info()


def test_images_that_no_memory_holds(tmp_path) -> None:
    path = write(tmp_path, {f"{i}.png": encode() for i in range(2)})
    source = opened(path, image_size=10**7)
    assert source.info().height == 10**7
    with pytest.raises(DataError, match=r"2 images of 10000000x10000000x1 need 186,264\.5 GiB of memory and there are"):
        load_data(source, validation=1, seed=0)


def test_summary_tells_classes_parts_and_size(tmp_path) -> None:
    path = write(tmp_path, {f"{name}/{i}.png": encode() for name in ("cat", "dog") for i in range(10)})
    lines = summary(opened(path).info(), "there", validation=2, limit=None)
    assert lines == [
        "folder: grey images of 16x16 in there",
        "8 for training, 2 for validation, 10 for the test",
        "2 classes (training + test images): cat 5+5, dog 5+5",
    ]
    many = open_source("digits", "x").info()
    assert "0 142+36, 1 146+36" in "\n".join(summary(many, "there", validation=0.1, limit=300))
