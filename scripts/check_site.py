"""Whether all that the pages of a built site name is there, and nothing is fetched from elsewhere.

    python scripts/check_site.py build/site

Links, anchors, pictures, scripts, the menu, and formulas that stayed text: the build looks at links between pages
alone.
"""

from __future__ import annotations

import os
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

VERBATIM = ("code", "pre", "script", "style")


class Page(HTMLParser):
    """What a page names, ``(address, whether showing it fetches that)``, its anchors, and formulas that stayed text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.named: list[tuple[str, bool]] = []
        self.formulas: list[str] = []
        self.verbatim = 0
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note anchors and addresses of a tag."""
        self.verbatim += tag in VERBATIM
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("src", "href") and value:
                self.named.append((value, tag != "a"))

    def handle_endtag(self, tag: str) -> None:
        """Leave a tag."""
        self.verbatim -= tag in VERBATIM

    def handle_data(self, data: str) -> None:
        """Note dollars in running text."""
        if "$" in data and not self.verbatim:
            self.formulas.append(data.strip())


def faults(site: Path) -> list[str]:
    """One line per place that is not there or is fetched from elsewhere, with the first page that names it."""
    site = site.resolve()
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    found: dict[str, str] = {}
    for path, page in pages.items():
        found |= {f"{formula} is no formula": str(path.relative_to(site)) for formula in page.formulas}
        for address, fetched in page.named:
            parts = urlsplit(address)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor, where = unquote(parts.fragment), path.relative_to(site)
            if parts.netloc and fetched:
                found.setdefault(f"{address} is fetched from elsewhere", str(where))
            elif parts.scheme or parts.netloc:
                continue
            elif not target.is_file():
                found.setdefault(f"{os.path.relpath(target, site)} is not there", str(where))
            elif anchor and target in pages and anchor not in pages[target].anchors:
                found.setdefault(f"{target.relative_to(site)} has no anchor {anchor}", str(where))
    return [f"{where}: {fault}" for fault, where in found.items()]


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]))
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    sys.exit(bool(wrong))
