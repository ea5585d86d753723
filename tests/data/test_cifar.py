import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import geovq.data.fetch as fetch
from geovq.data import open_source
from geovq.data.cifar import BATCH_FILES
from geovq.errors import DataError

REAL = os.environ.get("GEOVQ_DATA", "")


@pytest.fixture
def batches(tmp_path, monkeypatch) -> Path:
    """Small batches in the published layout, their md5 sums put in place of the published ones."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    sums = {}
    for name in BATCH_FILES:
        pixels = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
        entry = {"data": pixels, "labels": [3, 1, 4, 1]}
        if name == "batches.meta":
            entry = {"label_names": ["airplane"]}
        (folder / name).write_bytes(pickle.dumps(entry))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in BATCH_FILES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    return folder


def test_reads_batches_channels_first(batches) -> None:
    raw = open_source("cifar10", batches.parent, download=False).load()
    expected = np.load(batches / "test_batch", allow_pickle=True)["data"].reshape(4, 3, 32, 32)
    np.testing.assert_array_equal(raw.test_images, expected)
    assert raw.train_images.shape == (20, 3, 32, 32)
    assert raw.train_labels.tolist() == [3, 1, 4, 1] * 5


def test_a_changed_batch_is_never_unpickled(batches) -> None:
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    (batches / "data_batch_2").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="data_batch_2: damaged: md5"):
        open_source("cifar10", batches.parent).load()


def test_missing_batch_is_named(batches) -> None:
    (batches / "data_batch_4").unlink()
    with pytest.raises(DataError, match="cifar-10-batches-py: missing data_batch_4; put them there"):
        open_source("cifar10", batches.parent, download=False).info()


def test_a_missing_batch_is_fetched(batches, tmp_path, monkeypatch) -> None:
    content = (batches / "data_batch_4").read_bytes()
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (batches / "data_batch_4").rename(mirror / "data_batch_4")
    monkeypatch.setattr(fetch, "_mirrors", lambda dataset, staging: mirror)
    assert len(open_source("cifar10", batches.parent).load().train_images) == 20
    assert (batches / "data_batch_4").read_bytes() == content


def test_nothing_there(tmp_path, monkeypatch) -> None:
    with pytest.raises(DataError, match=r"missing cifar-10-batches-py/, cifar10_png\.zip"):
        open_source("cifar10", tmp_path, download=False).info()
    monkeypatch.setattr(fetch, "_reachable", lambda address: False)
    with pytest.raises(DataError, match=r"cifar10_png\.zip.*tried torchvision's mirrors \(no connection\)"):
        open_source("cifar10", tmp_path).info()


def test_a_zip_of_pictures_will_do(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "cifar10_png.zip", "w") as archive:
        for number, name in enumerate(("train/cat/1.png", "train/airplane/2.png", "test/cat/1.png")):
            picture = io.BytesIO()
            PIL.Image.new("RGB", (32, 32), (10 * number, 2, 3)).save(picture, "png")
            archive.writestr(f"cifar10_png/{name}", picture.getvalue())
    source = open_source("cifar10", tmp_path, download=False)
    info, raw = source.info(), source.load()
    assert (info.name, info.n_train, info.n_test, info.image_shape) == ("cifar10", 2, 1, (3, 32, 32))
    assert info.class_names == ("airplane", "cat")
    assert (raw.train_labels.tolist(), raw.test_labels.tolist()) == ([0, 1], [1])
    assert raw.train_images[:, :, 0, 0].tolist() == [[10, 2, 3], [0, 2, 3]]


@pytest.mark.slow
@pytest.mark.skipif(not REAL or not (Path(REAL) / "cifar10_png.zip").is_file(), reason="needs GEOVQ_DATA")
def test_real_cifar10_from_its_zip() -> None:
    source = open_source("cifar10", REAL, download=False)
    info, raw = source.info(), source.load()
    assert (info.n_train, info.n_test, info.image_shape) == (50_000, 10_000, (3, 32, 32))
    assert info.class_names[:3] == ("airplane", "automobile", "bird")
    assert raw.train_labels.bincount().tolist() == [5000] * 10
    assert raw.test_labels.bincount().tolist() == [1000] * 10
    mean = raw.train_images.double().mean(dim=(0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64), atol=1e-4)
