"""Which part and which class each image file belongs to, told by its relative name alone.

Known trees: ``<class>/<image>``, ``train/<class>/<image>`` with ``test/<class>/<image>``, and images
without classes. A folder that holds everything says nothing and is skipped. Deeper folders belong to
their class.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from geovq.data.fingerprint import printable
from geovq.data.parts import Parts
from geovq.errors import DataError

Paths = dict[str, tuple[str, ...]]
Part = Literal["train", "test", "validation"]

_PART = re.compile(
    r"(?:(?P<train>train(?:ing)?)|(?P<test>test(?:ing)?)|(?P<validation>val(?:id(?:ation)?)?|dev(?:elopment)?))"
    r" ?(?:(?:data|images?|imgs?|split|part) ?)?(?:sets?)? ?\d{0,4}"
)


def read_layout(names: list[str], location: str) -> Parts:
    """Names of both parts, of sorted relative ``names``; raises ``DataError`` where they fit no known tree."""
    paths = {name: tuple(name.split("/")) for name in names}
    while len({parts[0] for parts in paths.values()}) == 1 and all(len(p) > 1 for p in paths.values()):
        paths = {name: parts[1:] for name, parts in paths.items()}
    folders = {parts[0] for parts in paths.values() if len(parts) > 1}
    _refuse_loose(paths, location)
    train_folder, test_folder = _part_folders(folders, paths, location)
    train, test, remark = paths, {}, None
    if train_folder is not None and test_folder is not None:
        train, test = _inside(paths, train_folder), _inside(paths, test_folder)
        remark = f"{printable(train_folder)}/ is the training part, {printable(test_folder)}/ the test part"
        flat = [_is_flat(part) for part in (train, test)]
        if flat[0] != flat[1]:
            loose, classed = (train_folder, test_folder) if flat[0] else (test_folder, train_folder)
            raise DataError(
                f"{location}: {printable(loose)}/ holds images without class folders and {printable(classed)}/ holds "
                f"classes; sort those images into class folders as well, or leave {printable(loose)}/ out of data.path"
            )
    _refuse_loose(train | test, location)
    _refuse_levels(train | test, location)
    classes = [[parts[0] for parts in part.values() if len(parts) > 1] for part in (train, test)]
    return Parts.of_classes([list(train), list(test)], classes, location, remark)


def parts_of(folders: Iterable[str]) -> dict[str, Part | None]:
    """Which part of a data set each of some folders beside one another is by its name, if any.

    What all names begin or end with (``pets_train``, ``pets_test``) says nothing.
    """
    words = {folder: re.split(r"[-_. ]+", folder.lower()) for folder in folders}
    for place in (0, -1):
        while (
            len(words) > 1 and all(len(w) > 1 for w in words.values()) and len({w[place] for w in words.values()}) == 1
        ):
            for own in words.values():
                own.pop(place)
    found = {folder: _PART.fullmatch(" ".join(own)) for folder, own in words.items()}
    return {folder: match and match.lastgroup for folder, match in found.items()}  # type: ignore[misc]


def _part_folders(folders: set[str], paths: Paths, location: str) -> tuple[str | None, str | None]:
    """The folder of training images and that of test images, or two times None for a tree without parts."""
    parts = parts_of(folders)
    train = [folder for folder in folders if parts[folder] == "train"]
    held_out = [folder for folder in folders if parts[folder] in ("test", "validation")]
    listed = ", ".join(printable(folder) for folder in sorted(folders))
    if len(train) == len(held_out) == 1 and len(folders) == 2:
        return train[0], held_out[0]
    begun = {(re.match("train|test|val|dev", folder.lower()) or [None])[0] for folder in folders}
    if (train and held_out) or (None not in begun and len(begun) > 1 and "train" in begun):
        raise DataError(
            f"{location}: found folders {listed}; give one training and one test folder, the validation part is taken "
            "from the training folder: move its images there, and other folders out of data.path"
        )
    if folders and len(held_out) == len(folders) > 1:
        raise DataError(f"{location}: found folders {listed} and no training folder; name it train")
    for folder in train:
        inside = _inside(paths, folder)
        if not _is_flat(inside) and len({parts[0] for parts in inside.values()}) > 1:
            raise DataError(
                f"{location}: found folders {listed}; {printable(folder)} holds folders as a training part does: name "
                "its test part test and move other folders out of data.path, or rename it where it is a class"
            )
    return None, None


def _inside(paths: Paths, folder: str) -> Paths:
    """Paths below ``folder``, and below a folder of the same name that holds all of it."""
    inside = {name: parts[1:] for name, parts in paths.items() if parts[0] == folder}
    while all(len(parts) > 1 and parts[0].lower() == folder.lower() for parts in inside.values()):
        inside = {name: parts[1:] for name, parts in inside.items()}
    return inside


def _is_flat(paths: Paths) -> bool:
    return all(len(parts) == 1 for parts in paths.values())


def _refuse_loose(paths: Paths, location: str) -> None:
    """Raise ``DataError`` for images beside class folders."""
    loose = [name for name, parts in paths.items() if len(parts) == 1]
    if loose and len(loose) < len(paths):
        raise DataError(f"{location}: {printable(loose[0])} lies beside class folders; move it into one of them")


def _refuse_levels(paths: Paths, location: str) -> None:
    """Raise ``DataError`` where folders hold the same folders, so that either level may be the classes."""
    with_images = {parts[0] for parts in paths.values() if len(parts) == 2}
    below = {(parts[0], parts[1:]) for parts in paths.values() if parts[0] not in with_images and len(parts) > 2}
    while len({rest[0] for _, rest in below}) == 1 and all(len(rest) > 2 for _, rest in below):
        below = {(top, rest[1:]) for top, rest in below}  # each holds one folder of the same name, which says nothing
    inner = {(top, rest[0]) for top, rest in below if len(rest) > 1}
    held = Counter(folder for _, folder in inner)
    shared = sorted(folder for folder, count in held.items() if count > 1)
    if not shared or len(held) == 1:
        return
    tops = ", ".join(printable(top) for top in sorted({top for top, folder in inner if folder == shared[0]})[:4])
    told = ", ".join(printable(folder) for folder in shared[:4])
    if any(parts_of(shared).values()):
        remedy = "put the parts above the classes, as train/<class>/<image> and test/<class>/<image>"
    else:
        remedy = "name the upper ones train and test where they are parts, or move images directly into class folders"
    raise DataError(f"{location}: folders {tops} hold folders of the same names ({told}); {remedy}")
