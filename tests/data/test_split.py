from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geovq.data import DataInfo, ImageSplit, RawImages, load_data, split, validation_count
from geovq.data.parts import draw_test_part
from geovq.errors import ConfigError, DataError


class CountingSource(NamedTuple):
    """Images whose single pixel and whose label tell their index, test images counted from 200."""

    n_train: int
    n_test: int
    labelled: bool = True
    location: str = "memory"

    def info(self) -> DataInfo:
        return DataInfo("folder", self.n_train, self.n_test, 1, 1, 1, 0, (), "0" * 64)

    def load(self) -> RawImages:
        train = torch.arange(self.n_train)
        test = 200 + torch.arange(self.n_test)
        parts = [(part.to(torch.uint8).reshape(-1, 1, 1, 1), part if self.labelled else None) for part in (train, test)]
        return RawImages(*parts[0], *parts[1])


@given(n=st.integers(2, 200), data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_split_is_a_partition_in_order(n: int, data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(1, n - 1))
    train, validation = split(n, count, seed)
    assert len(validation) == count
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(n))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(validation) > 0)
    np.testing.assert_array_equal(validation, split(n, count, seed)[1])


def test_seed_changes_the_split() -> None:
    assert not np.array_equal(split(100, 20, 0)[1], split(100, 20, 1)[1])


@given(labels=st.lists(st.integers(0, 3), min_size=40, max_size=80), seed=st.integers(0, 99))
def test_test_part_is_balanced(labels: list[int], seed: int) -> None:
    targets = np.array(labels)
    train, test = draw_test_part(len(targets), targets, 0.3, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(targets)))
    for label in np.unique(targets):
        assert (targets[test] == label).sum() == round(0.3 * (targets == label).sum())


def test_test_part_that_stays_empty() -> None:
    with pytest.raises(DataError, match=r"test_fraction=0\.2 of 2 images in 2 classes leaves 0 test images"):
        draw_test_part(2, np.array([0, 1]), 0.2, 0)


def test_every_class_keeps_a_training_image() -> None:
    train, _ = draw_test_part(7, np.array([0, 0, 0, 1, 1, 1, 2]), 0.99, 0)
    assert len(train) == 3


def test_classes_that_the_limit_leaves_without_images_are_told() -> None:
    class Named(CountingSource):
        def info(self) -> DataInfo:
            return replace(super().info(), class_names=tuple("abcdefghij"))

    data = load_data(Named(10, 10), validation=8, seed=0)
    [remark] = [line for line in data.remarks if "without training images" in line]
    assert len(remark.split("class ")[1].split(", ")) == 6  # five names and the rest


@pytest.mark.parametrize(("setting", "count"), [(5, 5), (0.1, 10), (0.001, 1), (99, 99), (0.99, 99)])
def test_validation_as_number_or_fraction(setting: float, count: int) -> None:
    assert validation_count(setting, 100) == count


@pytest.mark.parametrize("setting", [0, 100, -1, 0.0, 1.0, 5.0, 0.999, True, "5", float("nan")])
def test_validation_that_does_not_fit(setting: object) -> None:
    with pytest.raises(ConfigError, match=r"data\.validation="):
        validation_count(setting, 100)


def test_indices_lead_back_to_the_source() -> None:
    data = load_data(CountingSource(50, 30), validation=0.2, seed=3)
    assert len(data.validation) == 10
    for part, indices, offset in (
        (data.train, data.train_indices, 0),
        (data.validation, data.validation_indices, 0),
        (data.test, data.test_indices, 200),
    ):
        assert part.labels.tolist() == (indices + offset).tolist()
        assert part.images.flatten().tolist() == (indices + offset).tolist()
    assert list(data.splits) == ["train", "validation", "test"]


def test_limit_is_deterministic_and_spread_over_the_source() -> None:
    source = CountingSource(200, 40, labelled=False)
    data = load_data(source, validation=0.1, seed=0, limit=50)
    again = load_data(source, validation=0.1, seed=0, limit=50)
    assert (len(data.train), len(data.validation), len(data.test)) == (45, 5, 10)
    assert (data.info.n_train, data.info.n_test) == (50, 10)
    assert data.train.labels is None
    assert torch.equal(data.train_indices, again.train_indices)
    assert data.train_indices.max() > 150  # not the first fifty, which may be one class
    assert data.train.images.flatten().tolist() == data.train_indices.tolist()


def test_limit_above_the_size_keeps_all() -> None:
    data = load_data(CountingSource(20, 10), validation=5, seed=0, limit=10**6)
    assert (len(data.train), len(data.validation), len(data.test)) == (15, 5, 10)


@pytest.mark.parametrize("limit", [0, 1, -5, 2.5, True])
def test_limit_that_does_not_fit(limit: object) -> None:
    with pytest.raises(ConfigError, match=r"data\.limit="):
        load_data(CountingSource(20, 10), validation=5, seed=0, limit=limit)


def test_limit_that_leaves_nothing_to_train_on() -> None:
    with pytest.raises(ConfigError, match=r"data\.validation=10 asks for 10 of 8 training images"):
        load_data(CountingSource(20, 10), validation=10, seed=0, limit=8)


def test_split_refuses_what_does_not_fit() -> None:
    with pytest.raises(DataError, match="uint8"):
        ImageSplit(torch.zeros(2, 1, 3, 3), None)
    with pytest.raises(DataError, match=r"labels are \(3,\) for 2 images"):
        ImageSplit(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
