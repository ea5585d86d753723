"""The validation part and the limit, drawn once from a seed; each part keeps dataset order inside itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from geovq.configuration.section import name_of
from geovq.data.limits import check_memory
from geovq.data.parts import LIMIT_STREAM, VALIDATION_STREAM
from geovq.data.types import DamagedFile, DataInfo, ImageData, ImageSource, ImageSplit, RawImages, ValueRange
from geovq.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

# A limited run sees one test image for this many training images.
LIMIT_TRAIN_PER_TEST = 5
MOST_LISTED = 10


def validation_count(validation: int | float, n_train: int) -> int:
    """Number of validation images: ``validation`` itself if an integer, else that fraction of ``n_train``.

    Raises ``ConfigError`` where the setting is neither a whole number from 1 nor a fraction in (0, 1),
    or where it leaves no image to train on.
    """
    whole = isinstance(validation, int) and not isinstance(validation, bool)
    if not whole and not (isinstance(validation, float) and 0 < validation < 1):
        raise ConfigError(f"data.validation={validation!r}: give a whole number of images or a fraction in (0, 1)")
    count = int(validation) if whole else max(1, round(validation * n_train))
    if not 1 <= count < n_train:
        raise ConfigError(
            f"data.validation={validation} asks for {count} of {n_train} training images; "
            f"give 1 to {n_train - 1} or a fraction in (0, 1)"
        )
    return count


def split(n_train: int, validation: int | float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Increasing indices of the training and the validation part of ``n_train`` images, drawn by ``seed``."""
    count = validation_count(validation, n_train)
    order = np.random.default_rng([seed, VALIDATION_STREAM]).permutation(n_train)
    return np.sort(order[count:]), np.sort(order[:count])


def limited_counts(n_train: int, n_test: int, limit: int | None) -> tuple[int, int]:
    """Numbers of training and test images under ``limit``; raises ``ConfigError`` where it is below 2."""
    if limit is None:
        return n_train, n_test
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 2:
        raise ConfigError(f"data.limit={limit!r}: give null or a whole number of training images from 2")
    return min(limit, n_train), min(max(1, limit // LIMIT_TRAIN_PER_TEST), n_test)


class DrawnSplits(NamedTuple):
    """Increasing positions of the images of each split: the first two in the training part of their source."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    def without(self, damaged: Iterable[DamagedFile]) -> DrawnSplits:
        """The splits without files that cannot be read; raises ``DataError`` where one stays empty."""
        damaged = list(damaged)
        lost = [[each.position for each in damaged if each.in_test == in_test] for in_test in (False, True)]
        kept = DrawnSplits(*(part[~np.isin(part, lost[part is self.test])] for part in self))
        empty = [name for name, part in kept._asdict().items() if not len(part)]
        if empty:
            raise DataError(f"none of the {empty[0]} images can be read, such as {damaged[0].fault}")
        return kept


def draw_splits(info: DataInfo, validation: int | float, seed: int, limit: int | None = None) -> DrawnSplits:
    """Draw validation part and ``limit``; raises ``ConfigError`` where they do not fit the source."""
    n_train, n_test = limited_counts(info.n_train, info.n_test, limit)
    train, held_out = split(n_train, validation, seed)
    generator = np.random.default_rng([seed, LIMIT_STREAM])
    kept_train = np.sort(generator.permutation(info.n_train)[:n_train])
    kept_test = np.sort(generator.permutation(info.n_test)[:n_test])
    return DrawnSplits(kept_train[train], kept_train[held_out], kept_test)


def load_data(source: ImageSource, validation: int | float, seed: int, limit: int | None = None) -> ImageData:
    """Load ``source`` and take the validation part from its training part.

    ``limit`` keeps that many training images and a fifth as many test images, drawn by ``seed`` over the
    whole source (a source sorted by class would else lose most classes). Raises ``ConfigError`` before
    anything is decoded where validation or limit do not fit, ``DataError`` where files are bad.
    """
    import torch

    info = source.info()
    check_memory(info, source.location)
    drawn = draw_splits(info, validation, seed, limit)
    raw = source.load()
    check_images(source, raw, info)
    kept = drawn.without(raw.damaged) if raw.damaged else drawn

    def part(images: Tensor, labels: Tensor | None, indices: Tensor) -> ImageSplit:
        if len(indices) == len(images):  # increasing indices: all of them, so no copy is needed
            return ImageSplit(images, labels)
        return ImageSplit(images[indices], None if labels is None else labels[indices])

    first, second, third = map(torch.from_numpy, kept)
    train_part, validation_part = (part(raw.train_images, raw.train_labels, each) for each in (first, second))
    test_part = part(raw.test_images, raw.test_labels, third)
    remarks = (*range_remarks(raw.stored_range), *raw.remarks, *damage_remarks([each.fault for each in raw.damaged]))
    remarks += (*missing_classes(train_part.labels, info.class_names),)
    info = replace(info, n_train=len(first) + len(second), n_test=len(third))
    return ImageData(info, train_part, validation_part, test_part, first, second, third, remarks)


def damage_remarks(faults: Sequence[str], listed_in: str | None = None) -> list[str]:
    """A line on the files that were left out; ``listed_in`` names all of them."""
    if not faults:
        return []
    told = "; ".join(faults[:MOST_LISTED]) + "; …" * (len(faults) > MOST_LISTED)
    where = f" (all are listed in {listed_in})" if listed_in else ""
    return [f"left out {len(faults)} files that cannot be read{where}: {told}"]


def range_remarks(values: ValueRange) -> list[str]:
    """The range of the stored values, and what to do where it is far from black to white."""
    smallest, largest, white = values
    told = [f"values go from {smallest} to {largest}, and {white} is white"]
    if 0 < largest < white / 2:
        likely = 2 ** largest.bit_length() - 1  # of as many bits as are used
        told.append(f"no image reaches half of white; data.full_scale says which value is white, such as {likely}")
    elif largest > white:
        told.append(f"values above data.full_scale={white} are cut")
    return told


def missing_classes(labels: Tensor | None, class_names: tuple[str, ...]) -> list[str]:
    """A line on classes that validation part or limit left without training images."""
    present = set(range(len(class_names)) if labels is None else labels.unique().tolist())
    missing = [name for number, name in enumerate(class_names) if number not in present]
    listed = ", ".join(missing[:5]) + ", …" * (len(missing) > 5)
    return [f"without training images, by data.validation or data.limit: class {listed}"] if missing else []


def check_images(source: object, raw: RawImages, info: DataInfo) -> None:
    """Raise DataError unless images and labels are those that ``info`` describes."""
    from torch import Tensor, int64, uint8

    named = name_of(source)
    for part, n in (("train", info.n_train), ("test", info.n_test)):
        images, labels = getattr(raw, f"{part}_images", None), getattr(raw, f"{part}_labels", None)
        expected = (n, *info.image_shape)
        if not isinstance(images, Tensor) or images.dtype != uint8 or tuple(images.shape) != expected:
            found = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
            raise DataError(f"{named}: load gives {part} images as {found}; info says {expected}, torch.uint8")
        if info.n_classes == 0 and labels is None:
            continue
        if not isinstance(labels, Tensor) or labels.dtype != int64 or tuple(labels.shape) != (n,):
            found = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
            raise DataError(f"{named}: load gives {part} labels as {found}; expected ({n},) torch.int64")
        if n and info.n_classes and not 0 <= int(labels.min()) <= int(labels.max()) < info.n_classes:
            raise DataError(
                f"{named}: load gives {part} labels from {int(labels.min())} to {int(labels.max())}; info has "
                f"{info.n_classes} classes, counted from 0"
            )
