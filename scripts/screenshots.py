"""Takes the pictures of README and docs in Chromium: the page of a run, and three panels of the explorer.

    .venv/bin/python scripts/screenshots.py                 # two runs on digits, made first where they are missing
    GEOVQ_ROOT=… .venv/bin/python scripts/screenshots.py    # of the runs below another folder

Needs the test extra (Playwright) and a Chromium. Pictures go to docs/images.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Page

REPOSITORY = Path(__file__).parents[1]
IMAGES = REPOSITORY / "docs" / "images"
ROOT = Path(os.environ.get("GEOVQ_ROOT") or REPOSITORY / "experiments").resolve()
ADDRESS = "http://127.0.0.1:8059"
RUNS = ("quantizer=euclidean", "quantizer=geodesic")
"""The last one is looked at, the other compared with it."""
CENTRAL = """() => {
  const plot = document.querySelector('#map .js-plotly-plot'), box = plot.getBoundingClientRect();
  const {xaxis, yaxis} = plot._fullLayout;
  const all = plot._fullData.flatMap(t => t.customdata.map((token, i) => [token, t.x[i], t.y[i]]));
  const inside = all.filter(([token]) => [5, 6, 9, 10].includes(token % 16) && token > 1600);
  const apart = p => Math.min(...all.filter(q => q !== p).map(q => Math.hypot(p[1] - q[1], p[2] - q[2])));
  const best = inside.slice(0, 300).sort((a, b) => apart(b) - apart(a))[0];
  return [box.left + xaxis._offset + xaxis.l2p(best[1]), box.top + yaxis._offset + yaxis.l2p(best[2])];
}"""
"""Where a token from the middle of an image lies that no other point covers."""


def main() -> None:
    """Make the runs, start the explorer, take the pictures."""
    for words in RUNS:
        subprocess.run([sys.executable, "src/train.py", words], cwd=REPOSITORY, check=True)
    name = next(path.name for path in sorted((ROOT / "runs").glob("digits-geodesic-*")))
    server = [sys.executable, "src/explore.py", "run=latest", "port=8059", "browser=false"]
    process = subprocess.Popen(server, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        next(line for line in process.stderr if line.startswith("explorer: http"))
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1400, "height": 980})
            page.goto((ROOT / "runs" / name / "report.html").as_uri())
            page.screenshot(path=IMAGES / "report_page.png")
            page.goto(ADDRESS)
            explore(page)
            browser.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def explore(page: Page) -> None:
    """Pick a token and go through three panels."""
    page.wait_for_function("document.querySelector('#map .js-plotly-plot')?._fullData?.length > 0")
    page.wait_for_timeout(1000)
    x, y = page.evaluate(CENTRAL)
    page.mouse.move(x, y)
    page.wait_for_selector("#map-tooltip .hovered")
    page.mouse.click(x, y)
    page.wait_for_selector("#cheapest")
    page.mouse.move(10, 10)
    page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / "explorer_token.png")
    page.get_by_text("Codes", exact=True).first.click()
    page.wait_for_selector("#code-grid")
    page.click("#code-grid button >> nth=1")
    page.wait_for_selector(".alternative")
    page.wait_for_timeout(1000)
    page.screenshot(path=IMAGES / "explorer_codes.png")
    page.get_by_text("Compare", exact=True).first.click()
    page.wait_for_selector(".compared")
    page.wait_for_timeout(1000)
    page.screenshot(path=IMAGES / "explorer_compare.png")


if __name__ == "__main__":
    main()
