"""How long the explorer keeps a person waiting, in headless Chromium (so without a graphics card).

    python src/explore.py run=latest browser=false &
    python benchmarks/explorer.py                      # or with another address

Prints medians: until the picture of the map is painted in a fresh browser; until the map itself is drawn, in a fresh
browser and again; until the answer to a click on a token has come; until the first ways between two tokens are seen.
Needs the test extra and Chromium.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from typing import Any

from playwright.sync_api import sync_playwright

DRAWN = "document.querySelector('#map .js-plotly-plot')?._fullData?.length > 0"
SEEN = """new PerformanceObserver(list => list.getEntries().forEach(entry => {
  if (entry.element?.closest('#first-map')) window.seen ??= performance.timeOrigin + entry.startTime;
})).observe({type: 'largest-contentful-paint', buffered: true})"""
REFINED = "!document.querySelector('#path-panel').innerText.includes('being refined')"
PLACES = """() => { const plot = document.querySelector('#map .js-plotly-plot'), box = plot.getBoundingClientRect();
  const {xaxis, yaxis} = plot._fullLayout, trace = plot._fullData[0];
  return [...Array(8).keys()].map(i => [box.left + xaxis._offset + xaxis.l2p(trace.x[7 * i]),
                                        box.top + yaxis._offset + yaxis.l2p(trace.y[7 * i])]); }"""


def first_map(page: Any, address: str) -> float:
    begun = time.perf_counter()
    page.goto(address)
    page.wait_for_function(DRAWN, polling=20)
    return time.perf_counter() - begun


def first_visit(browser: Any, address: str) -> tuple[float, float]:
    """Seconds until the picture is painted and until the map is drawn."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page, begun = context.new_page(), time.time()
    page.add_init_script(SEEN)
    drawn = first_map(page, address)
    seen = page.evaluate("window.seen") / 1000 - begun
    context.close()
    return seen, drawn


def first_ways(page: Any, x: float, y: float) -> float:
    """Seconds from a click on the second of two tokens until the lengths of a new pair stand there."""
    page.wait_for_function(REFINED, timeout=60_000)
    page.mouse.move(x, y)
    page.wait_for_timeout(500)
    page.evaluate("window.before = document.querySelector('#lengths')?.innerText")
    begun = time.perf_counter()
    page.mouse.click(x, y)
    page.wait_for_function(
        "![undefined, window.before].includes(document.querySelector('#lengths')?.innerText)", polling=5
    )
    return time.perf_counter() - begun


def main(address: str) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        seen, fresh = zip(*(first_visit(browser, address) for _ in range(5)), strict=True)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        again = [first_map(page, address) for _ in range(6)][1:]
        page.wait_for_timeout(2000)
        answers = []
        for x, y in page.evaluate(PLACES):
            page.mouse.move(x, y)
            page.wait_for_timeout(500)
            with page.expect_request_finished(lambda request: '"id":"token"' in (request.post_data or "")) as request:
                page.mouse.click(x, y)
            answers.append(request.value.timing["responseEnd"] / 1000)
            page.wait_for_timeout(1000)
        page.get_by_text("Path", exact=True).first.click()
        ways = [first_ways(page, *place) for place in page.evaluate(PLACES)][1:]
        browser.close()
    rows = {"map visible, fresh browser": seen, "first map, fresh browser": fresh, "first map, again": again}
    rows |= {"click on a token": answers, "path between two tokens": ways}
    for name, seconds in rows.items():
        print(f"{name:<26} {statistics.median(seconds):.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8050")
