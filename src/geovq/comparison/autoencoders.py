"""The autoencoders behind the compared methods: which methods share one, and a short name for each.

Its unquantized reconstruction is the same for every codebook on it, so it stands in the table once, under the settings
that distinguish this autoencoder from the others – not under the methods that happen to use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from geovq.comparison.methods import N_CODES, Method, distinguishing_keys, settings_of
from geovq.comparison.runs import ComparedRun

_AFTER_TRAINING = ("assign.", "finetune.", "geo.", "transformer.")
"""Settings of what comes after the autoencoder."""


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """One autoencoder of several seeds: its name, the methods on it, and a run for each seed.

    ``series`` is the name without K: autoencoders trained for the rates of several K share it.
    """

    label: str
    series: str
    methods: tuple[Method, ...]
    runs: tuple[ComparedRun, ...]


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
    if len(found) == 1 and len(found[0]) == len(methods):
        return [_autoencoder(found[0], "continuous autoencoder", "")]
    names: dict[int, tuple[str, str]] = {}
    kinds = [_kind(members) for members in found]
    for kind in set(kinds):
        places = [place for place, other in enumerate(kinds) if other == kind]
        names |= dict(zip(places, _names(kind, [found[place] for place in places]), strict=True))
    return [_autoencoder(members, *names[place]) for place, members in enumerate(found)]


def _autoencoder(members: Sequence[Method], series: str, n_codes: str) -> Autoencoder:
    runs = {run.autoencoder: run for method in members for run in method.runs}
    return Autoencoder(series + n_codes, series, tuple(members), tuple(runs.values()))


def _kind(members: Sequence[Method]) -> str:
    of_quantizer = members[0].runs[0].is_joint
    return f"continuous autoencoder of {members[0].quantizer}" if of_quantizer else "continuous VAE"


def _names(kind: str, groups: Sequence[Sequence[Method]]) -> list[tuple[str, str]]:
    """For each group its kind with the few settings that distinguish it from the others; and K where K does.

    An autoencoder can depend on the settings that all methods of a group have in common: those of the VAE are tried
    first, then K.
    """
    of_group = [place for place, members in enumerate(groups) for _ in members]
    settings = settings_of([method for members in groups for method in members]).groupby(of_group)
    is_common = settings.nunique().eq(1).all()
    usable = [key for key in is_common.index[is_common] if not key.startswith(_AFTER_TRAINING)]
    usable.sort(key=lambda key: 0 if key.startswith("vae.") else 1 if key == N_CODES else 2)
    common = settings.first()[usable]
    if len(common.drop_duplicates()) < len(groups):
        return [(f"{kind} of {_listed([method.label for method in members])}", "") for members in groups]
    keys = distinguishing_keys(common)
    names = []
    for row in common.to_dict("records"):
        series = ", ".join([kind, *(f"{key}={row[key]}" for key in keys if key != N_CODES)])
        names.append((series, f", K={row[N_CODES]}" if N_CODES in keys else ""))
    return names


def _listed(labels: Sequence[str], shown: int = 2) -> str:
    more = f" and {len(labels) - shown} more" if len(labels) > shown else ""
    return "; ".join(labels[:shown]) + more
