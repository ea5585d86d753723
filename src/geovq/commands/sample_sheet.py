"""The sheet of samples: what is drawn, decoded and laid out in rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from geovq.commands.sample import HALVES, class_name
from geovq.data.decode import fit_image, read_image
from geovq.errors import ConfigError, DataError, InputError
from geovq.models.codec import Codec, half_mask, picture_mask
from geovq.models.condition import given as given_classes
from geovq.pipeline.stages.codes import load_codes
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.networks import codes_stage, final_codes, final_networks
from geovq.pipeline.stages.samples import Sampler
from geovq.viz import samples_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from geovq.commands.sample import SampleSettings
    from geovq.pipeline.runner import Runner


def given_mask(codec: Codec, complete: str) -> Tensor:
    """Where codes (*shape) are given: those of half an image, or where a picture is white.

    Raises:
        ConfigError: the file is no picture, or nothing or everything would be given.
    """
    try:
        if complete in HALVES:
            return half_mask(codec, complete)
        picture = fit_image(read_image(Path(complete).read_bytes(), complete).image, None, 1)
        return picture_mask(codec, torch.tensor(picture[0]).float() / 255)
    except (DataError, InputError, OSError) as error:
        raise ConfigError(f"complete={complete}: {error}") from None


def draw_all(
    runner: Runner, settings: SampleSettings, class_names: tuple[str, ...], label: int | None
) -> tuple[Figure, dict[str, Tensor]]:
    """The sheet (rows of each temperature and guidance, one per class where none is chosen) and the codes behind it.

    To complete, the first ``n`` test images of each class (without one, evenly spaced ones) stand above, decoded from
    their codes.
    """
    context, config = runner.context, runner.context.config
    inputs = runner.obtain((*final_networks(config), codes_stage(config), "prior"))
    sampler = Sampler(context, inputs)
    sampling = {"top_k": settings.top_k, "top_p": settings.top_p, "seed": settings.seed}
    classes = [label] if label is not None else list(range(len(class_names))) or [-1]
    labels = torch.tensor(classes).repeat_interleave(settings.n)
    rows: dict[str, Tensor] = {}
    drawn = {"labels": labels}
    if settings.complete is not None:
        mask = given_mask(sampler.codec, settings.complete)
        test = context.data.test
        by_class = [_images_of(test.labels, number, settings.n, len(test)) for number in classes]
        chosen = torch.cat(by_class)
        labels = torch.cat([torch.full_like(part, number) for part, number in zip(by_class, classes, strict=True)])
        given = load_codes(final_codes(inputs), "test")[chosen].long()
        drawn = {"labels": labels, "test_images": chosen, "mask": mask}
        whole = decode(given_classes(sampler.decoder, labels), sampler.codec.embed(given), context.device)
        for number in classes:
            rows[f"{class_name(number, class_names)}, codes of test images"] = whole[labels == number]
    for words, name, drawing in settings.draws:
        if settings.complete is None:
            codes, images = sampler.draw(labels, **drawing, **sampling)
        else:
            codes, images = sampler.complete(labels, given, mask.expand(given.shape), **drawing, **sampling)
        drawn[name] = codes.contiguous()
        for number in classes:
            rows[f"{class_name(number, class_names)}, {words}"] = images[labels == number]
    return samples_figure(rows, title=f"{context.info.name}: samples of the prior"), drawn


def _images_of(labels: Tensor | None, number: int, n: int, n_images: int) -> Tensor:
    """(at most n,) the first images of a class, or images evenly spaced over all where there is none (-1)."""
    if labels is None or number < 0:
        return torch.linspace(0, n_images - 1, min(n, n_images)).long()
    return (labels == number).nonzero()[:n, 0]
