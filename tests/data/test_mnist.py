import contextlib
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import geovq.data.fetch as fetch
from geovq.data import load_data, open_source
from geovq.errors import DataError

REAL = os.environ.get("GEOVQ_DATA", "")
SHAPES = {
    "train-images-idx3-ubyte": (30, 6, 5),
    "train-labels-idx1-ubyte": (30,),
    "t10k-images-idx3-ubyte": (20, 6, 5),
    "t10k-labels-idx1-ubyte": (20,),
}


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: generator.integers(0, 256 if "images" in name else 10, shape, dtype=np.uint8)
        for name, shape in SHAPES.items()
    }


def write(root: Path, arrays: dict[str, np.ndarray], packed: bool = False) -> Path:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        sizes = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
        content = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_reads_plain_and_gzipped_files(tmp_path, arrays, packed) -> None:
    source = open_source("mnist", write(tmp_path, arrays, packed), download=False)
    raw, info = source.load(), source.info()
    np.testing.assert_array_equal(raw.train_images[:, 0], arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(raw.train_labels, arrays["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(raw.test_images[:, 0], arrays["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(raw.test_labels, arrays["t10k-labels-idx1-ubyte"])
    assert (info.n_train, info.n_test, info.image_shape, info.n_classes) == (30, 20, (1, 6, 5), 10)


def test_torchvision_reads_the_same(tmp_path, arrays) -> None:
    from torchvision.datasets import MNIST

    raw = open_source("mnist", write(tmp_path, arrays), download=False).load()
    peer = MNIST(tmp_path, train=True)
    assert torch.equal(raw.train_images[:, 0], peer.data)
    assert torch.equal(raw.train_labels, peer.targets)


def test_fingerprint_follows_content_alone(tmp_path, arrays) -> None:
    plain = open_source("mnist", write(tmp_path / "a", arrays), download=False).info().fingerprint
    moved = open_source("mnist", write(tmp_path / "b", arrays, packed=True), download=False).info().fingerprint
    arrays["t10k-labels-idx1-ubyte"][3] ^= 1
    changed = open_source("mnist", write(tmp_path / "c", arrays), download=False).info().fingerprint
    assert plain == moved != changed


def test_truncated_file_is_named_with_both_sizes(tmp_path, arrays) -> None:
    file = write(tmp_path, arrays) / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(DataError, match="train-images-idx3-ubyte: truncated: expected 916 bytes, found 909"):
        open_source("mnist", tmp_path).info()


def test_files_that_do_not_fit_together(tmp_path, arrays) -> None:
    arrays["train-labels-idx1-ubyte"] = arrays["train-labels-idx1-ubyte"][:-1]
    with pytest.raises(DataError, match="30 images and 29 labels"):
        open_source("mnist", write(tmp_path, arrays)).info()


def test_label_outside_the_classes(tmp_path, arrays) -> None:
    arrays["t10k-labels-idx1-ubyte"][0] = 10
    with pytest.raises(DataError, match=r"t10k label 10 is outside 0\.\.9"):
        open_source("mnist", write(tmp_path, arrays)).info()


def test_missing_files_without_download(tmp_path, arrays) -> None:
    (write(tmp_path, arrays) / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"MNIST/raw: missing t10k-labels-idx1-ubyte; .*data\.download=true"):
        open_source("mnist", tmp_path, download=False).info()


def test_missing_files_and_nothing_reachable(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fetch, "_reachable", lambda address: False)
    monkeypatch.setattr(fetch.shutil, "which", lambda program: None)
    with pytest.raises(DataError) as caught:
        open_source("fashion", tmp_path).info()
    message = str(caught.value)
    assert "\n" not in message
    for part in (*SHAPES, str(tmp_path / "FashionMNIST/raw"), "no connection", "no apt-get", "GEOVQ_DATA"):
        assert part in message
    assert [file.name for file in tmp_path.iterdir()] == [".FashionMNIST.lock"]


def test_a_failing_mirror_gives_its_reason(tmp_path, monkeypatch) -> None:
    import torchvision.datasets

    def broken(root, download):
        raise RuntimeError("Error downloading\nFile not found or corrupted.")

    monkeypatch.setattr(fetch, "_reachable", lambda address: True)
    monkeypatch.setattr(torchvision.datasets.MNIST, "__init__", lambda self, *a, **k: broken(*a, **k))
    with pytest.raises(DataError, match=r"torchvision's mirrors \(Error downloading File not found or corrupted"):
        open_source("mnist", tmp_path).info()


def test_fetched_files_replace_only_what_is_missing(tmp_path, arrays, monkeypatch) -> None:
    def mirror(dataset: str, staging: Path) -> Path:
        return write(staging, arrays, packed=True) / "MNIST/raw"

    monkeypatch.setattr(fetch, "_mirrors", mirror)
    kept = tmp_path / "MNIST/raw/train-labels-idx1-ubyte"
    write(tmp_path, {kept.name: np.full(30, 7, dtype=np.uint8)})
    raw = open_source("mnist", tmp_path).load()
    assert raw.train_labels.unique().tolist() == [7]
    np.testing.assert_array_equal(raw.test_images[:, 0], arrays["t10k-images-idx3-ubyte"])
    assert sorted(file.name for file in kept.parent.iterdir()) == sorted(SHAPES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_root_that_cannot_be_written(tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match=r"data\.root=.*cannot be written"):
        open_source("mnist", tmp_path).info()


def test_root_that_is_a_file(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data\.root=.*cannot be written"):
        open_source("mnist", tmp_path / "file").info()


def test_unresolvable_host_is_refused_within_the_deadline(monkeypatch) -> None:
    import threading

    monkeypatch.setattr(fetch.urllib.request, "getproxies", dict)
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.05)
    release = threading.Event()
    monkeypatch.setattr(fetch.socket, "create_connection", lambda *a: contextlib.nullcontext(release.wait(5)))
    assert not fetch._reachable("https://example.org/file")
    release.set()


@pytest.mark.network
@pytest.mark.skipif(not Path("/usr/bin/apt-get").exists(), reason="needs apt-get")
def test_debian_package_holds_the_published_files(tmp_path) -> None:
    import hashlib

    folder = fetch._debian_package(tmp_path)
    content = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert hashlib.md5(content).hexdigest() == "8181f5470baa50b63fa0f6fddb340f0a"


@pytest.mark.skipif(not (Path(REAL) / "FashionMNIST/raw").is_dir() or not REAL, reason="needs GEOVQ_DATA")
def test_real_fashion_mnist() -> None:
    data = load_data(open_source("fashion", REAL, download=False), validation=5000, seed=0)
    assert data.train.images.shape == (55_000, 1, 28, 28)
    assert data.test.images.shape == (10_000, 1, 28, 28)
    whole = torch.cat([data.train.labels, data.validation.labels])
    assert whole.bincount().tolist() == [6000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    mean = torch.cat([data.train.images, data.validation.images]).double().mean() / 255
    assert abs(mean - 0.2860) < 1e-4
    assert data.info.class_names[9] == "Ankle boot"


@pytest.mark.skipif(not (Path(REAL) / "MNIST/raw").is_dir() or not REAL, reason="needs GEOVQ_DATA")
def test_real_mnist() -> None:
    raw = open_source("mnist", REAL, download=False).load()
    assert raw.train_images.shape == (60_000, 1, 28, 28)
    assert raw.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert raw.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert abs(raw.train_images.double().mean() / 255 - 0.1307) < 1e-4
