"""Runs put together: a method is one way to get codes at one K, its runs differ in their seeds alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from geovq.comparison.runs import ComparedRun, is_training_seed
from geovq.errors import ConfigError

# Parameters that say where and how a run went, and values that others refer to: no part of the method.
_NOT_THE_METHOD = (
    *("paths.", "tracking.", "data.root", "data.path", "data.download", "data.steps.", "data.default_grid"),
    *("stages", "stale", "trainer.device", "trainer.threads", "trainer.profile", "trainer.checkpoint_seconds"),
)
QUANTIZER, N_CODES, ASSIGNMENT = "quantizer.name", "quantizer.K", "assign.name"
NONE = "–"
"""A setting that a run does not have."""


@dataclass(frozen=True, eq=False)
class Method:
    """One method at one K, with a run per seed.

    ``series`` names the method without K: methods along a curve of rates share it. It is the quantizer, and the
    settings that distinguish it from others with this quantizer. ``settings`` has the same keys in all methods of a
    comparison.
    """

    series: str
    settings: Mapping[str, str]
    runs: tuple[ComparedRun, ...]

    @property
    def quantizer(self) -> str:
        """Name of the quantizer."""
        return self.settings[QUANTIZER]

    @property
    def n_codes(self) -> str:
        """K."""
        return self.settings[N_CODES]

    @property
    def label(self) -> str:
        """Unique in a comparison."""
        return f"{self.series}, K={self.n_codes}"

    @property
    def with_seeds(self) -> str:
        """The label and the seeds of the runs, for people."""
        return f"{self.label} (seeds {', '.join(str(run.seed) for run in self.runs)})"


def group_seeds(runs: Sequence[ComparedRun]) -> tuple[list[Method], list[str]]:
    """The methods and notes on what is left out: quantizers in the order of their first runs, methods of one quantizer
    side by side in that order too, each by rising K.

    Of runs with equal settings and seeds (their reports differ where the program changed between them) the last
    stays, since twice the same seed is no second sample.
    """
    of_runs = pd.DataFrame([_method_settings(run.record.params) for run in runs]).fillna(NONE)
    groups: dict[tuple[str, ...], dict[tuple[tuple[str, str], ...], ComparedRun]] = {}
    notes = []
    for run, values in zip(runs, of_runs.itertuples(index=False, name=None), strict=True):
        group = groups.setdefault(values, {})
        seeds = tuple(sorted(run.seeds.items()))
        if seeds in group:
            notes.append(f"Run {group[seeds].title} is left out: {run.title} has the same settings and seeds.")
        group[seeds] = run
    settings = of_runs.drop_duplicates()
    names = distinguishing_names(settings.drop(columns=N_CODES), QUANTIZER)
    methods = [
        Method(name, each, tuple(sorted(group.values(), key=lambda run: (run.seed, sorted(run.seeds.items())))))
        for name, each, group in zip(names, settings.to_dict("records"), groups.values(), strict=True)
    ]
    quantizers = [method.quantizer for method in methods]
    methods.sort(key=lambda each: (quantizers.index(each.quantizer), names.index(each.series), _number(each.n_codes)))
    return methods, notes


def _method_settings(params: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a run that describe its method: neither seeds nor places nor devices."""
    own = {key: v for key, v in params.items() if not key.startswith(_NOT_THE_METHOD) and not is_training_seed(key)}
    return own | {key: NONE for key in (QUANTIZER, N_CODES, ASSIGNMENT) if key not in own}


def _number(n_codes: str) -> float:
    return float(n_codes) if n_codes.isdigit() else 0.0


def settings_of(methods: Sequence[Method]) -> pd.DataFrame:
    """A row per method, a column per setting."""
    return pd.DataFrame([method.settings for method in methods])


def distinguishing_names(settings: pd.DataFrame, by: str) -> list[str]:
    """For each row its value of the column ``by``, and ``key=value`` of what distinguishes those of one value."""
    keys = {value: distinguishing_keys(rows) for value, rows in settings.groupby(by)}
    rows = settings.to_dict("records")
    return [", ".join([row[by], *(f"{key}={row[key]}" for key in keys[row[by]])]) for row in rows]


def distinguishing_keys(settings: pd.DataFrame) -> list[str]:
    """As few columns as make any two different rows differ.

    A section's name, such as ``assign.name``, goes before an equally good setting that only one of its kinds has.
    """
    rows = settings.drop_duplicates()
    candidates = differing_keys(rows)
    chosen: list[str] = []

    def n_distinct(keys: Sequence[str]) -> int:
        return len(rows[list(keys)].drop_duplicates()) if keys else 1

    while n_distinct(chosen) < len(rows):
        best = max(candidates, key=lambda key: n_distinct([*chosen, key]))
        name = f"{best.split('.')[0]}.name"
        as_good = name in candidates and n_distinct([*chosen, name]) == n_distinct([*chosen, best])
        chosen.append(name if as_good else best)
    return chosen


def differing_keys(settings: pd.DataFrame) -> list[str]:
    """Columns whose values are not all equal."""
    return [key for key in settings if settings[key].nunique() > 1]


def find_baselines(methods: Sequence[Method], baseline: str | None) -> list[Method | None]:
    """For each method the one it is compared with.

    Args:
        methods: of the comparison.
        baseline: the label of a method at one K, or the id, its beginning or the name of one of its runs: the baseline
            of all. A series, or a quantizer that has one series: the method of the same K, None where it has none; one
            with a single K is compared with at every K. None: the series of the first method.

    Raises:
        ConfigError: nothing, or several things, are meant.
    """
    wanted = methods[0].series if baseline is None else baseline
    meant = [method for method in methods if method.label == wanted]
    if not meant:
        series = {method.series for method in methods if method.series == wanted}
        series = series or {method.series for method in methods if method.quantizer == wanted}
        meant = [method for method in methods if method.series in series]
        if len(series) > 1:
            raise ConfigError(_not_one(methods, baseline, f"{len(series)} methods"))
        if len(meant) > 1:
            by_n_codes = {method.n_codes: method for method in meant}
            return [by_n_codes.get(method.n_codes) for method in methods]
    if not meant:
        meant = [method for method in methods if any(_is_run(run, wanted) for run in method.runs)]
    if len(meant) != 1:
        raise ConfigError(_not_one(methods, baseline, f"{len(meant)} of the compared methods"))
    return [meant[0]] * len(methods)


def _is_run(run: ComparedRun, wanted: str) -> bool:
    return run.record.name == wanted or (len(wanted) >= 3 and run.record.run_id.startswith(wanted))


def _not_one(methods: Sequence[Method], baseline: str | None, meant: str) -> str:
    labels = dict.fromkeys([*(method.series for method in methods), *(method.label for method in methods)])
    return f"baseline={baseline}: means {meant}; give the id of a run, or one of: {'; '.join(labels)}"
