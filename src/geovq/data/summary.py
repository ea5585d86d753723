"""What a run found where its images lie, in a few lines for people."""

from __future__ import annotations

from geovq.data.split import limited_counts, validation_count
from geovq.data.types import DataInfo

MOST_LISTED = 12


def summary(info: DataInfo, location: str, validation: int | float, limit: int | None) -> list[str]:
    """Images, their size and parts, the classes with their counts, and what was left out."""
    n_train, n_test = limited_counts(info.n_train, info.n_test, limit)
    kind = "grey" if info.channels == 1 else "RGB"
    of_all = "" if limit is None else f" (of {info.n_train:,} and {info.n_test:,}, by data.limit={limit})"
    n_validation = validation_count(validation, n_train)
    return [
        f"{info.name}: {kind} images of {info.height}x{info.width} in {location}",
        f"{n_train - n_validation:,} for training, {n_validation:,} for validation, {n_test:,} for the test{of_all}",
        _classes(info),
        *info.remarks,
    ]


def _classes(info: DataInfo) -> str:
    """The classes, each with its training (and validation) images and its test images."""
    if not info.n_classes:
        return "no classes"
    counts = info.class_counts or ((0, 0),) * info.n_classes
    listed = [f"{name} {train}+{test}" for name, (train, test) in zip(info.class_names, counts, strict=True)]
    told = ", ".join(listed[:MOST_LISTED])
    if len(listed) > MOST_LISTED:
        told += f", …; {min(map(sum, counts))} to {max(map(sum, counts))} images each"
    return f"{info.n_classes} class{'es' * (info.n_classes > 1)} (training + test images): {told}"
