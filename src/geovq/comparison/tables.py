"""The layouts of a comparison: numbers as text with footnotes in aligned columns, Markdown or a page, and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from geovq.comparison.methods import N_CODES, QUANTIZER, Method, differing_keys, settings_of
from geovq.comparison.summary import BASELINE, LEVEL, METHOD, PARTS, Cell, Comparison, Difference
from geovq.page.content import rendered

NOTHING = "–"


@dataclass(frozen=True)
class Line:
    """Texts of one line, the label first; ``kind`` marks the label, such as ``baseline``."""

    texts: Sequence[str]
    kind: str = ""

    @property
    def marked(self) -> list[str]:
        """The texts, with the kind behind the label."""
        label, *rest = self.texts
        return [f"{label} ({self.kind})" if self.kind else label, *rest]


@dataclass(frozen=True)
class Table:
    """A head of titles, units under them (none at all, or one each), and groups of lines by title (may be empty)."""

    head: Sequence[str]
    groups: Mapping[str, Sequence[Line]]
    units: Sequence[str] = ()

    def text(self) -> list[str]:
        """Lines for the terminal: labels to the left, everything else to the right, a rule below the head.

        The title of a group stands over the columns and does not widen them.
        """
        rows: list[list[str]] = [list(head) for head in (self.head, self.units) if head]
        n_head = len(rows)
        for title, lines in self.groups.items():
            indent = "  " * bool(title)
            rows += [[title]] * bool(title)
            rows += [[indent + label, *texts] for label, *texts in (line.marked for line in lines)]
        widths = [max(map(len, column)) for column in zip(*(row for row in rows if len(row) > 1), strict=True)]
        printed = []
        for label, *texts in rows:
            right = (text.rjust(width) for text, width in zip(texts, widths[1:], strict=False))
            printed.append("  ".join([label.ljust(widths[0]), *right]).rstrip())
        printed.insert(n_head, "-" * (sum(widths) + 2 * (len(widths) - 1)))
        return printed

    def markdown(self) -> list[str]:
        """Lines in GitHub's notation."""
        units = self.units or [""] * len(self.head)
        rows = [[f"{title} ({unit})" if unit else title for title, unit in zip(self.head, units, strict=True)]]
        rows.append(["---", *["---:"] * (len(self.head) - 1)])
        for title, lines in self.groups.items():
            rows += [[f"**{title}**", *[""] * (len(self.head) - 1)]] * bool(title)
            rows += [[label.replace("  ", "&emsp;"), *texts] for label, *texts in (line.marked for line in lines)]
        return [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |" for row in rows]


@dataclass
class Section:
    """Tables under a title, with remarks and with footnotes, numbered in the order of the references to them."""

    title: str
    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)

    def marks(self, notes: Sequence[str]) -> str:
        """The numbers of footnotes, as they stand behind a text."""
        self.footnotes += [note for note in notes if note not in self.footnotes]
        numbers = [str(self.footnotes.index(note) + 1) for note in notes]
        return f" ({','.join(numbers)})" if numbers else ""

    def cell(self, cell: Cell, form: str) -> str:
        """Mean ± standard error, or a dash with its footnotes."""
        error = f" ± {cell.error:{form}}" if cell.error else ""
        return (NOTHING if cell.mean is None else f"{cell.mean:{form}}{error}") + self.marks(cell.notes)

    def difference(self, difference: Difference) -> str:
        """Signed difference with its interval, a zero without a minus; a dash where there is none."""
        mean, low, high, *_ = difference.value or (None,) * 3
        text = NOTHING if mean is None else f"{mean:+z.2f} [{low:+z.2f}, {high:+z.2f}]"
        return text + self.marks(difference.notes)

    def text(self) -> str:
        """For the terminal."""
        tables = [line for table in self.tables for line in (*table.text(), "")]
        return "\n".join([self.title, "", *tables, *self._notes()])

    def markdown(self, heading: str = "###") -> str:
        """In GitHub's notation."""
        tables = [line for table in self.tables for line in (*table.markdown(), "")]
        return "\n".join([f"{heading} {self.title}", "", *tables, *(f"{text}\n" for text in self._notes())])

    def _notes(self) -> list[str]:
        return [*self.remarks, *(f"({number}) {text}" for number, text in enumerate(self.footnotes, 1))]


def comparison_section(comparison: Comparison) -> Section:
    """The table of a comparison."""
    section = Section(comparison.title, remarks=list(comparison.remarks))
    known = [row.difference.value for row in comparison.rows if row.difference and row.difference.value]
    parts = any(value.seed_error is not None for value in known)  # over several seeds: both sources of error are known
    lines = []
    for row in comparison.rows:
        texts = [row.of.label, str(len(row.of.runs))]
        texts += [section.cell(row.cells[column.name], column.form) for column in comparison.columns]
        texts.append(section.difference(row.difference) if row.difference else "0" if row.kind == BASELINE else NOTHING)
        texts += [_parts_text(row.difference)] * parts
        lines.append(Line(texts, "" if row.kind == METHOD else row.kind))
    head = ["", "seeds", *(f"{c.title} {c.better}".strip() for c in comparison.columns), "difference"]
    units = ["", "", *(column.unit for column in comparison.columns), f"dB [{LEVEL:.0%}]"]
    section.tables = [Table(head + [PARTS] * parts, {"": lines}, units + ["dB"] * parts)]
    return section


def _parts_text(difference: Difference | None) -> str:
    """The standard errors of a difference from seeds and from images; a dash for one seed."""
    if difference is None or difference.value is None:
        return NOTHING
    *_, of_seeds, of_images = difference.value
    return f"{NOTHING if of_seeds is None else f'{of_seeds:.3f}'}, {of_images:.3f}"


def comparison_csv(comparison: Comparison) -> str:
    """Full precision, a row per method; what is missing stays empty and its reason stands in ``notes``."""
    order = list(dict.fromkeys(note for row in comparison.rows for note in row.notes))
    records = []
    for row in comparison.rows:
        settings = row.of.settings if isinstance(row.of, Method) else {}
        record: dict[str, object] = {"label": row.of.label, "kind": row.kind}
        record |= {"quantizer": settings.get(QUANTIZER), "K": settings.get(N_CODES), "n_runs": len(row.of.runs)}
        record["seeds"] = " ".join(str(run.seed) for run in row.of.runs)
        record["run_ids"] = " ".join(run.record.run_id for run in row.of.runs)
        for name, cell in row.cells.items():
            record |= {name: cell.mean, f"{name}_standard_error": cell.error}
        record |= {f"psnr_difference_{name}": value for name, value in values_of(row.difference, "db").items()}
        records.append(record | {"notes": " ".join(sorted(row.notes, key=order.index))})
    return csv_text(records)


def values_of(difference: Difference | None, mean: str) -> dict[str, object]:
    """The numbers of a difference by their names in a CSV file, of which ``mean`` is that of the first."""
    value = difference and difference.value
    names = (mean, "low_db", "high_db", "p_value", "seed_error_db", "image_error_db")
    known = difference if value else None
    numbers = dict(zip(names, value or [None] * len(names), strict=True))
    return numbers | {"to": known and known.baseline, "n_seeds": known and known.n_seeds}


def csv_text(records: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> str:
    """Records as CSV, with these columns or those of the first one; floats with all their digits, None empty."""
    frame = pd.DataFrame(records, columns=columns or list(records[0]), dtype=object)
    return str(frame.to_csv(index=False, lineterminator="\n"))


class Picture(NamedTuple):
    """A PNG with what it shows in words; without one, the words say why."""

    title: str
    png: bytes | None
    words: str


def html_page(
    comparison: Comparison,
    sections: Sequence[Section],
    pictures: Sequence[Picture],
    origin: str,
    commands: Sequence[str],
) -> str:
    """One page that needs nothing beside it, from ``page.html`` beside this file.

    ``sections`` are the table and the two-way tables; ``origin`` says which runs were compared and when, ``commands``
    made the runs and the comparison.
    """
    methods = comparison.methods
    settings = settings_of(methods)
    differing = settings[differing_keys(settings)]
    values = zip(methods, differing.itertuples(index=False), strict=True)
    runs = []
    for method, run in ((each, run) for each in methods for run in each.runs):
        record = run.record
        texts = [method.label, str(run.seed), record.name, record.run_id, run.report.key, record.tags["geovq.kind"]]
        runs.append(Line(texts))
    return rendered(
        Path(__file__).with_name("page.html"),
        title=f"Comparison: {comparison.title}",
        subtitle=f"{len(methods)} methods, {len(runs)} runs: {origin}",
        sections=sections,
        pictures=pictures,
        settings=Table(["method", *differing], {"": [Line([method.label, *row]) for method, row in values]}),
        runs=Table(["method", "seed", "run", "id", "report", "kind"], {"": runs}),
        commands=commands,
    )
