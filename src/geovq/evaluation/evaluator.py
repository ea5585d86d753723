"""What an evaluator is: it declares scores, says what they need, and measures them on a run.

A score is declared once: the report, the printed table, MLflow's view, the columns of a comparison and the reference
page iterate over the declarations. Ours are functions under ``@evaluator``; those with settings are classes, which
``evaluation.evaluators=[{_target_: my_lab.scores.Sharpness, power: 2}]`` adds, in whosever module they are.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from geovq.configuration.section import is_ours, name_of
from geovq.errors import InputError
from geovq.progress import track

if TYPE_CHECKING:
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun

HIGHER, LOWER, NEITHER = "↑", "↓", ""
GROUPS = RECONSTRUCTION, CODEBOOK, RATE, SAMPLES = "reconstruction", "codebook", "rate", "samples"
"""Of the table at the end of a run."""
UNQUANTIZED = "_continuous"
"""Ends the name of a score of reconstructions without quantization, D(μ), beside the same score of codes."""
_FILLED = {"_<data>_cnn": "(?:_.+_cnn)?", "<data>": ".+", "<unit>": "(?P<unit>pixel|latent)"}
Need = Callable[["EvaluatedRun"], str | None]
"""What scores cannot do without: its docstring says it, and it returns why a run lacks it (None: it does not)."""


@dataclass(frozen=True)
class Score:
    """One number of a report.

    Attributes:
        name: as in ``metrics.json``. ``<data>_cnn`` stands for the data set's classifier, ``<unit>`` for the unit of
            lengths on the run's graph.
        title: for people, in tables and plots.
        unit: empty for numbers without one.
        better: ``HIGHER``, ``LOWER`` or ``NEITHER``.
        form: how it is written, as in ``format``.
        description: its definition, in a line.
        headline: whether it has a column in MLflow's saved view.
        group: of ``GROUPS``, that of the tables of a page; empty: only the whole report has it.
        at_the_end: whether the table at the end of a run shows it too.
    """

    name: str
    title: str
    unit: str = ""
    better: str = NEITHER
    form: str = ".5g"
    description: str = ""
    headline: bool = False
    group: str = ""
    at_the_end: bool = True

    def named(self, name: str) -> Score | None:
        """This score under its name in a report, or without the classifier's; None where that is another score."""
        pattern = re.escape(self.name)
        for placeholder, filled in _FILLED.items():
            pattern = pattern.replace(placeholder, filled)
        match = re.fullmatch(pattern, name)
        return match and replace(self, name=name, unit=self.unit.replace("<unit>", match.groupdict().get("unit", "")))

    def of(self, suffix: str, pair: str, headline: bool = False) -> Score:
        """The same of other images, told by a suffix."""
        title = f"{self.title} {pair}"
        return replace(self, name=self.name + suffix, title=title, description="", headline=headline, group="")


@dataclass(frozen=True)
class Measured:
    """What an evaluator found: numbers by the name of their score, values per test image (N,), and reasons why scores
    are omitted, which count for those that have no number.
    """

    values: dict[str, float] = field(default_factory=dict)
    per_image: dict[str, Tensor] = field(default_factory=dict)
    omitted: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_images(cls, per_image: dict[str, Tensor]) -> Measured:
        """Means over images of values (N,) on any device."""
        means = {name: float(values.double().mean()) for name, values in per_image.items()}
        return cls(means, {name: values.cpu() for name, values in per_image.items()})

    def __or__(self, other: Measured) -> Measured:
        """Both together."""
        return Measured(self.values | other.values, self.per_image | other.per_image, self.omitted | other.omitted)


class Evaluator(ABC):
    """Measures some scores of a run; the arguments of a subclass's constructor are its settings.

    Attributes:
        scores: all that it measures or omits.
        needs: where one is lacking, all scores are omitted, with the reason of the first.
        of_autoencoder: whether no codebook changes them, so that they are measured once per autoencoder.
    """

    scores: Sequence[Score] = ()
    needs: Sequence[Need] = ()
    of_autoencoder = False

    @abstractmethod
    def measure(self, run: EvaluatedRun) -> Measured:
        """Every score that is declared, or why it is omitted; names have their placeholders filled."""

    def names(self, run: EvaluatedRun) -> list[str]:
        """Names of the scores in the report of a run."""
        names = [score.name.replace("<data>", run.info.name) for score in self.scores]
        return [name.replace("<unit>", run.unit) if "<unit>" in name else name for name in names]


class _OfFunction(Evaluator):
    """An evaluator without settings, with the docstring and the module of its function."""

    def __init__(self, function: Callable[[EvaluatedRun], Measured], declared: Mapping[str, Any]) -> None:
        self.function = function
        vars(self).update(declared, __doc__=function.__doc__, __module__=function.__module__)

    def measure(self, run: EvaluatedRun) -> Measured:
        return self.function(run)


def evaluator(
    *scores: Score, needs: Sequence[Need] = (), of_autoencoder: bool = False
) -> Callable[[Callable[[EvaluatedRun], Measured]], Evaluator]:
    """Make an evaluator without settings of a function; ``of_autoencoder``: of what no codebook changes."""
    return partial(_OfFunction, declared={"scores": scores, "needs": needs, "of_autoencoder": of_autoencoder})


def measure(evaluators: Iterable[Evaluator], run: EvaluatedRun) -> Measured:
    """The scores of all evaluators, each either measured or omitted with a reason.

    Raises:
        InputError: naming the class of an evaluator that fails, or that gives other scores than it declares.
    """
    found, evaluators = Measured(), tuple(evaluators)
    for each in track(evaluators, "measuring", len(evaluators)):
        names = each.names(run)
        try:
            reason = next(filter(None, (need(run) for need in each.needs)), None)
            part = each.measure(run) if reason is None else Measured(omitted=dict.fromkeys(names, reason))
            _check(part, names, len(run.images))
        except Exception as error:
            if is_ours(each):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"evaluator {name_of(each)}: {reason}") from error
        left_out = {name: part.omitted[name] for name in names if name not in part.values}
        found |= Measured(part.values, part.per_image, left_out)
    return found


def _check(found: Measured, declared: list[str], n_images: int) -> None:
    """Refuse scores that are missing, not declared, or no numbers."""
    told = {*found.values, *found.omitted}
    faults = [f"{name} is neither measured nor omitted with a reason" for name in declared if name not in told]
    faults += [f"{name} is not among its scores" for name in {*told, *found.per_image} - set(declared)]
    faults += [f"{name}={value} is not finite" for name, value in found.values.items() if not math.isfinite(value)]
    faults += [
        f"{name} has values per image of shape {tuple(values.shape)}, not ({n_images},)"
        for name, values in found.per_image.items()
        if values.shape != (n_images,)
    ]
    if faults:
        raise InputError("; ".join(faults))
