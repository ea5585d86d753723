import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from geovq.data import open_source
from geovq.errors import ConfigError, DataError

Tree = dict[str, bytes]


def encode(
    value: int | tuple[int, ...] = 0, size: tuple[int, int] = (6, 4), mode: str = "L", form: str = "PNG"
) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new(mode, size, value).save(stream, form)
    return stream.getvalue()


def write_folder(root: Path, tree: Tree) -> Path:
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(root: Path, tree: Tree) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / "images.ZIP", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in reversed(tree.items()):  # an archive's order means nothing
            archive.writestr(name, content)
    return root / "images.ZIP"


@pytest.fixture(params=[write_folder, write_zip])
def write(request) -> Callable[[Path, Tree], Path]:
    return request.param


CLASSES = {f"{name}/{i}.png": encode(10 * i + (name == "dog")) for name in ("cat", "dog") for i in range(10)}
PARTS = {
    "Train/cat/1.png": encode(1),
    "Train/dog/2.png": encode(2),
    "Train/dog/deeper/3.png": encode(3),
    "test/dog/4.png": encode(4),
    "test/cat/5.png": encode(5),
}


def values(images) -> list[int]:
    """The grey value of each constant image."""
    assert (images == images[..., :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


def test_class_folders_draw_a_test_part(tmp_path, write) -> None:
    source = open_source("folder", "x", path=write(tmp_path, CLASSES), test_fraction=0.2)
    info, raw = source.info(), source.load()
    assert (info.name, info.n_train, info.n_test, info.class_names) == ("folder", 16, 4, ("cat", "dog"))
    assert info.image_shape == (1, 4, 6)
    assert raw.test_labels.bincount().tolist() == [2, 2]
    # Odd grey values are dogs, and each part keeps the order of the paths.
    for images, labels in (raw[:2], raw[2:4]):
        assert [value % 10 for value in values(images)] == labels.tolist()
        assert values(images) == sorted(values(images), key=lambda value: (value % 10, value))
    assert sorted(values(raw.train_images) + values(raw.test_images)) == sorted(
        10 * i + dog for i in range(10) for dog in (0, 1)
    )


@pytest.mark.parametrize("wrapper", ["", "wrapped/twice/"])
def test_train_and_test_folders(tmp_path, write, wrapper) -> None:
    tree = {wrapper + name: content for name, content in PARTS.items()}
    source = open_source("folder", "x", path=write(tmp_path, tree))
    raw = source.load()
    assert values(raw.train_images) == [1, 2, 3]
    assert raw.train_labels.tolist() == [0, 1, 1]
    assert values(raw.test_images) == [5, 4]
    assert raw.test_labels.tolist() == [0, 1]
    assert (source.info().n_train, source.info().n_test, source.info().n_classes) == (3, 2, 2)


def test_flat_folder_has_no_labels(tmp_path, write) -> None:
    source = open_source("folder", "x", path=write(tmp_path, {f"{i}.png": encode(i) for i in range(10)}))
    raw = source.load()
    assert (source.info().n_classes, raw.train_labels, raw.test_labels) == (0, None, None)
    assert sorted(values(raw.train_images) + values(raw.test_images)) == list(range(10))


def test_hidden_files_litter_and_other_files_are_left_out_and_told(tmp_path, write) -> None:
    litter = {
        ".DS_Store": b"x",
        "__MACOSX/cat/._1.png": b"x",
        "cat/.hidden.png": b"x",
        ".git/dog/9.png": b"x",
        "@eaDir/cat/9.png": b"x",
        "dog/@eaDir/3.png/SYNOPHOTO_THUMB_M.png": b"x",
        "#recycle/cat/8.png": b"x",
        "lost+found/8.png": b"x",
        "cat/Thumbs.db": b"x",
        "notes.txt": b"hello",
        "cat/live.HEIC": b"x",
    }
    source = open_source("folder", "x", path=write(tmp_path, {**CLASSES, **litter}))
    info = source.info()
    assert info.n_train + info.n_test == 20
    assert info.class_names == ("cat", "dog")
    told = "\n".join(info.remarks)
    assert (
        "left out 2 files that are no images by their names (1 .heic, 1 .txt), such as cat/live.HEIC"
        in told.replace("1 .txt, 1 .heic", "1 .heic, 1 .txt")
    )
    assert "@eaDir" in told
    source.load()


def test_suffixes_in_capitals_and_other_formats(tmp_path) -> None:
    tree = {
        "1.PNG": encode(9),
        "2.Bmp": encode(9, form="BMP"),
        "3.gif": encode(9, form="GIF"),
        "4.tiff": encode(9, form="TIFF"),
    }
    raw = open_source("folder", "x", path=write_folder(tmp_path, tree), test_fraction=0.5, channels=1).load()
    assert values(raw.train_images) + values(raw.test_images) == [9] * 4


@pytest.mark.parametrize(
    ("image", "channels", "pixel"),
    [
        (PIL.Image.new("RGB", (2, 2), (1, 2, 3)), 3, [1, 2, 3]),
        (PIL.Image.new("RGBA", (2, 2), (1, 2, 3, 255)), 3, [1, 2, 3]),
        (PIL.Image.new("RGBA", (2, 2), (1, 2, 3, 0)), 3, [255, 255, 255]),
        (PIL.Image.new("LA", (2, 2), (7, 255)), 1, [7]),
        (PIL.Image.new("1", (2, 2), 1), 1, [255]),
        (PIL.Image.new("P", (2, 2), 0), 3, [0, 0, 0]),
        (PIL.Image.fromarray(np.full((2, 2), 257 * 99, dtype=np.uint16)), 1, [99]),
    ],
)
def test_modes(tmp_path, image, channels, pixel) -> None:
    for name in ("1.png", "2.png"):
        image.save(tmp_path / name)
    source = open_source("folder", "x", path=tmp_path, test_fraction=0.5)
    assert source.info().channels == channels
    assert source.load().train_images[0, :, 0, 0].tolist() == pixel


def test_mixed_sizes_name_two_files_and_the_remedy(tmp_path, write) -> None:
    tree = {**CLASSES, "dog/3.png": encode(31, size=(6, 5))}
    path = write(tmp_path, tree)
    with pytest.raises(
        DataError,
        match=r"cat/0\.png is 6x4 but dog/3\.png is 6x5; set data\.image_size, such as data\.image_size=4",
    ):
        open_source("folder", "x", path=path).load()
    source = open_source("folder", "x", path=path, image_size=4)
    assert source.info().image_shape == (1, 4, 4)
    assert source.load().train_images.shape[1:] == (1, 4, 4)


def test_image_size_crops_the_centre(tmp_path) -> None:
    pixels = np.zeros((8, 24), dtype=np.uint8)
    pixels[:, 8:16] = 200
    for name in ("1.png", "2.png"):
        PIL.Image.fromarray(pixels).save(tmp_path / name)
    images = open_source("folder", "x", path=tmp_path, image_size=4, test_fraction=0.5).load().train_images
    assert images.unique().tolist() == [200]


def test_mixed_grey_and_colour_name_two_files_and_the_remedy(tmp_path, write) -> None:
    path = write(tmp_path, {**CLASSES, "dog/3.png": encode((31, 31, 31), mode="RGB")})
    with pytest.raises(DataError, match=r"cat/0\.png has 1 channels but dog/3\.png has 3; set data\.channels=1"):
        open_source("folder", "x", path=path).load()
    grey = open_source("folder", "x", path=path, channels=1).load()
    assert sorted(values(grey.train_images) + values(grey.test_images))[6:8] == [30, 31]
    colour = open_source("folder", "x", path=path, channels=3)
    assert colour.info().image_shape == colour.load().train_images.shape[1:] == (3, 4, 6)


@pytest.mark.parametrize("content", [b"no image at all", b"", encode(3, size=(64, 64))[:-30]])
def test_unreadable_image_is_named(tmp_path, write, content) -> None:
    path = write(tmp_path, {**CLASSES, "dog/3.png": content})
    with pytest.raises(DataError, match=r"images\.ZIP/dog/3\.png: not a readable|/dog/3\.png: not a readable"):
        open_source("folder", "x", path=path).load()


def test_first_faulty_image_is_reported_whatever_the_threads(tmp_path) -> None:
    tree = {f"{i:04}.png": encode(1) for i in range(600)}
    tree["0150.png"] = tree["0400.png"] = b"bad"
    path = write_folder(tmp_path, tree)
    for _ in range(3):
        with pytest.raises(DataError, match=r"/0150\.png|/0400\.png") as caught:
            open_source("folder", "x", path=path, test_fraction=0.001).load()
        assert "0150" in str(caught.value)


def test_empty_folder(tmp_path, write) -> None:
    with pytest.raises(DataError, match="no image found; expected"):
        open_source("folder", "x", path=write(tmp_path, {})).info()


def test_folder_without_images(tmp_path, write) -> None:
    with pytest.raises(DataError, match=r"no image found among 1 files such as a/notes\.txt"):
        open_source("folder", "x", path=write(tmp_path, {"a/notes.txt": b"x"})).info()


def test_loose_image_beside_classes(tmp_path, write) -> None:
    with pytest.raises(DataError, match=r"loose\.png lies beside class folders"):
        open_source("folder", "x", path=write(tmp_path, {**CLASSES, "loose.png": encode()})).info()


def test_class_without_training_images(tmp_path, write) -> None:
    with pytest.raises(DataError, match="class cow has test images but no training image"):
        open_source("folder", "x", path=write(tmp_path, {**PARTS, "test/cow/1.png": encode()})).info()


def test_three_parts(tmp_path, write) -> None:
    with pytest.raises(DataError, match="found folders Train, test, val; give one training and one test"):
        open_source("folder", "x", path=write(tmp_path, {**PARTS, "val/cat/1.png": encode()})).info()


def test_links_are_followed_once(tmp_path) -> None:
    write_folder(tmp_path / "real", CLASSES)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/cat").symlink_to(tmp_path / "real/cat")
    (tmp_path / "images/dog").symlink_to(tmp_path / "real/dog")
    (tmp_path / "real/dog/loop").symlink_to(tmp_path / "images")
    info = open_source("folder", "x", path=tmp_path / "images").info()
    assert info.n_train + info.n_test == 20


def test_fingerprint_follows_content_alone(tmp_path, write) -> None:
    def fingerprint(folder: str, tree: Tree) -> str:
        path = write(tmp_path / folder, tree)
        os.utime(path, (1, 1))
        return open_source("folder", "x", path=path).info().fingerprint

    first = fingerprint("a", CLASSES)
    assert len(first) == 64
    assert fingerprint("a", CLASSES) == first
    assert fingerprint("b", {**CLASSES, "cat/1.png": encode(99)}) != first
    renamed = {name.replace("cat/1.png", "dog/11.png"): content for name, content in CLASSES.items()}
    assert fingerprint("c", renamed) != first


def test_fingerprint_of_a_moved_folder(tmp_path) -> None:
    first = open_source("folder", "x", path=write_folder(tmp_path / "a", CLASSES)).info().fingerprint
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b/.DS_Store").touch()
    for file in (tmp_path / "b").rglob("*.png"):
        os.utime(file, (1, 1))
    assert open_source("folder", "x", path=tmp_path / "b").info().fingerprint == first


def test_damaged_zip(tmp_path) -> None:
    path = write_zip(tmp_path, CLASSES)
    content = bytearray(path.read_bytes())
    (tmp_path / "cut.zip").write_bytes(content[:-60])
    with pytest.raises(DataError, match=r"cut\.zip: not a readable zip"):
        open_source("folder", "x", path=tmp_path / "cut.zip").info()
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("dog/3.png")
        start = member.header_offset + 30 + len(member.filename)
    content[start : start + 8] = bytes(8)
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.zip: dog/3\.png cannot be read"):
        open_source("folder", "x", path=tmp_path / "bad.zip").load()


def test_paths_that_cannot_be_opened(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path=null: data=folder needs a folder"):
        open_source("folder", "x")
    with pytest.raises(DataError, match=r"data\.path=.*nowhere: no such file or folder"):
        open_source("folder", "x", path=tmp_path / "nowhere")
    (tmp_path / "images.rar").touch()
    with pytest.raises(DataError, match=r"images\.rar: expected a folder, a \.zip or an \.npz"):
        open_source("folder", "x", path=tmp_path / "images.rar")


def test_cifar_from_an_image_tree(tmp_path) -> None:
    tree = {f"cifar10_png/{name}": content for name, content in PARTS.items()}
    info = open_source("cifar10", write_folder(tmp_path, tree), download=False).info()
    assert (info.name, info.n_train, info.n_test) == ("cifar10", 3, 2)
