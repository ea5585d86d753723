"""``src/compress.py``: images as a file of bits, by the codes and the prior of a recorded run."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf

from geovq.commands.recorded import MADE_FROM_CODES, RecordedSettings, find, restore
from geovq.configuration.fields import Count, FilePath
from geovq.configuration.parse import parse
from geovq.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from geovq.data.collection import Collection
    from geovq.pipeline.runner import Runner
    from geovq.pipeline.stage import Context, Inputs

SUFFIX = ".gvq"


class CompressSettings(RecordedSettings):
    """``configs/compress.yaml``."""

    images: FilePath | None
    output: FilePath | None
    fit: bool
    streams: Literal["one", "per_image"]
    probabilities: Literal["auto", "autoregressive", "position", "unigram", "uniform"]
    classes: Literal["auto", "none"]
    names: bool
    batch_size: Count


@dataclass(frozen=True)
class Compressed:
    """What was written: the file, the code length of its images in bits, and how well they are decoded."""

    data: bytes
    bits: np.ndarray
    psnr: float
    kind: str
    seconds: float


def compress(composed: DictConfig) -> None:
    """Read the images, code them, read them back, write the file, and say what that took."""
    settings = parse(CompressSettings, OmegaConf.to_container(composed, resolve=True))
    from geovq.commands.image_files import check_new, file_names
    from geovq.pipeline.disk import write_whole

    if settings.images is None:
        raise ConfigError("images=null: name what is to be compressed, such as images=photos/")
    place = Path(settings.images)
    stem = place.name if place.is_dir() else place.stem
    output = Path(settings.output) if settings.output else place.parent / f"{stem or 'images'}{SUFFIX}"
    if output.is_dir():
        raise ConfigError(f"output={output}: is a folder; name a file, such as output={output}{SUFFIX}")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise ConfigError(f"output={output}: {output.parent} is no folder that can be written")
    check_new(output, [output])
    record = find(settings)
    runner, _ = restore(record, settings, indifferent=MADE_FROM_CODES)
    found = images_for(runner, settings.images, settings.fit)
    for remark in found.remarks:
        print(f"data: {remark}", file=sys.stderr)
    if settings.names:
        file_names(found.names, len(found.images))
    done = compressed(runner, record.run_id, found, settings)
    write_whole(output, done.data)
    n = len(found.images)
    print(
        f"{n:,} image{'s' * (n > 1)}, {len(done.data):,} bytes, {8 * len(done.data) / n:.2f} bits per image: {output}"
    )
    print(f"code length: {done.bits.mean():.2f} bits per image, probabilities={done.kind}")
    print(f"PSNR of the decoded images: {done.psnr:.2f} dB, mean over images")
    print(f"coded and read back in {done.seconds:.1f} s; run {record.run_id} ({record.name})", file=sys.stderr)


def images_for(runner: Runner, place: str, fit: bool) -> Collection:
    """The images at a place, in the shape that the run reads; ``fit``: cropped, resized and recoloured to it.

    Raises:
        DataError: they have another one.
    """
    from geovq.data.collection import read_images
    from geovq.data.decode import UnlikeImagesError
    from geovq.data.fingerprint import printable
    from geovq.data.types import PixelSettings

    data, info = runner.context.config.data, runner.context.info
    pixels = PixelSettings(data.image_size, data.channels, data.full_scale)
    if fit:
        if info.height != info.width:
            raise ConfigError(f"fit=true: the run reads {info.height}x{info.width} images, and fit makes square ones")
        pixels = PixelSettings(info.height, info.channels, data.full_scale)
    shape = "x".join(map(str, info.image_shape))
    remedy = "fit=true crops and resizes them" if info.height == info.width else f"give images of {shape}"
    try:
        found = read_images(place, pixels)
    except UnlikeImagesError as error:
        raise DataError(f"{error.told}, and the run reads {shape} (channels, height, width); {remedy}") from error
    if found.images.shape[1:] != info.image_shape:
        theirs = "x".join(map(str, found.images.shape[1:]))
        raise DataError(
            f"images={printable(place)}: are {theirs} (channels, height, width), and the run reads {shape}; {remedy}"
        )
    return found


def compressed(runner: Runner, run_id: str, found: Collection, settings: CompressSettings) -> Compressed:
    """The file of some images, read back and compared before it is handed over.

    Raises:
        ConfigError: the run lacks the probabilities asked for.
    """
    import torch

    from geovq.coding.file import decode, encode, images_per_block
    from geovq.coding.format import Header, names_to_bytes, read_body, read_header
    from geovq.coding.of_run import frequency_prior, kind_of, stages_read
    from geovq.pipeline.new_images import codes_of, needed
    from geovq.pipeline.stages.codes import load_codec
    from geovq.pipeline.stages.networks import codes_stage, final_codes, final_networks

    context = runner.context
    config = context.config
    kind = kind_of(config, settings.probabilities)
    inputs = runner.obtain(tuple(dict.fromkeys((*needed(context), *stages_read(config, kind)))))
    images = torch.from_numpy(found.images)
    codes = codes_of(context, inputs, images)
    begun = time.perf_counter()
    codec = load_codec(final_codes(inputs))
    prior = frequency_prior(context, inputs, codec, kind)
    with_classes = prior.n_classes > 0 and settings.classes == "auto"
    if prior.n_classes and not with_classes and config.transformer.class_dropout == 0:
        raise ConfigError(
            "classes=none: this prior was trained with transformer.class_dropout=0 and never without a class; take auto"
        )
    per_image, threads = settings.streams == "per_image", torch.get_num_threads()
    how: dict[str, Any] = {"threads": threads, "batch_size": settings.batch_size}
    flat = codes.flatten(1).numpy()
    coded = encode(prior, flat, per_image=per_image, with_classes=with_classes, **how)
    names = found.names if settings.names else None
    header = Header(
        per_image,
        with_classes,
        names is not None,
        kind,
        *context.info.image_shape,
        len(images),
        images_per_block(prior, per_image),
        len(prior.sizes),
        run_id,
        runner.keys[final_networks(config)[-1]],
        runner.keys[codes_stage(config)],
        runner.keys["prior"] if kind == "autoregressive" else "",
        prior.digest,
    )
    data = header.to_bytes() + (b"" if names is None else names_to_bytes(names))
    data += b"".join(block.to_bytes() for block in coded.blocks)
    kept, blocks = read_body(data, read_header(data, "the file"), "the file")
    read, labels = decode(prior, header, blocks, "the file", **how)
    if kept != names or (read != flat).any() or (labels != coded.labels).any():
        raise AssertionError("the file does not hold the codes that it was made of")
    seconds = time.perf_counter() - begun
    return Compressed(data, coded.bits, psnr_of(context, inputs, codes, images), kind, seconds)


def psnr_of(context: Context, inputs: Inputs, codes: Tensor, images: Tensor) -> float:
    """Mean over images, in dB, of the bytes that decoding gives."""
    from geovq.evaluation.reconstruction import image_errors
    from geovq.pipeline.new_images import images_of

    output = images_of(context, inputs, codes)
    parts = zip(images.split(1000), output.split(1000), strict=True)
    found = [image_errors(before.float() / 255, after.float() / 255, context.device)["psnr"] for before, after in parts]
    return float(sum(float(part.double().sum()) for part in found) / len(images))
