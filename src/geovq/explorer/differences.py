"""Two runs on the same test images: what differs from image to image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from geovq.comparison.runs import CHOOSE_TEST_IMAGES
from geovq.errors import ConfigError
from geovq.evaluation.evaluator import HIGHER, Score
from geovq.evaluation.evaluators import score_of
from geovq.explorer.explored_run import ExploredRun


@dataclass(frozen=True)
class Differences:
    """A score of two runs, image by image: its values (N,)."""

    score: Score
    first: Tensor
    second: Tensor

    @property
    def gain(self) -> Tensor:
        """(N,) second minus first."""
        return self.second - self.first

    @property
    def is_better(self) -> Tensor:
        """(N,) whether the second run is better."""
        return self.gain > 0 if self.score.better == HIGHER else self.gain < 0


def check_same_images(first: ExploredRun, second: ExploredRun) -> None:
    """Refuse two runs whose test images are not the same."""
    asked = [key.removeprefix("data.") for key in CHOOSE_TEST_IMAGES]
    facts = [{name: getattr(run.config.data, name) for name in asked} for run in (first, second)]
    for run, known in zip((first, second), facts, strict=True):
        known |= {"fingerprint": run.info.fingerprint, "n_test": run.info.n_test}
    for name, here in facts[0].items():
        if here != (there := facts[1][name]):
            raise ConfigError(
                f"{first.name} has data.{name}={here}, {second.name} {there}; images are compared one by one, "
                "so choose a run on the same test images"
            )


def scores_of_both(first: ExploredRun, second: ExploredRun) -> list[Score]:
    """The scores that both reports hold image by image, in the report's order.

    Raises:
        ConfigError: a run without report, or on other images.
    """
    check_same_images(first, second)
    for run in (first, second):
        if (reason := run.missing("report")) is not None:
            raise ConfigError(f"{run.name}: {reason}")
    held = [run.inputs["report"].tensors("per_image") for run in (first, second)]
    shared = [score_of(name) for name in held[0] if name in held[1]]
    return sorted(shared, key=lambda score: (score.name != "psnr", score.title))


def differences(first: ExploredRun, second: ExploredRun, score: Score) -> Differences:
    """One score, image by image."""
    values = [run.inputs["report"].tensors("per_image")[score.name].double() for run in (first, second)]
    return Differences(score, *values)
