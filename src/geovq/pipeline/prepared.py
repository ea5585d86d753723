"""The images of a run: in memory, or where they are too many, prepared on the disk and read where they are looked at.

What is prepared is an artifact, ``<root>/artifacts/data/<key>``, whose key holds what the keys of stages say of images.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geovq.configuration.fields import StalePolicy
from geovq.configuration.options import Data
from geovq.configuration.section import is_ours
from geovq.data import DataInfo, ImageData, ImageSource, ImageSplit, load_data
from geovq.data.files import FilesSource
from geovq.data.limits import decoded_bytes, is_beyond_memory, memory_limit
from geovq.data.preparing import prepare
from geovq.data.split import DrawnSplits, damage_remarks, draw_splits, missing_classes, range_remarks
from geovq.data.streams import streamed
from geovq.data.types import DamagedFile, ValueRange
from geovq.errors import ArtifactError, DataError
from geovq.pipeline.artifacts import DATA_IN_KEY, Artifact, ArtifactStore, ArtifactWriter, artifact_key
from geovq.pipeline.manifest import StaleArtifactError
from geovq.pipeline.source_code import changed_files, code_of

FOLDER, SCHEMA = "data", 1
_COPIED = 2**25
"""Bytes that are copied at a time."""


def data_in_key(data: Data, info: DataInfo) -> dict[str, Any]:
    """What a key holds of the images: their content, and how they are split and shaped."""
    settings = data.model_dump(include={*DATA_IN_KEY, "full_scale"})
    if settings["full_scale"] is None:  # came later: left out, so that older artifacts are still found
        del settings["full_scale"]
    own = data.model_dump(exclude=set(Data.model_fields))  # of a class that is not ours
    if own or not is_ours(type(data).owner):
        settings |= own | {"_target_": data.target}
    return settings | {"fingerprint": info.fingerprint}


def load_images(
    data: Data, source: ImageSource, info: DataInfo, root: Path, processes: int | None, stale: StalePolicy = "warn"
) -> ImageData:
    """The splits; where all images together have more bytes than ``data.memory_gb`` allows, mapped from files.

    Args:
        data: settings.
        source: of the images, which are decoded only where they are not prepared yet.
        info: its facts.
        root: of all output.
        processes: that decode; None: one for each core.
        stale: what becomes of images that other code has prepared.

    Raises:
        DataError: images do not fit together, or with ``data.on_error=stop`` cannot be read.
        ArtifactError: the disk has too little room.
    """
    if not is_beyond_memory(info, data.memory_gb):
        return load_data(source, data.validation, data.split_seed, data.limit)
    settings, store = {"data": data_in_key(data, info)}, ArtifactStore(root)
    key = artifact_key(FOLDER, SCHEMA, settings, {})
    check = partial(_check, stale=stale)
    artifact = store.find(FOLDER, key, check)
    if artifact is None:
        write = partial(_write, data, source, info, processes or len(os.sched_getaffinity(0)))
        artifact = store.build(FOLDER, key, settings, {}, write, SCHEMA, check)
    print(f"data: images are read from {artifact.directory} as they are needed", file=sys.stderr)
    return _opened(artifact, data, info)


def _check(artifact: Artifact, stale: StalePolicy) -> None:
    artifact.verify()
    if stale != "ignore" and (files := changed_files(artifact.manifest["code"])):
        reason = f"prepared with other code ({', '.join(files)} changed)"
        if stale == "rebuild":
            raise StaleArtifactError(artifact.directory, reason)
        print(f"warning: data {artifact.key}: {reason}; stale=rebuild prepares it anew", file=sys.stderr)


def _write(data: Data, source: ImageSource, info: DataInfo, processes: int, out: ArtifactWriter) -> None:
    """Prepare in the folder that outlives a kill, then take over what is whole."""
    drawn = draw_splits(info, data.validation, data.split_seed, data.limit)
    n_images = sum(map(len, drawn))
    _check_room(out.scratch, n_images, info)
    begun = time.perf_counter()
    size, limit = decoded_bytes(info) / 1e9, memory_limit(data.memory_gb) / 1e9
    too_large = f"all images are {size:.3g} GB, and data.memory_gb allows {limit:.3g}"
    print(f"data: {too_large}: preparing {n_images:,} in {out.scratch}", file=sys.stderr)
    import PIL

    modules = {type(part).__module__ for part in (source, getattr(source, "source", source))}
    code = code_of(["geovq.data.preparing", *modules])
    made_with = hashlib.sha256(json.dumps([code, PIL.__version__]).encode()).hexdigest()
    reader: Any = source if isinstance(source, FilesSource) else streamed(source)
    prepared = prepare(reader, drawn, out.scratch, processes, made_with)
    damaged = [
        DamagedFile(split == "test", int(getattr(drawn, split)[row]), fault)
        for split, faults in prepared.damaged.items()
        for row, fault in faults.items()
    ]
    faults = [each.fault for each in damaged]
    if damaged and data.on_error == "stop":
        listing = out.scratch / "damaged.txt"
        listing.write_text("".join(f"{fault}\n" for fault in faults), encoding="utf-8")
        raise DataError(
            f"{len(faults)} of {n_images:,} images cannot be read, all listed in {listing}, such as {faults[0]}, or "
            "leave them out with data.on_error=skip, which goes on from here"
        )
    kept = drawn.without(damaged) if damaged else drawn
    for split in drawn._fields:
        _take_over(out.scratch / f"{split}.npy", out.directory, list(prepared.damaged[split]))
    labels = dict(zip(("train", "test"), reader.labels(), strict=True))
    labels["validation"] = labels["train"]
    rows = {f"{split}_indices": torch.from_numpy(positions) for split, positions in kept._asdict().items()}
    rows |= {
        f"{split}_labels": torch.from_numpy(labels[split][positions])
        for split, positions in kept._asdict().items()
        if labels[split] is not None
    }
    out.tensors("rows", rows)
    out.json("summary", {"values": prepared.values, "remarks": prepared.remarks})
    out.json("skipped", faults)
    out.origin["code"] = code
    seconds = time.perf_counter() - begun
    print(
        f"data: prepared {n_images:,} images in {seconds:.1f} s, {n_images / seconds:,.0f} per second", file=sys.stderr
    )


def _check_room(folder: Path, n_images: int, info: DataInfo) -> None:
    """Refuse images that the disk has no room for, before the first is decoded."""
    needed = n_images * int(np.prod(info.image_shape))
    needed -= sum(file.stat().st_blocks * 512 for file in folder.glob("*.npy"))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ArtifactError(
            f"preparing {n_images:,} images of {info.height}x{info.width}x{info.channels} needs {needed / 1e9:.3g} GB "
            f"in {folder}, and {free / 1e9:.3g} GB are free; free some, choose another paths.root, or set a smaller "
            "data.image_size or data.limit"
        )


def _take_over(file: Path, folder: Path, without: list[int]) -> None:
    """A second name for a file in another folder, so that it outlives a kill; rows that mean nothing are left out."""
    if not without:
        with suppress(OSError):  # a file system without links
            os.link(file, folder / file.name)
            return
        shutil.copyfile(file, folder / file.name)
        return
    images = np.load(file, mmap_mode="r", allow_pickle=False)
    kept = np.delete(np.arange(len(images)), without)
    rows = max(1, _COPIED // images[0].size)
    with (folder / file.name).open("wb") as target:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(kept), *images.shape[1:])}
        np.lib.format.write_array_header_1_0(target, header)
        for start in range(0, len(kept), rows):
            target.write(images[kept[start : start + rows]].data)


def _opened(artifact: Artifact, data: Data, info: DataInfo) -> ImageData:
    summary, skipped, rows = artifact.json("summary"), artifact.json("skipped"), artifact.tensors("rows")
    if skipped and data.on_error == "stop":
        told = f"{len(skipped)} images cannot be read, all listed in {artifact.path('skipped.json')}, such as"
        raise DataError(f"{told} {skipped[0]}, or leave them out with data.on_error=skip")
    train, validation, test = (
        ImageSplit(mapped(artifact.path(f"{split}.npy")), rows.get(f"{split}_labels")) for split in DrawnSplits._fields
    )
    indices = rows["train_indices"], rows["validation_indices"], rows["test_indices"]
    remarks = (
        *range_remarks(ValueRange(*summary["values"])),
        *summary["remarks"],
        *damage_remarks(skipped, str(artifact.path("skipped.json"))),
        *missing_classes(train.labels, info.class_names),
    )
    info = replace(info, n_train=len(train) + len(validation), n_test=len(test))
    return ImageData(info, train, validation, test, *indices, remarks)


def mapped(path: Path) -> Tensor:
    """The array of an ``.npy`` file as a tensor that is read from the disk where it is looked at; not to be changed."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    with warnings.catch_warnings():
        # A map that could be written to counts as memory where it is larger than all there is, and is refused.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
