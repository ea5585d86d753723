"""Datasets of the ``datasets`` library, as ``save_to_disk`` leaves them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from geovq.configuration.options import Data
from geovq.configuration.parse import parse
from geovq.configuration.renamed import option
from geovq.data import ImageData, open_images
from geovq.errors import ConfigError, DataError
from geovq.pipeline.prepared import load_images

datasets = pytest.importorskip("datasets")


def pictures(n: int, seed: int = 0) -> list[PIL.Image.Image]:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 6, 5, 3), np.uint8)
    return [PIL.Image.fromarray(each) for each in pixels]


def table(n: int, seed: int = 0, **columns: Any) -> Any:
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["b", "a"])}
    values = {"image": pictures(n, seed), "label": [i % 2 for i in range(n)]}
    for name, (feature, content) in columns.items():
        features[name], values[name] = feature, content
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def saved(dataset: Any, root: Path) -> Path:
    dataset.save_to_disk(str(root / "dataset"))
    return root / "dataset"


def settings(path: Path | None, **changes: Any) -> Data:
    values = option("data", "huggingface") | {"root": "x", "path": path and str(path), "validation": 3}
    return parse(Data, values | changes, "data")


def loaded(data: Data, root: Path) -> ImageData:
    source = open_images(data)
    return load_images(data, source, source.info(), root, 1)


def pixels_of(images: list[PIL.Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(each).transpose(2, 0, 1) for each in images]))


def test_parts_classes_and_pixels(tmp_path) -> None:
    parts = {"train": table(12), "test": table(4, 1), "validation": table(2, 2)}
    path = saved(datasets.DatasetDict(parts), tmp_path)
    source = open_images(settings(path))
    info, raw = source.info(), source.load()
    assert (info.n_train, info.n_test, info.image_shape, info.class_names) == (12, 4, (3, 6, 5), ("b", "a"))
    assert info.remarks == ("parts train (12), test (4); images are image, classes label",)
    assert torch.equal(raw.train_images, pixels_of(pictures(12)))
    assert torch.equal(raw.test_images, pixels_of(pictures(4, 1)))
    assert raw.test_labels is not None
    assert raw.test_labels.tolist() == [0, 1, 0, 1]


def test_prepared_as_in_memory_and_a_test_part_drawn_where_there_is_none(tmp_path) -> None:
    path = saved(table(20), tmp_path)
    first = loaded(settings(path), tmp_path / "root")
    second = loaded(settings(path, memory_gb=1e-6), tmp_path / "root")
    for name, part in first.splits.items():
        assert torch.equal(part.images, second.splits[name].images)
        assert torch.equal(part.labels, second.splits[name].labels)
    assert [len(part) for part in first.splits.values()] == [13, 3, 4]
    assert (tmp_path / "root/artifacts/data").is_dir()


def test_columns_are_chosen_and_enter_the_fingerprint(tmp_path) -> None:
    words = (datasets.Value("string"), [("cat", "dog")[i > 6] for i in range(12)])
    path = saved(table(12, other=(datasets.Image(), pictures(12, 5)), word=words), tmp_path)
    with pytest.raises(DataError, match=r"columns image, other are of type Image; name one by data\.image_column$"):
        open_images(settings(path)).info()
    chosen = settings(path, image_column="other", label_column="word")
    info, raw = open_images(chosen).info(), open_images(chosen).load()
    assert info.class_names == ("cat", "dog")
    images = torch.cat([raw.train_images, raw.test_images])
    assert sorted(images.flatten(1).sum(1).tolist()) == sorted(pixels_of(pictures(12, 5)).flatten(1).sum(1).tolist())
    assert info.fingerprint != open_images(settings(path, image_column="image")).info().fingerprint
    for change, told in (
        ({"image_column": "photo"}, r"data\.image_column=photo: no such column; there are image \(Image\), label"),
        ({"image_column": "label"}, r"data\.image_column=label is of type ClassLabel, not Image"),
    ):
        with pytest.raises(DataError, match=told):
            open_images(settings(path, **change)).info()


def test_an_image_that_cannot_be_read_is_named_and_may_be_skipped(tmp_path) -> None:
    content = io.BytesIO()
    pictures(1)[0].save(content, "PNG")
    files = [{"bytes": content.getvalue() if i != 7 else b"no image", "path": None} for i in range(12)]
    features = datasets.Features({"image": datasets.Image()})
    path = saved(datasets.DatasetDict({"train": datasets.Dataset.from_dict({"image": files}, features)}), tmp_path)
    with pytest.raises(DataError, match=r"dataset/train/7: not a readable image"):
        open_images(settings(path)).load()
    assert sum(map(len, loaded(settings(path, on_error="skip"), tmp_path).splits.values())) == 11


def test_what_is_no_dataset_of_images_is_one_line(tmp_path, monkeypatch) -> None:
    with pytest.raises(DataError, match=r"^data\.path=.*: no folder of a dataset; give one that save_to_disk"):
        open_images(settings(tmp_path)).info()
    plain = datasets.Dataset.from_dict({"text": ["a"]})
    with pytest.raises(DataError, match=r"no column of type Image; there are text \(Value\)$"):
        open_images(settings(saved(plain, tmp_path / "plain"))).info()
    empty = datasets.DatasetDict({"train": table(4), "test": table(0)})
    with pytest.raises(DataError, match="the part test is empty; save one with images"):
        open_images(settings(saved(empty, tmp_path / "empty"))).info()
    odd = datasets.DatasetDict({"first": table(4), "second": table(4)})
    with pytest.raises(DataError, match="found parts first, second; expected train, with test or validation or both"):
        open_images(settings(saved(odd, tmp_path / "odd"))).info()
    (tmp_path / "plain/dataset/state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a dataset"):
        open_images(settings(tmp_path / "plain/dataset")).info()
    with pytest.raises(ConfigError, match=r"^data\.path=null: data=huggingface needs the folder of a dataset"):
        settings(None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"^data=huggingface: needs the package datasets: pip install 'geovq\["):
        open_images(settings(tmp_path)).info()
