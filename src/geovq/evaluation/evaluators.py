"""All evaluators: ours, in the order of the report, and those that a configuration adds."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from geovq.configuration.parse import parse
from geovq.configuration.section import ClassSection
from geovq.errors import ConfigError, GeoVQError
from geovq.evaluation import anisotropy, codebook, copying, generation, geodesic, inception, perceptual, reconstruction
from geovq.evaluation.evaluator import Evaluator, Score

if TYPE_CHECKING:
    from geovq.configuration.config import Config

_MODULES = (reconstruction, perceptual, codebook, geodesic, generation, inception, copying, anisotropy)
OURS = tuple(each for module in _MODULES for each in vars(module).values() if isinstance(each, Evaluator))
SCORES = tuple(score for each in OURS for score in each.scores)


def score_of(name: str, others: Iterable[Score] = ()) -> Score:
    """The declaration of a score by its name in a report, with or without the classifier's; one that nobody declares
    stands under its own name.
    """
    found = filter(None, (score.named(name) for score in chain(SCORES, others)))
    return next(found, Score(name, name))


def evaluators_of(config: Config) -> list[Evaluator]:
    """The evaluators that ``evaluation.evaluators`` adds to ours.

    Raises:
        ConfigError: a line for each that does not exist, is no evaluator, refuses its settings, or has a score with
            the name of another.
    """
    found, faults, known = list[Evaluator](), list[str](), list(SCORES)
    for place, entry in enumerate(config.evaluation.evaluators):
        key = f"evaluation.evaluators[{place}]"
        try:
            each: Evaluator = parse(_Settings, entry, key).make()
            taken = next((score.name for score in each.scores for other in known if other.named(score.name)), None)
            if taken is not None:
                raise ConfigError(f"{key}._target_={entry['_target_']}: its score {taken} is another's; rename it")
        except GeoVQError as error:
            faults.append(str(error) if str(error).startswith(key) else f"{key}: {error}")
            continue
        known += each.scores
        found.append(each)
    if faults:
        raise ConfigError("\n".join(faults))
    return found


class _Settings(ClassSection):
    """An entry of the list."""

    bases: ClassVar[tuple[str, ...]] = ("geovq.evaluation.evaluator:Evaluator",)


def foreign_modules(config: Config) -> list[str]:
    """Modules of the evaluators that a configuration adds."""
    return [str(entry["_target_"]).rpartition(".")[0] for entry in config.evaluation.evaluators]
