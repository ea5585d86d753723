"""The sheet of samples: what is drawn, decoded and laid out in rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from geovq.commands.compress import images_for
from geovq.commands.sample import HALVES, class_name
from geovq.data.decode import fit_image, read_image
from geovq.errors import ConfigError, DataError, InputError
from geovq.models.codec import Codec, half_mask, picture_mask
from geovq.models.condition import given as given_classes
from geovq.pipeline.new_images import codes_of, needed
from geovq.pipeline.stages.codes import load_codes
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.networks import codes_stage, final_codes, final_networks
from geovq.pipeline.stages.samples import Sampler
from geovq.viz import samples_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from geovq.commands.sample import SampleSettings
    from geovq.data import ImageSplit
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

    To complete, the first ``n`` test images of each class (without one, evenly spaced ones), or the first of
    ``images``, stand above, decoded from their codes.
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
        of = "test images" if settings.images is None else Path(settings.images).name
        if settings.images is None:
            chosen, labels = _test_images(context.data.test, classes, settings.n)
            given = load_codes(final_codes(inputs), "test")[chosen].long()
            drawn = {"labels": labels, "test_images": chosen, "mask": mask}
        else:
            images = torch.from_numpy(images_for(runner, settings.images, settings.fit).images[: settings.n])
            given = codes_of(context, runner.obtain(needed(context)), images)  # by the rule of the run
            labels = labels[: len(given)]
            drawn = {"labels": labels, "mask": mask}
        whole = decode(given_classes(sampler.decoder, labels), sampler.codec.embed(given), context.device)
        for number in classes:
            rows[f"{class_name(number, class_names)}, codes of {of}"] = whole[labels == number]
    for words, name, drawing in settings.draws:
        if settings.complete is None:
            codes, images = sampler.draw(labels, **drawing, **sampling)
        else:
            codes, images = sampler.complete(labels, given, mask.expand(given.shape), **drawing, **sampling)
        drawn[name] = codes.contiguous()
        for number in classes:
            rows[f"{class_name(number, class_names)}, {words}"] = images[labels == number]
    return samples_figure(rows, title=f"{context.info.name}: samples of the prior"), drawn


def _test_images(test: ImageSplit, classes: list[int], n: int) -> tuple[Tensor, Tensor]:
    """The first n test images of each class, evenly spaced ones where there is none (-1), and the classes."""
    parts = []
    for number in classes:
        if test.labels is None or number < 0:
            parts.append(torch.linspace(0, len(test) - 1, min(n, len(test))).long())
        else:
            parts.append((test.labels == number).nonzero()[:n, 0])
    labels = [torch.full_like(part, number) for part, number in zip(parts, classes, strict=True)]
    return torch.cat(parts), torch.cat(labels)
