"""Trees of folders as people have them: which are parts, which are classes, and which are refused by name."""

import os

import pytest

from geovq.data.layout import parts_of, read_layout
from geovq.data.parts import sort_names
from geovq.errors import DataError


def tree(*folders: str, n: int = 3) -> list[str]:
    return sorted(f"{folder}/{i}.png" for folder in folders for i in range(n))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("trainset", "testset"),
        ("train", "dev"),
        ("train", "valid"),
        ("train2017", "val2017"),
        ("train-images", "validation images"),
        ("pets_train", "pets_test"),
        ("train_32x32", "test_32x32"),
        ("seg_train/seg_train", "seg_test/seg_test"),
    ],
)
def test_common_names_of_parts(train: str, test: str) -> None:
    layout = read_layout(tree(f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog"), "here")
    assert layout.class_names == ("cat", "dog")
    assert all(name.startswith(f"{train}/") for name in layout.train)
    assert all(name.startswith(f"{test}/") for name in layout.test)
    assert (len(layout.train), len(layout.test)) == (6, 6)
    assert layout.remark is not None
    assert f"{train.split('/')[0]}/ is the training part" in layout.remark


@pytest.mark.parametrize(
    "names", [["train", "bus", "boat"], ["cat", "test"], ["trainer", "boot"], ["bullet_train", "car"]]
)
def test_classes_that_are_called_like_a_part(names: list[str]) -> None:
    layout = read_layout(tree(*names), "here")
    assert layout.class_names == tuple(sorted(names))
    assert layout.test == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (tree("a/cat", "a/dog", "b/cat", "b/dog"), r"folders a, b hold folders of the same names \(cat, dog\)"),
        (tree("cat/train", "cat/test", "dog/train", "dog/test"), "put the parts above the classes"),
        (tree("x/images/cat", "x/images/dog", "y/images/cat", "y/images/cow"), "of the same names"),
        (tree("train/cat", "train/dog", "test"), "test/ holds images without class folders and train/ holds classes"),
        (tree("train", "test/cat", "test/dog"), "train/ holds images without class folders"),
        (tree("train/a", "val/a", "test/a"), "found folders test, train, val; give one training and one test"),
        (tree("trainA", "trainB", "testA", "testB"), "found folders testA, testB, trainA, trainB; give one training"),
        (tree("train/cat", "train/dog", "unlabelled"), "train holds folders as a training part does"),
        (tree("test/cat", "val/cat"), "no training folder; name it train"),
        ([*tree("train/cat", "test/cat"), "sample.png"], "sample.png lies beside class folders"),
    ],
)
def test_layouts_that_are_refused_by_name(names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_layout(sorted(names), "here")


def test_deeper_folders_that_say_nothing() -> None:
    for names in (tree("cat/images", "dog/images"), tree("cat", "cat/old", "dog", "dog/old"), tree("cat/1", "dog/2")):
        assert read_layout(names, "here").class_names == ("cat", "dog")


def test_classes_of_digits_are_sorted_by_value() -> None:
    assert read_layout(tree(*map(str, range(13))), "here").class_names == tuple(map(str, range(13)))
    assert sort_names({"10", "9", "b"}) == ["10", "9", "b"]


def test_parts_of_names() -> None:
    assert parts_of(["cats", "dogs"]) == {"cats": None, "dogs": None}
    assert parts_of(["mnist-train", "mnist-val"]) == {"mnist-train": "train", "mnist-val": "validation"}


def test_names_of_classes_are_shown_escaped() -> None:
    names = tree(os.fsdecode(b"caf\xe9"), "new\nline")
    assert read_layout(names, "here").class_names == (r"caf\xe9", r"new\nline")
