"""The table of a comparison as aligned text, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from geovq.comparison.summary import ARM, BASELINE, CEILING, LEVEL, PARTS, Cell, Comparison, Row
from geovq.evaluation.statistics import PairedDifference

NOTHING = "–"
MARKS = {ARM: "", BASELINE: " (baseline)", CEILING: " (ceiling)"}
DIFFERENCE = "difference"
_DIFFERENCE_COLUMNS = ("db", "low_db", "high_db", "p_value", "seed_error_db", "image_error_db", "to", "n_seeds")


def headings(comparison: Comparison) -> list[tuple[str, str]]:
    """Title and unit of each column of the table."""
    metrics = [(f"{c.title} {c.better}".strip(), c.unit) for c in comparison.columns]
    parts = [(PARTS, "dB")] * _has_parts(comparison)
    return [("", ""), ("seeds", ""), *metrics, (DIFFERENCE, f"dB [{LEVEL:.0%}]"), *parts]


def body(comparison: Comparison) -> list[list[str]]:
    """The rows of the table as text, label first."""
    return [
        [
            row.label + MARKS[row.kind],
            str(len(row.runs)),
            *(cell_text(row.cells[column.metric], column.form) for column in comparison.columns),
            difference_text(row),
            *[parts_text(row)] * _has_parts(comparison),
        ]
        for row in comparison.rows
    ]


def _has_parts(comparison: Comparison) -> bool:
    """Whether any difference is over several seeds, so that its two sources of error are known apart."""
    return any(row.difference and row.difference.value.seed_error is not None for row in comparison.rows)


def cell_text(cell: Cell, form: str) -> str:
    """Mean ± standard error, or a dash with its footnotes."""
    if cell.mean is None:
        return NOTHING + marks(cell.notes)
    error = f" ± {cell.error:{form}}" if cell.error else ""
    return f"{cell.mean:{form}}{error}{marks(cell.notes)}"


def difference_text(row: Row) -> str:
    """Signed difference with its interval; 0 by definition for the baseline itself."""
    if row.difference is None:
        return ("0" if row.kind == BASELINE else NOTHING) + marks(row.difference_notes)
    return interval_text(row.difference.value) + marks(row.difference_notes)


def parts_text(row: Row) -> str:
    """The standard errors of a difference from seeds and from images; a dash for one seed."""
    if row.difference is None:
        return NOTHING
    value = row.difference.value
    of_seeds = NOTHING if value.seed_error is None else f"{value.seed_error:.3f}"
    return f"{of_seeds}, {value.image_error:.3f}"


def interval_text(value: PairedDifference) -> str:
    """Signed difference with its interval, a zero without a minus."""
    return f"{value.mean:+z.2f} [{value.low:+z.2f}, {value.high:+z.2f}]"


def marks(notes: Sequence[int]) -> str:
    """The numbers of footnotes, as they stand behind a text."""
    return f" ({','.join(map(str, notes))})" if notes else ""


def numbered(footnotes: Sequence[str]) -> list[str]:
    """Footnotes with their numbers."""
    return [f"({number}) {text}" for number, text in enumerate(footnotes, 1)]


def text_table(comparison: Comparison) -> str:
    """Aligned columns for the terminal, with footnotes."""
    lines = [[title for title, _ in headings(comparison)], [unit for _, unit in headings(comparison)]]
    lines += body(comparison)
    printed = aligned(lines, 2)
    return "\n".join([comparison.title, "", *printed, "", *comparison.remarks, *numbered(comparison.footnotes)])


def aligned(lines: Sequence[Sequence[str]], n_head: int) -> list[str]:
    """Lines of text in columns, the first to the left and the others to the right, a rule below the head.

    A line of a single text is a title: it stands over the columns and does not widen them.
    """
    table = [line for line in lines if len(line) > 1]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    printed = [
        "  ".join(
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        for line in lines
    ]
    printed.insert(n_head, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return printed


def markdown_table(comparison: Comparison) -> str:
    """A page with the table in GitHub's notation, footnotes below."""
    head = [f"{title} ({unit})" if unit else title for title, unit in headings(comparison)]
    notes = [f"{text}\n" for text in (*comparison.remarks, *numbered(comparison.footnotes))]
    return "\n".join([f"## {comparison.title}", "", *markdown_lines(head, body(comparison)), "", *notes])


def markdown_lines(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table in GitHub's notation: labels to the left, everything else to the right."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return [line(head), line(["---", *["---:"] * (len(head) - 1)]), *map(line, lines)]


def csv_table(comparison: Comparison) -> str:
    """Full precision, a row per arm; what is missing stays empty and its reason stands in ``notes``."""
    out = io.StringIO()
    metrics = [column.metric for column in comparison.columns]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            *("label", "kind", "quantizer", "K", "n_runs", "seeds", "run_ids"),
            *(name for metric in metrics for name in (metric, f"{metric}_standard_error")),
            *(f"psnr_difference_{name}" for name in _DIFFERENCE_COLUMNS),
            "notes",
        ]
    )
    for row in comparison.rows:
        arm = row.arms[0] if row.kind != CEILING else None
        difference: list[object] = [""] * len(_DIFFERENCE_COLUMNS)
        if row.difference is not None:
            difference = [*row.difference.value, row.difference.baseline, row.difference.n_seeds]
        numbers = dict.fromkeys(n for cell in row.cells.values() for n in cell.notes) | dict.fromkeys(
            row.difference_notes
        )
        writer.writerow(
            [
                *(row.label, row.kind, arm.quantizer if arm else "", arm.n_codes if arm else "", len(row.runs)),
                " ".join(str(run.seed) for run in row.runs),
                " ".join(run.record.run_id for run in row.runs),
                *("" if v is None else v for m in metrics for v in (row.cells[m].mean, row.cells[m].error)),
                *difference,
                " ".join(comparison.footnotes[number - 1] for number in sorted(numbers)),
            ]
        )
    return out.getvalue()
