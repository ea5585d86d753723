"""The comparison as one HTML page that needs nothing beside it: style inside, pictures as data URIs, no scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from geovq.comparison.arms import NONE, Arm, differing_keys
from geovq.comparison.factorial import Factorial
from geovq.comparison.factorial_tables import parts, remarks, title_of
from geovq.comparison.summary import CEILING, Comparison
from geovq.comparison.tables import body, headings

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --faint: #62676e; --line: #d9dce0; --paper: #ffffff;
  --raised: #f4f6f8; --accent: #0060a0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --faint: #a0a6ad; --line: #3a3f45; --paper: #16181b;
  --raised: #202429; --accent: #7fbfee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p, li { max-width: 60rem; }
.faint, figcaption { color: var(--faint); font-size: .9rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child { text-align: left; }
.text td { text-align: left; }
thead th { background: var(--raised); font-weight: 600; vertical-align: bottom; }
thead small { display: block; font-weight: 400; color: var(--faint); }
tbody th { font-weight: 500; }
tr.baseline > *, tr.group > * { background: var(--raised); }
tr.group > * { font-weight: 600; text-align: left; }
tbody th.step { padding-left: 2rem; }
.scroll + .scroll { margin-top: .75rem; }
tr.ceiling > * { font-style: italic; color: var(--faint); }
.mark { font-size: .75rem; font-style: normal; color: var(--accent); border: 1px solid currentColor;
  border-radius: 3px; padding: 0 .3em; margin-left: .4em; }
figure { margin: 0; }
figure img { display: block; max-width: none; }
figure .scroll { background: #ffffff; padding: .5rem; }
code, pre { font: .85em/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; background: var(--raised); padding: .75rem; border-radius: 6px; }
"""


@dataclass(frozen=True)
class Picture:
    """A PNG with what it shows in words; ``missing`` says why there is none."""

    title: str
    png: bytes | None
    description: str
    missing: str = ""


def html_page(
    comparison: Comparison,
    factorials: Sequence[Factorial],
    pictures: Sequence[Picture],
    origin: str,
    date: str,
    commands: Sequence[str],
) -> str:
    """The page.

    Args:
        comparison: table, footnotes, arms.
        factorials: two-way tables, if any, below the table.
        pictures: in their order.
        origin: which runs were compared, in words.
        date: of the comparison.
        commands: that made the runs and the comparison.
    """
    title = f"Comparison: {comparison.title}"
    n_runs = len(comparison.runs)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<header><h1>{escape(title)}</h1>",
            f'<p class="faint">{escape(f"{len(comparison.arms)} arms, {n_runs} runs: {origin}. {date}")}</p></header>',
            "<main>",
            _section("Table", _numbers(comparison) + _notes(comparison.remarks, comparison.footnotes)),
            *(_section(title_of(each), _factorial(each)) for each in factorials),
            *(_section(picture.title, _figure(picture)) for picture in pictures),
            _section("Settings that differ", _settings(comparison.arms)),
            _section("Runs", _runs(comparison)),
            _section("Commands", f"<pre>{escape(chr(10).join(commands))}</pre>"),
            "</main></body></html>",
            "",
        ]
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>"


def _numbers(comparison: Comparison) -> str:
    head = "".join(
        f'<th scope="col">{escape(title)}<small>{escape(unit)}</small></th>' for title, unit in headings(comparison)
    )
    lines = []
    for row, cells in zip(comparison.rows, body(comparison), strict=True):
        mark = "" if row.kind == "arm" else f'<span class="mark">{row.kind}</span>'
        values = "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
        lines.append(f'<tr class="{row.kind}"><th scope="row">{escape(row.label)}{mark}</th>{values}</tr>')
    return _table(head, lines)


def _table(head: str, lines: Sequence[str], kind: str = "numbers") -> str:
    rows = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>\n"
    )


def _notes(remarks: Sequence[str], footnotes: Sequence[str]) -> str:
    """Remarks, and footnotes under the numbers that the cells refer to."""
    sentences = "".join(f"<p>{escape(text)}</p>\n" for text in remarks)
    notes = "".join(f"<li>{escape(text)}</li>\n" for text in footnotes)
    return f'<div class="faint">{sentences}{f"<ol>{notes}</ol>" * bool(notes)}</div>\n'


def _factorial(factorial: Factorial) -> str:
    tables = []
    for part in parts(factorial):
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in part.head)
        lines = []
        for section in part.sections:
            if section.title:
                lines.append(f'<tr class="group"><th colspan="{len(part.head)}">{escape(section.title)}</th></tr>')
            for label, *cells in section.lines:
                values = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
                indent = ' class="step"' * label.startswith(" ")
                lines.append(f'<tr><th scope="row"{indent}>{escape(label.strip())}</th>{values}</tr>')
        tables.append(_table(head, lines))
    return "".join(tables) + _notes(remarks(factorial), factorial.footnotes)


def _figure(picture: Picture) -> str:
    if picture.png is None:
        return f"<p>{escape(picture.missing)}</p>"
    data = base64.b64encode(picture.png).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(picture.description)}">'
    return (
        f'<figure><div class="scroll" tabindex="0">{image}</div>\n'
        f"<figcaption>{escape(picture.description)}</figcaption></figure>\n"
    )


def differing_settings(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Setting to its value in each arm, for the settings that are not the same in all."""
    settings: list[Mapping[str, str]] = [arm.settings for arm in arms]
    return {key: [each.get(key, NONE) for each in settings] for key in differing_keys(settings)}


def _settings(arms: Sequence[Arm]) -> str:
    differing = differing_settings(arms)
    if not differing:
        return "<p>None: the runs differ in their seeds alone.</p>"
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("arm", *differing))
    lines = [
        f'<tr><th scope="row">{escape(arm.label)}</th>'
        + "".join(f"<td>{escape(values[place])}</td>" for values in differing.values())
        + "</tr>"
        for place, arm in enumerate(arms)
    ]
    return _table(head, lines, "text")


def _runs(comparison: Comparison) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in ("arm", "seed", "run", "id", "report", "kind"))
    lines = [
        f'<tr><th scope="row">{escape(row.label)}</th>'
        + "".join(
            f"<td>{escape(value)}</td>"
            for value in (
                str(run.seed),
                run.record.name,
                run.record.run_id,
                run.report.key,
                run.record.tags["geovq.kind"],
            )
        )
        + "</tr>"
        for row in comparison.rows
        if row.kind != CEILING
        for run in row.runs
    ]
    return _table(head, lines, "text")
