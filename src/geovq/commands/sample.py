"""``src/sample.py``: draw codes from the prior of a recorded run and decode them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, field_validator

from geovq.commands.recorded import RecordedSettings, find, restore
from geovq.configuration.fields import Count, NotNegative, OutputFolder, Seed
from geovq.configuration.parse import parse
from geovq.errors import ConfigError
from geovq.pipeline.memory import Need, check_fits, picture_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from geovq.data import DataInfo
    from geovq.pipeline.runner import Runner


class SampleSettings(RecordedSettings):
    """``configs/sample.yaml``."""

    rebuild: bool
    temperature: NotNegative | Annotated[list[NotNegative], Field(min_length=1)]
    top_k: Count | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    label: int | str | None
    n: Count
    seed: Seed
    output: OutputFolder | None

    @field_validator("label", mode="before")
    @classmethod
    def _label_is_a_word(cls, label: object) -> object:
        if isinstance(label, bool | float):
            raise ValueError(
                f"label={label}: give a class's name or null; a name that reads as another value in quotes"
            )
        return label

    @property
    def temperatures(self) -> list[float]:
        """Always a list."""
        return self.temperature if isinstance(self.temperature, list) else [self.temperature]


def sample(composed: DictConfig) -> None:
    """Find the run, draw at each temperature, save a picture and the codes, and record them with the run."""
    settings = parse(SampleSettings, OmegaConf.to_container(composed, resolve=True))
    record = find(settings)
    runner, same = restore(record, settings, rebuild=settings.rebuild)
    config = runner.context.config
    if not config.has_prior:
        none = "transformer" if config.transformer.name == "none" else "prior"
        raise ConfigError(f"run={settings.run}: it has {none}=none and so no prior; name a run that has one")
    prior = config.transformer
    check_top_k(settings.top_k, config.quantizer.K)
    class_names = runner.context.info.class_names if prior.class_conditional else ()
    label = class_of(settings.label, class_names, prior.class_dropout)
    check_fits(sheet_size(settings, runner.context.info, 1 if label is not None else len(class_names)))
    figure, drawn = draw_all(runner, settings, class_names, label)

    from hydra.core.hydra_config import HydraConfig
    from safetensors.torch import save_file

    folder = Path(settings.output or HydraConfig.get().runtime.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "samples.png"
    figure.savefig(picture)
    save_file(drawn, folder / "samples.safetensors", {"class_names": json.dumps(class_names)})
    print(picture)
    run_id, name = record.run_id, record.name
    if same:
        record.store_file(picture, "samples")
    else:
        from geovq.commands.train import recording

        labels = {"geovq.kind": "stages", "rebuilt_from": record.run_id}
        with recording(runner, labels) as run:
            run.log_file(picture, "samples")
            run_id, name = run.run_id, "rebuilt"
    classes = "each class" if label is None and class_names else class_name(label, class_names)
    print(f"samples of run {run_id} ({name}), {classes}, from seed {settings.seed}", file=sys.stderr)


def sheet_size(settings: SampleSettings, info: DataInfo, n_classes: int) -> Need:
    """What the sheet of samples takes, with ``n`` columns and a row per temperature and class drawn."""
    rows = len(settings.temperatures) * max(1, n_classes)
    return Need("", "the sheet of samples", {"n": settings.n}, lambda n: picture_bytes(info, n * rows))


def check_top_k(top_k: int | None, K: int) -> None:
    """Refuse to keep more codes than there are."""
    if top_k is not None and top_k > K:
        raise ConfigError(f"top_k={top_k}: the run has quantizer.K={K} codes; keep at most as many, or null for all")


def class_of(label: int | str | None, class_names: tuple[str, ...], class_dropout: float) -> int | None:
    """Number of the class that ``label`` means: -1 for none, None for all; raises ConfigError where there is none.

    A label means the class of that name and, where no name is a whole number, else the one at that place from 0.
    """
    word = str(label)
    if label is None or word in class_names:
        return None if label is None else class_names.index(word)
    if word == "-1":
        if class_names and class_dropout == 0:
            raise ConfigError(
                "label=-1: this prior was trained with transformer.class_dropout=0 and never without a class"
            )
        return -1
    numbered = any(name.lstrip("-").isdecimal() for name in class_names)
    if word.isdecimal() and int(word) < len(class_names) and not numbered:
        return int(word)
    known = ", ".join(class_names[:20]) + (", …" if len(class_names) > 20 else "")
    allowed = f"{known}, -1 (without class) or null (each)" if class_names else "-1 or null: this prior has no classes"
    raise ConfigError(f"label={label}: allowed is {allowed}")


def class_name(label: int | None, class_names: tuple[str, ...]) -> str:
    """What people call a class."""
    return "without class" if label is None or label < 0 else f"class {class_names[label]}"


def draw_all(
    runner: Runner, settings: SampleSettings, class_names: tuple[str, ...], label: int | None
) -> tuple[Figure, dict[str, Tensor]]:
    """The sheet (a row per temperature, and per class where none is chosen) and the codes behind it."""
    import torch

    from geovq.pipeline.stages.networks import codes_stage, final_networks
    from geovq.pipeline.stages.samples import Sampler
    from geovq.viz import samples_figure

    context, config = runner.context, runner.context.config
    sampler = Sampler(context, runner.obtain((*final_networks(config), codes_stage(config), "prior")))
    sampling = {"top_k": settings.top_k, "top_p": settings.top_p, "seed": settings.seed}
    classes = [label] if label is not None else list(range(len(class_names))) or [-1]
    labels = torch.tensor(classes).repeat_interleave(settings.n)
    rows: dict[str, Tensor] = {}
    drawn = {"labels": labels}
    for temperature in settings.temperatures:
        codes, images = sampler.draw(labels, temperature=temperature, **sampling)
        drawn[f"codes_temperature_{temperature:g}"] = codes.contiguous()
        for number in classes:
            rows[f"{class_name(number, class_names)}, temperature {temperature:g}"] = images[labels == number]
    return samples_figure(rows, title=f"{context.info.name}: samples of the prior"), drawn
