"""The autoencoders behind the compared arms: which arms share one, and a short name for each.

What a decoder keeps of latents that are not quantized is the same for every codebook on it, so it stands in the table
once, under the settings that tell this autoencoder from the others – not under the arms that happen to use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from geovq.comparison.arms import N_CODES, NONE, Arm, telling_keys
from geovq.comparison.runs import ComparedRun

_AFTER_TRAINING = ("assign.", "finetune.", "geo.", "transformer.")
"""Settings of what comes after the autoencoder."""


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """One autoencoder of several seeds: its name, the arms on it, and a run for each seed.

    ``series`` is the name without K: autoencoders trained for the rates of several K share it.
    """

    label: str
    series: str
    arms: tuple[Arm, ...]
    runs: tuple[ComparedRun, ...]


def autoencoders(arms: Sequence[Arm]) -> list[Autoencoder]:
    """The autoencoders of the arms that have reconstructions without quantization, in the order of the arms."""
    groups: list[tuple[set[str], list[Arm]]] = []
    for arm in arms:
        if any(run.metric("psnr_continuous") is None for run in arm.runs):
            continue
        keys, members = {run.autoencoder for run in arm.runs}, [arm]
        for group in [group for group in groups if group[0] & keys]:
            keys, members = keys | group[0], [*group[1], *members]
            groups.remove(group)
        groups.append((keys, members))
    found = sorted((members for _, members in groups), key=lambda members: arms.index(members[0]))
    return [
        Autoencoder(
            ", ".join([series, *n_codes]),
            series,
            tuple(members),
            tuple({run.autoencoder: run for arm in members for run in arm.runs}.values()),
        )
        for members, (series, n_codes) in zip(
            found, _names(found, of_all=sum(map(len, found)) == len(arms)), strict=True
        )
    ]


def _names(groups: Sequence[Sequence[Arm]], of_all: bool) -> list[tuple[str, list[str]]]:
    """For each group its kind and the few settings that tell it from others of the kind; and K where K does.

    A single group that holds ``of_all`` the arms needs no telling apart.
    """
    if len(groups) == 1 and of_all:
        return [("continuous autoencoder", [])]
    kinds = [_kind(group) for group in groups]
    names: list[tuple[str, list[str]]] = [(kind, []) for kind in kinds]
    for kind in set(kinds):
        places = [place for place, other in enumerate(kinds) if other == kind]
        settings = _common_settings([groups[place] for place in places])
        if len({tuple(each.items()) for each in settings}) < len(places):  # their settings do not tell them apart
            for place in places:
                names[place] = (f"{kind} of {_listed([arm.label for arm in groups[place]])}", [])
            continue
        chosen = telling_keys(settings)
        for place, each in zip(places, settings, strict=True):
            told = [f"{key}={each[key]}" for key in chosen if key != N_CODES]
            names[place] = (", ".join([kind, *told]), [f"K={each[N_CODES]}"] if N_CODES in chosen else [])
    return names


def _kind(group: Sequence[Arm]) -> str:
    if group[0].runs[0].is_joint:
        return f"continuous autoencoder of {group[0].quantizer}"
    return "continuous VAE"


def _common_settings(groups: Sequence[Sequence[Arm]]) -> list[dict[str, str]]:
    """What an autoencoder can depend on and all arms of a group have in common, in all groups: those of the VAE first,
    then K.
    """
    keys = dict.fromkeys(key for group in groups for arm in group for key in arm.settings)
    usable = [
        key
        for key in keys
        if not key.startswith(_AFTER_TRAINING)
        and all(len({arm.settings.get(key, NONE) for arm in group}) == 1 for group in groups)
    ]
    usable.sort(key=lambda key: 0 if key.startswith("vae.") else 1 if key == N_CODES else 2)
    return [{key: group[0].settings.get(key, NONE) for key in usable} for group in groups]


def _listed(labels: Sequence[str], shown: int = 2) -> str:
    more = f" and {len(labels) - shown} more" if len(labels) > shown else ""
    return "; ".join(labels[:shown]) + more
