"""Runs put together: a method is one way to get codes at one K, its runs differ in their seeds alone.

Methods can stand on one autoencoder. Its unquantized reconstruction is the same for every codebook on it, so it stands
in the table once, under the settings that distinguish this autoencoder from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from geovq.comparison.runs import ComparedRun, is_training_seed
from geovq.errors import ConfigError

# Parameters that say where and how a run went, and values that others refer to: no part of the method.
_NOT_THE_METHOD = (
    *("paths.", "tracking.", "data.root", "data.path", "data.download", "data.steps.", "data.default_"),
    *("stages", "stale", "trainer.device", "trainer.threads", "trainer.profile", "trainer.checkpoint_seconds"),
)
_AFTER_AUTOENCODER = ("assign.", "finetune.", "geo.", "transformer.", "prior.")
QUANTIZER, N_CODES, ASSIGNMENT = "quantizer.name", "quantizer.K", "assign.name"
NONE = "–"
"""A setting that a run does not have."""


@dataclass(frozen=True, eq=False)
class Method:
    """One method at one K, with a run per seed.

    ``series`` names the method without K: methods along a curve of rates share it. It is the quantizer, and the
    settings that distinguish it from others with this quantizer. ``label`` is unique in a comparison, and ``settings``
    has the same keys in all its methods.
    """

    label: str
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
    def methods(self) -> tuple[Method, ...]:
        """Itself, as an autoencoder has the methods on it."""
        return (self,)


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """One autoencoder of several seeds: its name and the methods on it.

    ``series`` is the name without K: autoencoders trained for the rates of several K share it.
    """

    label: str
    series: str
    methods: tuple[Method, ...]

    @property
    def runs(self) -> tuple[ComparedRun, ...]:
        """A run for each seed of the autoencoder."""
        return tuple({run.autoencoder: run for method in self.methods for run in method.runs}.values())


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
    methods = []
    for name, each, group in zip(names, settings.to_dict("records"), groups.values(), strict=True):
        members = sorted(group.values(), key=lambda run: (run.seed, sorted(run.seeds.items())))
        methods.append(Method(f"{name}, K={each[N_CODES]}", name, each, tuple(members)))
    quantizers = [method.quantizer for method in methods]
    methods.sort(key=lambda each: (quantizers.index(each.quantizer), names.index(each.series), _number(each.n_codes)))
    return methods, notes


def _method_settings(params: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a run that describe its method: neither seeds nor places nor devices."""
    always = dict.fromkeys((QUANTIZER, N_CODES, ASSIGNMENT), NONE)
    own = {key: v for key, v in params.items() if not key.startswith(_NOT_THE_METHOD) and not is_training_seed(key)}
    return always | own


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


def distinguishing_keys(settings: pd.DataFrame, place: Callable[[str], int] = lambda key: 0) -> list[str]:
    """As few columns as make any two different rows differ; of equally good ones that of the lowest ``place``.

    A section's name, such as ``assign.name``, goes before an equally good setting that only one of its kinds has.
    """
    rows = settings.drop_duplicates()
    candidates = sorted(differing_keys(rows), key=place)
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
    """Columns whose values are not all equal, in the order in which the rows come to have them."""
    keys = sorted(key for key in settings if settings[key].nunique() > 1)
    return sorted(keys, key=lambda key: int((settings[key] != NONE).to_numpy().argmax()))


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
    meanings = (
        [method for method in methods if method.label == wanted],
        [method for method in methods if method.series == wanted],
        [method for method in methods if method.quantizer == wanted],
    )
    meant = next(filter(None, meanings), [])
    n_series = len({method.series for method in meant})
    if len(meant) > 1 and n_series == 1:
        by_n_codes = {method.n_codes: method for method in meant}
        return [by_n_codes.get(method.n_codes) for method in methods]
    meant = meant or [method for method in methods if any(_is_run(run, wanted) for run in method.runs)]
    if len(meant) != 1:
        fault = f"{n_series} methods" if n_series else f"{len(meant)} of the compared methods"
        there = "; ".join(
            dict.fromkeys([*(method.series for method in methods), *(method.label for method in methods)])
        )
        raise ConfigError(f"baseline={baseline}: means {fault}; give the id of a run, or one of: {there}")
    return [meant[0] for _ in methods]


def _is_run(run: ComparedRun, wanted: str) -> bool:
    return run.record.name == wanted or (len(wanted) >= 3 and run.record.run_id.startswith(wanted))


def autoencoders(methods: Sequence[Method]) -> list[Autoencoder]:
    """The autoencoders that have an unquantized reconstruction, in the order of their first methods."""
    groups: list[tuple[set[str], list[Method]]] = []
    for method in methods:
        if any(run.metric("psnr_continuous") is None for run in method.runs):
            continue
        keys, members = {run.autoencoder for run in method.runs}, [method]
        for group in [group for group in groups if group[0] & keys]:
            keys, members = keys | group[0], [*group[1], *members]
            groups.remove(group)
        groups.append((keys, members))
    found = sorted((members for _, members in groups), key=lambda members: methods.index(members[0]))
    kinds = [
        f"continuous autoencoder of {first.quantizer}" if first.runs[0].is_joint else "continuous VAE"
        for first, *_ in found
    ]
    if len(found) == 1 and len(found[0]) == len(methods):
        kinds = ["continuous autoencoder"]
    names: dict[int, tuple[str, str]] = {}
    for kind in set(kinds):
        places = [place for place, other in enumerate(kinds) if other == kind]
        names |= dict(zip(places, _names(kind, [found[place] for place in places]), strict=True))
    return [Autoencoder(names[place][0], names[place][1], tuple(members)) for place, members in enumerate(found)]


def _names(kind: str, groups: Sequence[Sequence[Method]]) -> list[tuple[str, str]]:
    """Label and series of each group: its kind and the few settings that distinguish it from others of its kind.

    An autoencoder can depend on the settings that all methods of a group have in common: those of the VAE
    are tried first, then K, which the series does not name.
    """
    of_group = [place for place, members in enumerate(groups) for _ in members]
    settings = settings_of([method for members in groups for method in members]).groupby(of_group)
    is_common = settings.nunique().eq(1).all()
    usable = [key for key in is_common.index[is_common] if not key.startswith(_AFTER_AUTOENCODER)]
    common = settings.first()[usable]
    names: list[tuple[str, str]] = []
    if len(common.drop_duplicates()) < len(groups):  # such as after a change of the program
        for members in groups:
            more = f" and {len(members) - 2} more" if len(members) > 2 else ""
            name = f"{kind} of {'; '.join(method.label for method in members[:2])}{more}"
            names.append((name, name))
        return names
    keys = distinguishing_keys(common, lambda key: 0 if key.startswith("vae.") else 1 if key == N_CODES else 2)
    for row in common.to_dict("records"):
        series = ", ".join([kind, *(f"{key}={row[key]}" for key in keys if key != N_CODES)])
        names.append((f"{series}, K={row[N_CODES]}" if N_CODES in keys else series, series))
    return names
