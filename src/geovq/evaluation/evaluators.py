"""All evaluators: ours, in the order of the report, and those that a configuration adds."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from geovq.errors import ConfigError
from geovq.evaluation import anisotropy, codebook, generation, geodesic, perceptual, reconstruction
from geovq.evaluation.evaluator import Evaluator, Score, name_of

if TYPE_CHECKING:
    from geovq.pipeline.config import Config

_MODULES = (reconstruction, perceptual, codebook, geodesic, generation, anisotropy)
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
        try:
            each = _made(entry)
            taken = next((score.name for score in each.scores for other in known if other.named(score.name)), None)
            if taken is not None:
                raise ConfigError(f"its score {taken} is another's; give it another name")
        except ConfigError as error:
            reason = " ".join(str(error).split())
            faults.append(f"evaluation.evaluators[{place}]._target_={entry.get('_target_')}: {reason}")
            continue
        known += each.scores
        found.append(each)
    if faults:
        raise ConfigError("\n".join(faults))
    return found


def _made(entry: Mapping[str, Any]) -> Evaluator:
    module, _, name = str(entry.get("_target_")).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except Exception as error:  # other people's code runs here, and in the constructor
        raise ConfigError(f"{error}; name a class as module.Class, with its folder on PYTHONPATH") from error
    if not (isinstance(kind, type) and issubclass(kind, Evaluator)):
        raise ConfigError(f"it is no subclass of {name_of(Evaluator)}")
    try:
        return kind(**{key: value for key, value in entry.items() if key != "_target_"})
    except Exception as error:
        raise ConfigError(f"{error}; beside _target_ stand the arguments of its constructor") from error


def foreign_modules(config: Config) -> list[str]:
    """Modules of the evaluators that a configuration adds."""
    return [str(entry["_target_"]).rpartition(".")[0] for entry in config.evaluation.evaluators]
