import io
import zipfile

import numpy as np
import pytest
import torch

from geovq.data import open_source
from geovq.errors import DataError

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (20, 5, 7, 3), dtype=np.uint8)
LABELS = np.repeat([2, 5], 10)


def save(folder, **arrays: np.ndarray):
    np.savez(folder / "images.npz", **arrays)
    return folder / "images.npz"


def test_images_with_labels(tmp_path) -> None:
    source = open_source("folder", "x", path=save(tmp_path, images=IMAGES, labels=LABELS), test_fraction=0.3)
    info, raw = source.info(), source.load()
    assert (info.n_train, info.n_test, info.image_shape, info.class_names) == (14, 6, (3, 5, 7), ("2", "5"))
    assert raw.test_labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = {
        image.transpose(2, 0, 1).tobytes(): int(label == 5) for image, label in zip(IMAGES, LABELS, strict=True)
    }
    images, labels = (
        torch.cat([raw.train_images, raw.test_images]),
        torch.cat([raw.train_labels, raw.test_labels]),
    )
    found = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    assert found == expected


def test_both_parts(tmp_path) -> None:
    path = save(
        tmp_path,
        train_images=IMAGES[:12],
        test_images=IMAGES[12:],
        train_labels=np.array(["b", "a"] * 6),
        test_labels=np.array(["b"] * 8)[:, None],
    )
    source = open_source("folder", "x", path=path)
    raw = source.load()
    np.testing.assert_array_equal(raw.train_images, IMAGES[:12].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(raw.test_images, IMAGES[12:].transpose(0, 3, 1, 2))
    assert raw.train_labels.tolist() == [1, 0] * 6
    assert raw.test_labels.tolist() == [1] * 8
    assert source.info().class_names == ("a", "b")


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (IMAGES[..., 0], (1, 5, 7)),
        (IMAGES[..., :1], (1, 5, 7)),
        (IMAGES.transpose(0, 3, 1, 2), (3, 5, 7)),
    ],
)
def test_orders_of_axes(tmp_path, array, shape) -> None:
    source = open_source("folder", "x", path=save(tmp_path, images=array), test_fraction=0.5)
    raw = source.load()
    assert source.info().image_shape == tuple(raw.train_images.shape[1:]) == shape
    assert raw.train_labels is None
    # Whatever the order of the axes, the first channel is the same set of images.
    images = torch.cat([raw.train_images, raw.test_images])[:, 0].numpy()
    assert {image.tobytes() for image in images} == {image.tobytes() for image in np.ascontiguousarray(IMAGES[..., 0])}


def test_other_size_and_channels(tmp_path) -> None:
    source = open_source("folder", "x", path=save(tmp_path, images=IMAGES), image_size=4, channels=1)
    assert source.info().image_shape == tuple(source.load().train_images.shape[1:]) == (1, 4, 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES / 255}, "images is float64, expected uint8"),
        ({"images": IMAGES[:0]}, "images is empty"),
        ({"images": IMAGES.reshape(20, 105)}, r"images has shape \(20, 105\)"),
        ({"images": IMAGES, "labels": LABELS[:5]}, r"labels is int64 of shape \(5,\), expected 20"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels is float64"),
        ({"pictures": IMAGES}, "found arrays pictures; expected images"),
        ({"train_images": IMAGES}, "found arrays train_images; expected images"),
        (
            {"train_images": IMAGES, "test_images": IMAGES[:, :4]},
            r"train_images are .* \(3, 5, 7\), test_images",
        ),
        ({"train_images": IMAGES, "test_images": IMAGES, "train_labels": LABELS}, "labels for one part only"),
        (
            {
                "train_images": IMAGES,
                "test_images": IMAGES,
                "train_labels": LABELS,
                "test_labels": LABELS + 1,
            },
            "class 3 has test images but no training image",
        ),
        ({"images": IMAGES, "labels": np.array([{}] * 20)}, "labels cannot be read"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, message) -> None:
    with pytest.raises(DataError, match=message):
        open_source("folder", "x", path=save(tmp_path, **arrays)).info()


@pytest.mark.parametrize(
    ("arrays", "n_train", "n_test", "classes", "remark"),
    [
        ({"images": IMAGES, "targets": LABELS}, 14, 6, ("2", "5"), ""),
        ({"X": IMAGES, "y": LABELS}, 14, 6, ("2", "5"), ""),
        ({"images": IMAGES, "labels": LABELS, "target": LABELS * 0}, 14, 6, ("2", "5"), "left out target"),
        ({"images": IMAGES, "masks": LABELS}, 14, 6, (), "images and labels are images; left out masks"),
        (
            {"x_train": IMAGES[::2], "y_train": LABELS[::2], "x_test": IMAGES, "y_test": LABELS},
            10,
            20,
            ("2", "5"),
            "",
        ),
        (
            {f"{p}_{w}": a for p in ("train", "val", "test") for w, a in (("images", IMAGES), ("labels", LABELS))},
            20,
            20,
            ("2", "5"),
            "left out val_images, val_labels",
        ),
        ({"train_images": IMAGES, "val_images": IMAGES[:5]}, 20, 5, (), ""),
        ({"images": IMAGES, "labels": np.tile(["10", "9", "2", "1"], 5)}, 12, 8, ("1", "2", "9", "10"), ""),
    ],
)
def test_usual_names_and_what_is_left_out(tmp_path, arrays, n_train, n_test, classes, remark) -> None:
    source = open_source("folder", "x", path=save(tmp_path, **arrays), test_fraction=0.3)
    info = source.info()
    assert (info.n_train, info.n_test, info.class_names) == (n_train, n_test, classes)
    assert remark in "".join(info.remarks)
    assert bool(remark) == bool(info.remarks)
    assert len(source.load().test_images) == n_test


def test_a_header_that_tells_of_more_than_there_is(tmp_path) -> None:
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 16, 16)}
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(tmp_path / "images.npz", "w") as archive:
        archive.writestr("images.npy", stream.getvalue() + bytes(4000))
    with pytest.raises(DataError, match=r"images\.npy tells of 256,000,000,000,000 bytes and holds 4,000"):
        open_source("folder", "x", path=tmp_path / "images.npz").info()


def test_damaged_file(tmp_path) -> None:
    path = save(tmp_path, images=IMAGES)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"images\.npz: not a readable \.npz"):
        open_source("folder", "x", path=path).info()


def test_fingerprint_follows_content(tmp_path) -> None:
    first = open_source("folder", "x", path=save(tmp_path, images=IMAGES)).info().fingerprint
    (tmp_path / "images.npz").rename(tmp_path / "moved.npz")
    assert open_source("folder", "x", path=tmp_path / "moved.npz").info().fingerprint == first
    assert open_source("folder", "x", path=save(tmp_path, images=IMAGES ^ 1)).info().fingerprint != first
