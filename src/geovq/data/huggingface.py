"""A dataset of the ``datasets`` library, in the folder that its ``save_to_disk`` has written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from geovq.configuration.fields import OnError
from geovq.data.files import FilesSource, Listing
from geovq.data.fingerprint import READING, hash_parts, printable
from geovq.data.layout import parts_of
from geovq.data.limits import check_size
from geovq.data.parts import Parts
from geovq.data.types import PixelSettings
from geovq.errors import ConfigError, DataError

_ONE_PART = "images"


class SavedDatasetSource(FilesSource):
    """The images of a ``Dataset``, of which a test part is drawn, or of a ``DatasetDict`` with its parts.

    Args:
        path: folder of the dataset.
        image_column: column of the images; null: the one of type Image.
        label_column: column of the classes, of any type with whole numbers or words; null: the one of type ClassLabel,
            where there is one.
    """

    def __init__(
        self,
        path: str,
        test_fraction: float,
        seed: int,
        pixels: PixelSettings,
        image_column: str | None = None,
        label_column: str | None = None,
        on_error: OnError = "stop",
        name: str = "huggingface",
    ) -> None:
        super().__init__(name, Path(path), test_fraction, seed, pixels, on_error == "skip")
        self.columns = image_column, label_column

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        on_error = "skip" if self.skip else "stop"
        return type(self), (
            *(str(self.path), self.test_fraction, self.seed, self.pixels, *self.columns),
            *(on_error, self.name),
        )

    @cached_property
    def _tables(self) -> dict[str, Any]:
        """The training part and, where there is one, the test part."""
        tables = self._opened()
        if isinstance(tables, Mapping):
            roles = parts_of(tables)
            of = {role: [name for name in tables if roles[name] == role] for role in ("train", "test", "validation")}
            held_out = of["test"] or of["validation"]
            listed = ", ".join(printable(name) for name in tables)
            if len(tables) == 1 and not held_out:
                of["train"] = list(tables)
            if len(of["train"]) != 1 or len(held_out) > 1:
                raise DataError(
                    f"{self.location}: found parts {listed}; expected train, with test or validation or both"
                )
            tables = {name: tables[name] for name in (*of["train"], *held_out)}
        else:
            tables = {_ONE_PART: tables}
        for name, table in tables.items():
            if len(table) == 0:
                raise self._empty(name)
        return tables

    def _empty(self, part: str) -> DataError:
        return DataError(f"{self.location}: the part {printable(part)} is empty; save one with images")

    def _refuse_empty(self) -> None:
        """The library fails on a part without a file, and does not say so."""
        for state in sorted(self.path.rglob("state.json")):
            with suppress(OSError, ValueError, TypeError):
                if json.loads(state.read_text())["_data_files"] == []:
                    raise self._empty(state.parent.name)

    def _opened(self) -> Any:
        where = f"data.path={self.location}"
        try:
            import datasets
        except ModuleNotFoundError as error:
            remedy = "pip install 'geovq[huggingface]'"
            raise ConfigError(f"data=huggingface: needs the package {error.name}: {remedy}") from None
        if not any((self.path / file).is_file() for file in ("dataset_dict.json", "dataset_info.json")):
            raise DataError(f"{where}: no folder of a dataset; give one that save_to_disk of datasets has written")
        try:
            return datasets.load_from_disk(str(self.path))
        except Exception as error:  # the library and Arrow raise many kinds
            self._refuse_empty()
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"{where}: cannot be read as a dataset ({reason}); save it again by save_to_disk"
            ) from error

    @cached_property
    def _columns(self) -> tuple[str, str | None]:
        """Of images and labels, the same in both parts."""
        from datasets import ClassLabel, Image

        first, *others = self._tables.values()
        found = [
            self._column(first, key, given, kind, needed)
            for key, given, kind, needed in zip(
                ("image_column", "label_column"), self.columns, (Image, ClassLabel), (True, False), strict=True
            )
        ]
        images, labels = found
        assert images is not None
        if not isinstance(first.features[images], Image):
            raise DataError(f"{self.location}: data.image_column={images} is of type {_kind(first, images)}, not Image")
        for table in others:
            for name in filter(None, found):
                if table.features.get(name) != first.features[name]:
                    raise DataError(f"{self.location}: the column {printable(name)} differs between the parts")
        return images, labels

    def _column(self, table: Any, key: str, given: str | None, kind: type, needed: bool) -> str | None:
        columns = [name for name, feature in table.features.items() if isinstance(feature, kind)]
        listed = ", ".join(f"{printable(name)} ({_kind(table, name)})" for name in table.features)
        if given is not None:
            if given not in table.features:
                raise DataError(f"{self.location}: data.{key}={printable(given)}: no such column; there are {listed}")
            return given
        if len(columns) > 1:
            told = ", ".join(map(printable, columns))
            raise DataError(f"{self.location}: columns {told} are of type {kind.__name__}; name one by data.{key}")
        if needed and not columns:
            raise DataError(f"{self.location}: no column of type {kind.__name__}; there are {listed}")
        return columns[0] if columns else None

    @cached_property
    def _listing(self) -> Listing:
        names = [f"{part}/{row}" for part, table in self._tables.items() for row in range(len(table))]
        return Listing(names, ())

    def _remarks(self) -> tuple[str, ...]:
        images, labels = self._columns
        parts = ", ".join(f"{printable(part)} ({len(table):,})" for part, table in self._tables.items())
        told = f"parts {parts}; images are {printable(images)}, classes "
        return (told + (printable(labels) if labels else "not there"),)

    def _told_parts(self) -> Parts:
        names = [[f"{part}/{row}" for row in range(len(table))] for part, table in self._tables.items()]
        _, column = self._columns
        if column is None:
            return Parts.of_classes(names, [[] for _ in names], self.location)
        values = [table.select_columns([column])[:][column] for table in self._tables.values()]
        class_names = getattr(next(iter(self._tables.values())).features[column], "names", None)
        if any(value is None or value == -1 for part in values for value in part):
            raise DataError(
                f"{self.location}: the column {printable(column)} has images without a class (null or -1); filter them "
                "out, or name another column by data.label_column"
            )
        if class_names is None:
            if not all(isinstance(value, int | str) for part in values for value in part):
                raise DataError(
                    f"{self.location}: data.label_column={printable(column)} holds neither numbers nor words"
                )
            return Parts.of_classes(names, values, self.location)
        labels = [np.asarray(part, np.int64) for part in values]
        if alone := sorted(set(labels[-1].tolist()) - set(labels[0].tolist())):
            told = f"class {printable(class_names[alone[0]])} has test images but no training image"
            raise DataError(f"{self.location}: {told}; add some or remove it")
        (train, test), (train_labels, test_labels) = (*names, ())[:2], (*labels, None)[:2]
        return Parts(train, test, train_labels, test_labels, tuple(map(printable, class_names)))

    @cached_property
    def _stored(self) -> dict[str, Any]:
        """The tables with images as the bytes of their files."""
        from datasets import Image

        column, _ = self._columns
        return {
            part: table.select_columns([column]).cast_column(column, Image(decode=False))
            for part, table in self._tables.items()
        }

    def read(self, name: str) -> bytes:
        """Content of one image's file."""
        part, _, row = name.rpartition("/")
        column, _ = self._columns
        stored = self._stored[part][int(row)][column]
        if stored is None or stored["bytes"] is None:
            there = "nothing" if stored is None else f"only the path {printable(str(stored['path']))}"
            raise DataError(f"{self.location}/{name}: the dataset holds {there}; save it with its images")
        check_size(len(stored["bytes"]), f"{self.location}/{name}")
        content: bytes = stored["bytes"]
        return content

    def _content_hash(self) -> str:
        images, labels = self._columns
        files = [
            (f"{part}/{number}", Path(file["filename"]))
            for part, table in self._tables.items()
            for number, file in enumerate(table.cache_files)
        ]
        feature = None if labels is None else next(iter(self._tables.values())).features[labels]
        read_as = json.dumps([images, labels, getattr(feature, "names", None)]).encode()
        return hash_parts([("reading", READING), ("columns", read_as), *files])


def _kind(table: Any, column: str) -> str:
    return type(table.features[column]).__name__
