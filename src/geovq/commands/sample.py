"""``src/sample.py``: draw codes from the prior of a recorded run and decode them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from geovq.commands.recorded import RecordedSettings, find, restore
from geovq.errors import ConfigError
from geovq.pipeline.config import parse
from geovq.pipeline.sections import Count, NotNegative, Paths, Seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from geovq.pipeline.runner import Runner


class SampleSettings(RecordedSettings):
    """``configs/sample.yaml``."""

    temperature: NotNegative | Annotated[list[NotNegative], Field(min_length=1)]
    top_k: Count | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    label: Annotated[int, Field(ge=-1)] | None
    n: Count
    seed: Seed
    output: str | None
    paths: Paths

    @property
    def temperatures(self) -> list[float]:
        """Always a list."""
        return self.temperature if isinstance(self.temperature, list) else [self.temperature]


def sample(composed: DictConfig) -> None:
    """Find the run, draw at each temperature, save a picture and the codes, and record them with the run."""
    settings = parse(SampleSettings, OmegaConf.to_container(composed, resolve=True))
    root = settings.paths.absolute
    record = find(settings.tracking, root, settings.run)
    runner = restore(record, root, settings.trainer, {"tracking": settings.tracking.model_dump()})
    prior = runner.context.config.prior
    if prior is None:
        raise ConfigError(f"run={settings.run}: it has transformer=none and so no prior; name a run that has one")
    n_classes = runner.context.info.n_classes if prior.class_conditional else 0
    check_label(settings.label, n_classes, prior.class_dropout)
    figure, drawn = draw_all(runner, settings, n_classes)

    from hydra.core.hydra_config import HydraConfig
    from safetensors.torch import save_file

    folder = Path(settings.output or HydraConfig.get().runtime.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "samples.png")
    save_file(drawn, folder / "samples.safetensors")
    print(f"samples of run {record.run_id} ({record.name}) from seed {settings.seed}", file=sys.stderr)
    print(folder / "samples.png")
    record.store_file(folder / "samples.png", "samples")


def check_label(label: int | None, n_classes: int, class_dropout: float) -> None:
    """Refuse a label that the prior does not know."""
    if label == -1 and n_classes and class_dropout == 0:
        raise ConfigError("label=-1: this prior was trained with transformer.class_dropout=0 and never without a class")
    if label is not None and label >= n_classes:
        allowed = f"-1 to {n_classes - 1}, or null" if n_classes else "-1 or null, for this prior has no classes"
        raise ConfigError(f"label={label}: allowed is {allowed}")


def draw_all(runner: Runner, settings: SampleSettings, n_classes: int) -> tuple[Figure, dict[str, Tensor]]:
    """The sheet (a row per temperature, and per class where none is chosen) and the codes behind it."""
    import torch

    from geovq.pipeline.stages.codes import load_codec
    from geovq.pipeline.stages.networks import codes_stage, final_codes, final_networks, load_final_decoder
    from geovq.pipeline.stages.prior import load_prior
    from geovq.pipeline.stages.samples import draw
    from geovq.viz import samples_figure

    context = runner.context
    inputs = runner.obtain((*final_networks(context.config), codes_stage(context.config), "prior"))
    decoder = load_final_decoder(inputs, context.config, context.info, context.device)
    prior = load_prior(inputs, context.config, context.info, context.device)
    codec = load_codec(final_codes(inputs))
    classes = [settings.label] if settings.label is not None else list(range(n_classes)) or [-1]
    rows: dict[str, Tensor] = {}
    drawn: dict[str, Tensor] = {}
    for temperature in settings.temperatures:
        labels = torch.tensor(classes).repeat_interleave(settings.n)
        codes, images = draw(
            prior,
            decoder,
            codec,
            labels,
            context.device,
            temperature=temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=settings.seed,
        )
        drawn |= {f"codes_temperature_{temperature:g}": codes.contiguous(), "labels": labels}
        for label in classes:
            name = context.info.class_names[label] if label >= 0 else "without class"
            rows[f"{name}, temperature {temperature:g}"] = images[labels == label]
    return samples_figure(rows, title=f"{context.info.name}: samples of the prior"), drawn
