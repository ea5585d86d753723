"""prior -> samples: draw codes, decode them, and show them beside random codes and real images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from geovq.configuration.section import blamed
from geovq.models.codec import Codec
from geovq.models.condition import given
from geovq.models.prior import CategoricalPrior
from geovq.pipeline.contracts import check_sampled
from geovq.pipeline.stage import ArtifactWriter, Context, Inputs, Stage
from geovq.pipeline.stages.codes import load_codec
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.networks import codes_stage, final_codes, final_networks, load_final_decoder
from geovq.pipeline.stages.prior import load_prior

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Sampler:
    """Draws codes from the prior of a run, or at random, and decodes them."""

    def __init__(self, context: Context, inputs: Inputs) -> None:
        self.device, self.decoder = context.device, load_final_decoder(context, inputs)
        self.prior, self.codec = load_prior(context, inputs), load_codec(final_codes(inputs))

    def draw(self, labels: Tensor, **sampling: Any) -> tuple[Tensor, Tensor]:
        """Codes (N, h, w) and decoded images (N, C, H, W), one per label (-1: no class).

        ``sampling``: temperature, top_k, top_p and seed; guidance and steps only where they are asked for.
        """
        with blamed(self.prior, "sample"):
            drawn = self.prior.sample(self.prior.layout.start_ids(labels, len(labels)), **sampling)
        codes = check_sampled(self.prior, drawn, len(labels), self.codec)
        return codes, decode(given(self.decoder, labels), self.codec.embed(codes), self.device)

    def complete(self, labels: Tensor, codes: Tensor, mask: Tensor, **sampling: Any) -> tuple[Tensor, Tensor]:
        """The same where codes (N, *shape) are given at a mask (N, *shape)."""
        assert isinstance(self.prior, CategoricalPrior)
        drawn = self.prior.complete(self.prior.layout.start_ids(labels, len(labels)), codes, mask, **sampling)
        return drawn, decode(given(self.decoder, labels), self.codec.embed(drawn), self.device)

    def draw_at_random(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """The same of codes drawn uniformly and independently: what decoding gives without a prior."""
        codes = random_codes(self.codec, n, seed)
        return codes, decode(given(self.decoder, None), self.codec.embed(codes), self.device)


def random_codes(codec: Codec, n: int, seed: int) -> Tensor:
    """Codes (n, *shape) drawn uniformly and independently."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n, len(codec.sizes), generator=generator, dtype=torch.float64) * torch.tensor(codec.sizes)
    return drawn.long().reshape(n, *codec.shape)


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Sample sheets per temperature, then the samples that the report measures (temperature 1, with the guidance)."""
    settings, n = context.config.samples, context.config.evaluation.n_samples
    sampler, columns = Sampler(context, inputs), settings.per_class
    n_classes = sampler.prior.layout.n_classes
    labels = torch.arange(n_classes).repeat_interleave(columns) if n_classes else torch.full((columns,), -1)
    sampling = {"top_k": settings.top_k, "top_p": settings.top_p, "seed": settings.seed, **settings.changed}
    by_temperature = {}
    for temperature in settings.temperatures:
        codes, images = sampler.draw(labels, temperature=temperature, **sampling)
        out.tensors(f"temperature_{temperature:g}", {"codes": codes, "labels": labels})
        by_temperature[temperature] = images
    _, without_prior = sampler.draw_at_random(columns, settings.seed)
    for temperature, images in by_temperature.items():
        sheet = _sheet(context, images, labels, without_prior, temperature)
        out.figure(f"samples_temperature_{temperature:g}", sheet)

    balanced = torch.arange(n) % n_classes if n_classes else torch.full((n,), -1)
    sampling = {"top_k": None, "top_p": None, "seed": settings.seed + 1, **settings.changed}
    codes, images = sampler.draw(balanced, temperature=1.0, **sampling)
    out.tensors("measured", {"codes": codes, "labels": balanced, "images": to_bytes(images)})
    codes, images = sampler.draw_at_random(n, settings.seed + 2)
    out.tensors("without_prior", {"codes": codes, "images": to_bytes(images)})


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] rounded to bytes, the form real images have."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _sheet(context: Context, images: Tensor, labels: Tensor, without_prior: Tensor, temperature: float) -> Figure:
    """A row per class, then decoded random codes and real test images for comparison."""
    from geovq.viz import samples_figure

    rows: dict[str, Tensor] = {}
    for label in labels.unique().tolist():
        name = context.info.class_names[label] if label >= 0 else "samples"
        rows[str(name)] = images[labels == label]
    rows["random codes"] = without_prior
    test = context.data.test.images
    rows["real images"] = test[torch.linspace(0, len(test) - 1, len(without_prior)).long()].float() / 255
    return samples_figure(rows, title=f"{context.info.name}: samples of the prior at temperature {temperature:g}")


STAGE = Stage(
    "samples",
    lambda config: "drawing images from the prior",
    build,
    lambda config: (*final_networks(config), codes_stage(config), "prior"),
    lambda config: {**config.samples.in_key, "n_samples": config.evaluation.n_samples},
    classes=lambda config: ("prior",),
    applies=lambda config: config.has_prior,
)
