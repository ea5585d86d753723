"""The reference page of all scores, from their declarations:  python -m geovq.evaluation.reference."""

from __future__ import annotations

import inspect

from geovq.evaluation.evaluators import OURS


def reference() -> str:
    """Markdown: for each evaluator its scores with title, unit, which way is better, and definition; what it needs."""
    lines = ["# Scores of a report", "", "Made by `scripts/make_reference.sh` from the declarations: edit those."]
    for evaluator in OURS:
        lines += ["", f"## {inspect.getdoc(evaluator)}", ""]
        needs = [str(inspect.getdoc(need)) for need in evaluator.needs]
        lines += [f"Needs {'; '.join(needs)}.", ""] if needs else []
        lines += ["|name|title|unit|better|definition|", "|---|---|---|---|---|"]
        for score in evaluator.scores:
            cells = (f"`{score.name}`", score.title, score.unit, score.better, score.description)
            lines.append(f"|{'|'.join(cell or '–' for cell in cells)}|")
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference())
