"""Safetensors files that are written part by part, in any order: tensors that memory need not hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_NAMES = {"torch.float32": "F32", "torch.bfloat16": "BF16"}


@contextmanager
def written(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    """Tensors of zeros that are a new file themselves: what is assigned to them is in ``path`` after the block.

    The system writes their pages out when it needs the memory. The file has the bytes of safetensors' ``save_file``:
    the size of its header, the header, the tensors by name. Until the block has ended it is called ``<path>.part``;
    after an error there is none.

    Raises:
        OSError: the disk has no room for all of it, said before anything is computed.
    """
    import torch

    from geovq.geometry.computing import take_room

    header: dict[str, dict[str, object]] = {}
    places, end = {}, 0
    for name in sorted(shapes):
        places[name] = slice(end, end := end + prod(shapes[name]) * dtype.itemsize)
        offsets = [places[name].start, end]
        header[name] = {"dtype": _NAMES[str(dtype)], "shape": list(shapes[name]), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.flush()
            take_room(file.fileno(), file.tell() + end)
        if end:
            content = np.memmap(part, np.uint8, "r+", 8 + len(text), (end,))
            tensors = torch.from_numpy(content)
            yield {name: tensors[place].view(dtype).view(shapes[name]) for name, place in places.items()}
            content.flush()
        else:
            yield {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
