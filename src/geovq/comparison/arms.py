"""Runs put together: an arm is one method at one K, its runs differ in their seeds alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from geovq.comparison.runs import ComparedRun, is_training_seed
from geovq.errors import ConfigError

# Parameters that say where and how a run went, and values that others refer to: no part of the method.
_NOT_THE_METHOD = (
    "paths.",
    "tracking.",
    "data.root",
    "data.path",
    "data.download",
    "data.steps.",
    "data.default_grid",
    "stages",
    "stale",
    "trainer.device",
    "trainer.threads",
    "trainer.profile",
    "trainer.checkpoint_seconds",
)
N_CODES = "quantizer.K"
NONE = "–"


@dataclass(frozen=True, eq=False)
class Arm:
    """One method at one K, with a run per seed.

    ``series`` names the method without K: arms along a curve of rates share it. It is the quantizer, and the settings
    that tell it from other methods with this quantizer.
    """

    series: str
    quantizer: str
    n_codes: str
    settings: Mapping[str, str]
    runs: tuple[ComparedRun, ...]

    @property
    def label(self) -> str:
        """Unique in a comparison."""
        return f"{self.series}, K={self.n_codes}"

    @property
    def seeds(self) -> str:
        """The seeds of the runs, for people."""
        return ", ".join(str(run.seed) for run in self.runs)


def method_settings(params: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a run that describe its method: neither seeds nor places nor devices."""
    return {
        key: value for key, value in params.items() if not key.startswith(_NOT_THE_METHOD) and not is_training_seed(key)
    }


def group_seeds(runs: Sequence[ComparedRun]) -> tuple[list[Arm], list[str]]:
    """The arms and notes on what is left out: quantizers in the order of their first runs, methods of one quantizer
    side by side in that order too, each by rising K.

    Of runs with equal settings and seeds (their reports differ where the program changed between them) the last
    stays, since twice the same seed is no second sample.
    """
    groups: dict[tuple[tuple[str, str], ...], dict[tuple[tuple[str, str], ...], ComparedRun]] = {}
    notes = []
    for run in runs:
        group = groups.setdefault(tuple(sorted(method_settings(run.record.params).items())), {})
        seeds = tuple(sorted(run.seeds.items()))
        if seeds in group:
            notes.append(f"Run {group[seeds].title} is left out: {run.title} has the same settings and seeds.")
        group[seeds] = run
    settings = [dict(key) for key in groups]
    names = _series_names(settings)
    arms = [
        Arm(
            name,
            each.get("quantizer.name", NONE),
            each.get(N_CODES, NONE),
            each,
            tuple(sorted(members.values(), key=lambda run: (run.seed, sorted(run.seeds.items())))),
        )
        for name, each, members in zip(names, settings, groups.values(), strict=True)
    ]
    quantizers, order = list(dict.fromkeys(arm.quantizer for arm in arms)), list(dict.fromkeys(names))
    arms.sort(key=lambda arm: (quantizers.index(arm.quantizer), order.index(arm.series), _number(arm.n_codes)))
    return arms, notes


def _number(n_codes: str) -> float:
    return float(n_codes) if n_codes.isdigit() else 0.0


def _series_names(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """For each settings the quantizer, with ``key=value`` of the settings that tell methods of this quantizer apart."""
    return names_apart(
        [{key: value for key, value in each.items() if key != N_CODES} for each in settings], "quantizer.name"
    )


def names_apart(settings: Sequence[Mapping[str, str]], by: str) -> list[str]:
    """For each settings the value of the key ``by``, and ``key=value`` of what tells those of one value apart."""
    names = [each.get(by, NONE) for each in settings]
    for name in set(names):
        places = [place for place, other in enumerate(names) if other == name]
        different = {tuple(sorted(settings[place].items())): settings[place] for place in places}
        chosen = telling_keys(list(different.values()))
        for place in places:
            names[place] = ", ".join([name, *(f"{key}={settings[place].get(key, NONE)}" for key in chosen)])
    return names


def telling_keys(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """As few keys as tell several settings, all different, apart.

    A section's name, such as ``assign.name``, goes before an equally good setting that only one of its kinds has.
    """
    chosen: list[str] = []

    def n_told_apart(keys: Sequence[str]) -> int:
        return len({tuple(each.get(key) for key in keys) for each in settings})

    candidates = differing_keys(settings)
    while n_told_apart(chosen) < len(settings):
        best = max(candidates, key=lambda key: n_told_apart([*chosen, key]))
        name = f"{best.split('.')[0]}.name"
        as_good = name in candidates and n_told_apart([*chosen, name]) == n_told_apart([*chosen, best])
        chosen.append(name if as_good else best)
    return chosen


def differing_keys(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose values are not all equal, in the order in which the settings name them."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({each.get(key) for each in settings}) > 1]


def find_baselines(arms: Sequence[Arm], baseline: str | None) -> list[Arm | None]:
    """For each arm the one it is compared with.

    Args:
        arms: of the comparison.
        baseline: the label of an arm, or the id, its beginning or the name of one of its runs: this arm for all. A
            method (a series, or a quantizer that has one series): its arm of the same K, None where it has none; a
            method with a single K is compared with at every K. None: the method of the first arm.

    Raises:
        ConfigError: nothing, or several things, are meant.
    """
    wanted = arms[0].series if baseline is None else baseline
    meant = [arm for arm in arms if arm.label == wanted]
    if not meant:
        series = {arm.series for arm in arms if arm.series == wanted}
        series = series or {arm.series for arm in arms if arm.quantizer == wanted}
        meant = [arm for arm in arms if arm.series in series]
        if len(series) > 1:
            raise ConfigError(_not_one(arms, baseline, f"means {len(series)} methods"))
        if len(meant) > 1:
            by_n_codes = {arm.n_codes: arm for arm in meant}
            return [by_n_codes.get(arm.n_codes) for arm in arms]
    if not meant:
        meant = [arm for arm in arms if any(_is_run(run, wanted) for run in arm.runs)]
    if len(meant) != 1:
        raise ConfigError(_not_one(arms, baseline, f"means {len(meant)} of the compared arms"))
    return [meant[0]] * len(arms)


def _is_run(run: ComparedRun, wanted: str) -> bool:
    return run.record.name == wanted or (len(wanted) >= 3 and run.record.run_id.startswith(wanted))


def _not_one(arms: Sequence[Arm], baseline: str | None, fault: str) -> str:
    labels = dict.fromkeys([*(arm.series for arm in arms), *(arm.label for arm in arms)])
    return f"baseline={baseline}: {fault}; give the id of a run, or one of: {'; '.join(labels)}"
