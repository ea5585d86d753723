"""The report as tables for the terminal: codes beside latents without quantization, a unit in every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from geovq.evaluation.evaluator import GROUPS, SAMPLES, UNQUANTIZED, Score
from geovq.evaluation.evaluators import SCORES, score_of
from geovq.evaluation.generation import ERROR, FLOORS, RFID, TRAINING


def report_table(
    title: str,
    metrics: Mapping[str, float],
    omitted: Mapping[str, str],
    added: Sequence[Score] = (),
    *,
    is_joint: bool = False,
) -> str:
    """Plain text: every score by name in the order of their declarations, then what is left out and why.

    ``added`` declares scores that are not ours. A quantizer trained with its autoencoder (``is_joint``) has no VAE
    beside it, but that autoencoder without the quantizer.
    """
    lines = [title, _row("", unquantized_title(is_joint), "codes", 44)]
    for score in declared(metrics, added):
        lines.append(_row(score.name, *texts(score, metrics), 44, score))
    return "\n".join([*lines, *(f"  {name}: omitted, {reason}" for name, reason in omitted.items())])


def short_table(
    title: str,
    metrics: Mapping[str, float],
    omitted: Mapping[str, str],
    added: Sequence[Score] = (),
    *,
    is_joint: bool = False,
) -> str:
    """The scores of a report for the end of a run, by group and title; reasons for those that are not measured.

    Arguments are those of ``report_table``.
    """
    lines, floors = [title, _row("", unquantized_title(is_joint), "codes", 28)], _floor_lines(metrics, added)
    for group, scores in short_rows(metrics, added).items():
        lines.append(group)
        shown = [each for each in scores if each.at_the_end and not (floors and RFID.named(each.name))]  # there already
        lines += [_row(score.title, *texts(score, metrics), 28, score) for score in shown]
        if group == SAMPLES:
            lines += floors
        missing: dict[str, list[str]] = {}
        for name, reason in omitted.items():
            score = score_of(name, added)
            if score.group == group and score.at_the_end and not name.endswith(UNQUANTIZED):
                missing.setdefault(reason, []).append(score.title)
        lines += [f"  {', '.join(titles)}: omitted, {reason}" for reason, titles in missing.items()]
    return "\n".join(lines)


def short_rows(metrics: Mapping[str, float], added: Sequence[Score] = ()) -> dict[str, list[Score]]:
    """The scores of the short table by group, but for those that stand beside their floors."""
    shown = [each for each in declared(metrics, added) if not _has_floors(each, metrics)]
    return {group: [each for each in shown if each.group == group] for group in GROUPS}


def floor_rows(metrics: Mapping[str, float], added: Sequence[Score] = ()) -> list[tuple[Score, list[str]]]:
    """Scores of samples, each with its texts on the sets of ``FLOORS`` and, last, on samples, with their error."""
    rows = []
    for score in declared(metrics, added):
        if not _has_floors(score, metrics):
            continue
        names = [score.name + suffix for suffix in (*FLOORS.values(), "")]
        values = [f"{metrics[name]:{score.form}}" if name in metrics else "" for name in names]
        if score.name + ERROR in metrics:
            values[-1] += f" ± {metrics[score.name + ERROR]:.2g}"
        rows.append((score, values))
    return rows


def _has_floors(score: Score, metrics: Mapping[str, float]) -> bool:
    return score.group == SAMPLES and score.name + TRAINING in metrics


def _floor_lines(metrics: Mapping[str, float], added: Sequence[Score]) -> list[str]:
    rows = [row for row in floor_rows(metrics, added) if row[0].at_the_end]
    if not rows:
        return []
    heads = [*FLOORS, "samples"]
    of = f"{metrics['n_compared_images']:.0f} images in each set" if "n_compared_images" in metrics else ""
    lines = [(of, heads, ""), *((score.title, values, score.better) for score, values in rows)]
    return [
        f"  {name:<32}{''.join(f'{each:>16}' for each in values)}  {better}".rstrip() for name, values, better in lines
    ]


def declared(metrics: Mapping[str, float], added: Sequence[Score] = ()) -> list[Score]:
    """The scores of a report in the order of their declarations, then others; unquantized ones with those of codes."""
    rows = [name for score in (*SCORES, *added) for name in metrics if score.named(name)]
    rows += [name for name in metrics if name not in rows]
    return [score_of(name, added) for name in dict.fromkeys(row.removesuffix(UNQUANTIZED) for row in rows)]


def texts(score: Score, metrics: Mapping[str, float]) -> tuple[str, str]:
    """How a score is written: without quantization, and of codes; empty where it is not measured."""
    without, of_codes = (
        f"{metrics[name]:{score.form}}" if name in metrics else "" for name in (score.name + UNQUANTIZED, score.name)
    )
    return without, of_codes


def unquantized_title(is_joint: bool) -> str:
    """What is beside the codes."""
    return "without quantizer" if is_joint else "continuous VAE"


def _row(label: str, left: str, value: str, width: int, score: Score | None = None) -> str:
    unit = " ".join(filter(None, (score.unit, score.better))) if score else ""
    return f"  {label:<{width}}{left:>18}{value:>12}  {unit}".rstrip()
