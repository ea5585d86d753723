"""Which part and which class each image file belongs to, told by its relative name alone.

Known trees: ``<class>/<image>``, ``train/<class>/<image>`` with ``test/<class>/<image>``, and images
without classes. A folder that holds everything says nothing and is skipped. Deeper folders belong to
their class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geovq.errors import DataError

TRAIN_NAMES = frozenset({"train", "training"})
TEST_NAMES = frozenset({"test", "testing", "val", "valid", "validation"})


@dataclass(frozen=True)
class Layout:
    """Names of the training and the test part (none: one has to be drawn), labels and class names."""

    train: list[str]
    test: list[str]
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None
    class_names: tuple[str, ...]


def read_layout(names: list[str], location: str) -> Layout:
    """Layout of sorted relative ``names``; raises ``DataError`` where they fit no known tree."""
    paths = {name: tuple(name.split("/")) for name in names}
    while len(tops := {parts[0] for parts in paths.values()}) == 1 and all(len(p) > 1 for p in paths.values()):
        paths = {name: parts[1:] for name, parts in paths.items()}
    lowered = {top.lower() for top in tops}
    if lowered & TRAIN_NAMES and lowered & TEST_NAMES:
        if len(tops) > 2:
            raise DataError(
                f"{location}: found folders {', '.join(sorted(tops))}; give one training and one test "
                f"folder, the validation part is taken from the training folder"
            )
        train = {name: parts[1:] for name, parts in paths.items() if parts[0].lower() in TRAIN_NAMES}
        test = {name: parts[1:] for name, parts in paths.items() if parts[0].lower() in TEST_NAMES}
    else:
        train, test = paths, {}
    classes = _classes({**train, **test}, location)
    unknown = sorted(set(classes) - {parts[0] for parts in train.values()}) if classes else []
    if unknown:
        raise DataError(f"{location}: class {unknown[0]} has test images but no training image; add some or remove it")
    index = {name: number for number, name in enumerate(classes)}

    def labels(part: dict[str, tuple[str, ...]]) -> np.ndarray | None:
        return np.array([index[parts[0]] for parts in part.values()], dtype=np.int64) if classes else None

    return Layout(list(train), list(test), labels(train), labels(test), tuple(classes))


def _classes(paths: dict[str, tuple[str, ...]], location: str) -> list[str]:
    """Sorted class folders, none for images without classes; raises ``DataError`` for a mixture."""
    loose = [name for name, parts in paths.items() if len(parts) == 1]
    if loose and len(loose) < len(paths):
        raise DataError(f"{location}: {loose[0]} lies beside class folders; move it into one of them")
    return [] if loose else sorted({parts[0] for parts in paths.values()})
