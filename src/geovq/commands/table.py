"""The report as a table for the terminal: codes beside latents without quantization, a unit in every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from geovq.evaluation.evaluator import UNQUANTIZED, Score
from geovq.evaluation.evaluators import SCORES, score_of


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
    rows = [name for score in (*SCORES, *added) for name in metrics if score.named(name)]
    rows += [name for name in metrics if name not in rows]
    lines = [title, f"  {'':<44}{'without quantizer' if is_joint else 'continuous VAE':>18}{'codes':>12}"]
    for name in dict.fromkeys(row.removesuffix(UNQUANTIZED) for row in rows):
        score = score_of(name, added)
        left, value = (
            f"{metrics[each]:{score.form}}" if each in metrics else "" for each in (name + UNQUANTIZED, name)
        )
        unit = " ".join(filter(None, (score.unit, score.better)))
        lines.append(f"  {name:<44}{left:>18}{value:>12}  {unit}".rstrip())
    return "\n".join([*lines, *(f"  {name}: omitted, {reason}" for name, reason in omitted.items())])
