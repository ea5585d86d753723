"""``src/sample.py``: draw codes from the prior of a recorded run and decode them."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, field_validator

from geovq.commands.recorded import RecordedSettings, find, restore
from geovq.configuration.config import Config, check_drawing
from geovq.configuration.fields import Count, FilePath, NotNegative, OutputFolder, Seed
from geovq.configuration.parse import parse
from geovq.errors import ConfigError
from geovq.folders import absolute
from geovq.pipeline.memory import Need, check_fits, picture_bytes

if TYPE_CHECKING:
    from geovq.data import DataInfo

HALVES = ("upper", "left")
"""Parts of an image that ``complete`` keeps by name."""
LEAST_SCORED = 10
"""Samples in a set that is scored."""


class SampleSettings(RecordedSettings):
    """``configs/sample.yaml``."""

    rebuild: bool
    temperature: NotNegative | Annotated[list[NotNegative], Field(min_length=1)]
    guidance: NotNegative | Annotated[list[NotNegative], Field(min_length=1)]
    steps: Count | None
    complete: str | None
    images: FilePath | None
    fit: bool
    top_k: Count | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    label: int | str | None
    n: Count
    seed: Seed
    scored_images: Count | None
    output: OutputFolder | None

    @field_validator("label", mode="before")
    @classmethod
    def _label_is_a_word(cls, label: object) -> object:
        if isinstance(label, bool | float):
            raise ValueError(
                f"label={label}: give a class's name or null; a name that reads as another value in quotes"
            )
        return label

    @field_validator("complete")
    @classmethod
    def _complete_is_a_half_or_a_file(cls, complete: str | None) -> str | None:
        if complete is None or complete in HALVES:
            return complete
        path = absolute(complete)
        if not Path(path).is_file():
            raise ValueError(f"complete={complete}: upper, left, or a picture, and there is no file {path}")
        return path

    @property
    def draws(self) -> list[tuple[str, str, dict[str, float | int]]]:
        """Every temperature with every guidance: in words, as the name of a tensor, and as settings of the draw.

        Guidance of 1 and steps that are not asked for are left out: not every prior takes them.
        """
        found = []
        for temperature, guidance in product(self.temperatures, self.guidances):
            words, name = f"temperature {temperature:g}", f"codes_temperature_{temperature:g}"
            drawing: dict[str, float | int] = {"temperature": temperature}
            if self.steps is not None:
                drawing["steps"] = self.steps
            if guidance != 1:
                drawing["guidance"] = guidance
            if self.guidances != [1]:
                words, name = f"{words}, guidance {guidance:g}", f"{name}_guidance_{guidance:g}"
            found.append((words, name, drawing))
        return found

    @property
    def classless(self) -> bool:
        """Whether images of a person are completed, of which none has said what they show."""
        return self.images is not None and self.label is None

    @property
    def guidances(self) -> list[float]:
        """Always a list."""
        return self.guidance if isinstance(self.guidance, list) else [self.guidance]

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
    if settings.classless and class_names and prior.class_dropout == 0:
        raise ConfigError(
            f"images={settings.images}: have no class, and this prior was trained with transformer.class_dropout=0 and "
            f"never without one; say which is theirs, such as label={class_names[0]}"
        )
    label = class_of(-1 if settings.classless else settings.label, class_names, prior.class_dropout)
    check_drawn(settings, config, class_names, label)
    check_fits(sheet_size(settings, runner.context.info, 1 if label is not None else len(class_names)))
    if settings.scored_images is not None:
        check_scored(settings.scored_images, runner.context.info.n_classes, settings.complete is None and label is None)

    from hydra.core.hydra_config import HydraConfig
    from safetensors.torch import save_file

    from geovq.commands.sample_scores import score_draws, table
    from geovq.commands.sample_sheet import draw_all
    from geovq.viz.distance_recall import distance_recall_figure

    figure, drawn = draw_all(runner, settings, class_names, label)
    folder = Path(settings.output or HydraConfig.get().runtime.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "samples.png"
    figure.savefig(picture)
    save_file(drawn, folder / "samples.safetensors", {"class_names": json.dumps(class_names)})
    print(picture)
    pictures = [picture]
    if settings.scored_images is not None:
        rows = score_draws(runner, settings)
        (folder / "scores.csv").write_text(table(rows))
        pictures.append(folder / "scores.png")
        of = f"{record.name}: {settings.scored_images:,} samples against all test images"
        distance_recall_figure(rows, of).savefig(pictures[-1])
        print(table(rows), end="")
        print(pictures[-1])
    run_id, name = record.run_id, record.name
    if same:
        for picture in pictures:
            record.store_file(picture, "samples")
    else:
        from geovq.commands.train import recording

        labels = {"geovq.kind": "stages", "rebuilt_from": record.run_id}
        with recording(runner, labels) as run:
            for picture in pictures:
                run.log_file(picture, "samples")
            run_id, name = run.run_id, "rebuilt"
    classes = "each class" if label is None and class_names else class_name(label, class_names)
    print(f"samples of run {run_id} ({name}), {classes}, from seed {settings.seed}", file=sys.stderr)


def sheet_size(settings: SampleSettings, info: DataInfo, n_classes: int) -> Need:
    """What the sheet of samples takes: ``n`` columns, rows for each class, temperature and guidance."""
    rows = len(settings.draws) * max(1, n_classes)
    return Need("", "the sheet of samples", {"n": settings.n}, lambda n: picture_bytes(info, n * rows))


def check_drawn(settings: SampleSettings, config: Config, class_names: tuple[str, ...], label: int | None) -> None:
    """Refuse guidance, steps and completion that the prior of the run cannot follow."""
    for guidance in settings.guidances:
        try:
            check_drawing(config, guidance, settings.steps)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if guidance != 1 and (not class_names or label == -1):
            without = "label=-1 withholds the class" if class_names else "this prior has no classes"
            remedy = "leave it at 1"
            if settings.classless and class_names:
                without, remedy = "images of a person have no class", f"give label=, or {remedy}"
            raise ConfigError(f"guidance={guidance:g}: {without}; {remedy}")
    if settings.complete is not None and not type(config.prior).owner.completes:
        raise ConfigError(
            f"complete={settings.complete}: prior={config.prior.name} draws whole images; leave it at null"
        )
    if settings.images is not None and settings.complete is None:
        raise ConfigError("images: are there to be completed; say which part of them is kept, such as complete=upper")
    if settings.complete is not None and config.n_tokens == 1:
        raise ConfigError(
            f"complete={settings.complete}: vae={config.vae.name} has one token per image, which has no half; leave it "
            "at null"
        )


def check_scored(n: int, n_classes: int, whole: bool) -> None:
    """Refuse n samples that cannot be scored as a set: too few, without classes to learn features from, or not whole
    images of all classes.
    """
    if n < LEAST_SCORED:
        raise ConfigError(f"scored_images={n}: at least {LEAST_SCORED}, for the neighbours that recall is made of")
    if n_classes < 2:
        raise ConfigError(f"scored_images={n}: without classes there is no evaluation classifier; leave it at null")
    if not whole:
        whole_ones = "only whole images of all classes are held against the test images"
        raise ConfigError(f"scored_images={n}: {whole_ones}; leave label and complete at null")


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
