"""prior -> samples: draw codes, decode them, and show them beside random codes and real images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from geovq.models.codec import Codec
from geovq.models.prior import Prior
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.codes import load_codec
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.networks import codes_stage, final_codes, final_networks, load_final_decoder
from geovq.pipeline.stages.prior import load_prior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geovq.pipeline.artifacts import ArtifactWriter


def draw(
    prior: Prior,
    decoder: nn.Module,
    codec: Codec,
    labels: Tensor,
    device: torch.device,
    **sampling: Any,
) -> tuple[Tensor, Tensor]:
    """Codes (N, h, w) and decoded images (N, C, H, W), one per label (-1: no class).

    ``sampling``: temperature, top_k, top_p and seed, as of ``CodePrior.sample``.
    """
    codes = prior.sample(prior.layout.start_ids(labels, len(labels)), **sampling)
    assert isinstance(codes, Tensor)  # grids have a fixed length
    return codes, decode(decoder, codec.embed(codes), device)


def random_codes(codec: Codec, n: int, seed: int) -> Tensor:
    """Codes drawn uniformly and independently: what decoding gives without a prior."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n, len(codec.sizes), generator=generator, dtype=torch.float64) * torch.tensor(codec.sizes)
    return drawn.long().reshape(n, *codec.shape)


def figure_labels(n_classes: int, per_class: int) -> Tensor:
    """Labels of a sample sheet: ``per_class`` of each class, or that many without class."""
    return torch.arange(n_classes).repeat_interleave(per_class) if n_classes else torch.full((per_class,), -1)


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Sample sheets per temperature, then the samples that the report measures (temperature 1)."""
    config, info, device = context.config, context.info, context.device
    settings = config.samples
    decoder = load_final_decoder(inputs, config, info, device)
    prior = load_prior(inputs, config, info, device)
    codec = load_codec(final_codes(inputs))

    labels = figure_labels(prior.layout.n_classes, settings.per_class)
    sampling = {"top_k": settings.top_k, "top_p": settings.top_p, "seed": settings.seed}
    by_temperature = {}
    for temperature in settings.temperatures:
        codes, images = draw(prior, decoder, codec, labels, device, temperature=temperature, **sampling)
        out.tensors(f"temperature_{temperature:g}", {"codes": codes, "labels": labels})
        by_temperature[temperature] = images
    unguided = random_codes(codec, settings.per_class, settings.seed)
    without_prior = decode(decoder, codec.embed(unguided), device)
    for temperature, images in by_temperature.items():
        sheet = sample_sheet(context, images, labels, without_prior, settings.per_class, temperature)
        out.figure(f"samples_temperature_{temperature:g}", sheet)

    n = config.evaluation.n_samples
    balanced = torch.arange(n) % prior.layout.n_classes if prior.layout.n_classes else torch.full((n,), -1)
    plainly = {"temperature": 1.0, "top_k": None, "top_p": None, "seed": settings.seed + 1}
    codes, images = draw(prior, decoder, codec, balanced, device, **plainly)
    out.tensors("measured", {"codes": codes, "labels": balanced, "images": to_bytes(images)})
    unguided = random_codes(codec, n, settings.seed + 2)
    images = decode(decoder, codec.embed(unguided), device)
    out.tensors("without_prior", {"codes": unguided, "images": to_bytes(images)})


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] rounded to bytes, the form real images have."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def sample_sheet(
    context: Context, images: Tensor, labels: Tensor, without_prior: Tensor, columns: int, temperature: float
) -> Figure:
    """A row per class, then decoded random codes and real test images for comparison."""
    from geovq.viz import samples_figure

    rows: dict[str, Tensor] = {}
    for label in labels.unique().tolist():
        name = context.info.class_names[label] if label >= 0 else "samples"
        rows[str(name)] = images[labels == label]
    rows["random codes"] = without_prior
    test = context.data.test.images
    rows["real images"] = test[torch.linspace(0, len(test) - 1, columns).long()].float() / 255
    return samples_figure(rows, title=f"{context.info.name}: samples of the prior at temperature {temperature:g}")


STAGE = Stage(
    name="samples",
    inputs=lambda config: (*final_networks(config), codes_stage(config), "prior"),
    settings=lambda config: {**config.samples.model_dump(), "n_samples": config.evaluation.n_samples},
    build=build,
    classes=lambda config: ("transformer",),
    applies=lambda config: config.prior is not None,
)
