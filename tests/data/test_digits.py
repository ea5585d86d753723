import gzip
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import geovq.data.digits as digits
from geovq.data import open_source
from geovq.errors import DataError


def test_every_image_of_scikit_learn_is_in_one_part() -> None:
    raw = open_source("digits", "unused").load()
    peer = load_digits()
    expected = np.round(peer.images * 255 / 16).astype(np.uint8)

    def rows(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
        return sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))

    images = torch.cat([raw.train_images, raw.test_images]).numpy()
    labels = torch.cat([raw.train_labels, raw.test_labels]).numpy()
    assert images.shape == (1797, 1, 8, 8)
    assert images.max() == 255
    assert rows(images, labels) == rows(expected, peer.target)


def test_test_part_is_stratified_and_fixed_by_the_seed() -> None:
    source = open_source("digits", "unused", test_fraction=0.2)
    raw, info = source.load(), source.info()
    counts = np.bincount(load_digits().target)
    assert raw.test_labels.bincount().tolist() == [round(0.2 * count) for count in counts]
    assert (info.n_train, info.n_test) == (len(raw.train_images), len(raw.test_images))
    again = open_source("digits", "elsewhere", test_fraction=0.2).load()
    other = open_source("digits", "unused", test_fraction=0.2, seed=1).load()
    assert torch.equal(raw.test_images, again.test_images)
    assert not torch.equal(raw.test_images, other.test_images)


def test_damaged_table(tmp_path, monkeypatch) -> None:
    file = tmp_path / "digits.csv.gz"
    monkeypatch.setattr(digits, "digits_file", lambda: file)
    for content in (gzip.compress(b"1,2\n3,4\n"), b"no gzip"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"digits\.csv\.gz: .*install scikit-learn again"):
            open_source("digits", "unused").info()


def test_start_up_imports_nothing_heavy() -> None:
    program = (
        "import sys, geovq.data as data; data.open_source('digits', 'x').info(); "
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'rich', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
