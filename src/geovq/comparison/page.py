"""The comparison as one HTML page that needs nothing beside it: style inside, pictures as data URIs, no scripts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geovq.comparison.methods import differing_keys, settings_of
from geovq.comparison.summary import Comparison
from geovq.comparison.tables import Line, Section, Table


@dataclass(frozen=True)
class Picture:
    """A PNG with what it shows in words; ``missing`` says why there is none."""

    title: str
    png: bytes | None
    description: str
    missing: str = ""

    @property
    def data(self) -> str:
        """The PNG as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png or b'').decode()}"


def html_page(
    comparison: Comparison,
    sections: Sequence[Section],
    pictures: Sequence[Picture],
    origin: str,
    commands: Sequence[str],
) -> str:
    """The page, from ``page.html`` beside this file.

    Args:
        comparison: methods and runs.
        sections: its table, then the two-way tables, if any.
        pictures: in their order.
        origin: which runs were compared and when, in words.
        commands: that made the runs and the comparison.
    """
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        title=f"Comparison: {comparison.title}",
        subtitle=f"{len(comparison.methods)} methods, {len(comparison.runs)} runs: {origin}",
        sections=sections,
        pictures=pictures,
        settings=_differing_settings(comparison),
        runs=_runs(comparison),
        commands=commands,
    )


def _differing_settings(comparison: Comparison) -> Table | None:
    settings = settings_of(comparison.methods)
    keys = differing_keys(settings)
    labels = (method.label for method in comparison.methods)
    lines = [Line([label, *row]) for label, row in zip(labels, settings[keys].itertuples(index=False), strict=True)]
    return Table(["method", *keys], {"": lines}) if keys else None


def _runs(comparison: Comparison) -> Table:
    lines = []
    for method, run in ((each, run) for each in comparison.methods for run in each.runs):
        record = run.record
        texts = [method.label, str(run.seed), record.name, record.run_id, run.report.key, record.tags["geovq.kind"]]
        lines.append(Line(texts))
    return Table(["method", "seed", "run", "id", "report", "kind"], {"": lines})
