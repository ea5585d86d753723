"""The explorer as a person uses it: served by the command, clicked through in Chromium without a network."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tiny import REPOSITORY, TINY, command

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync")
PICKED = """([token]) => { const plot = document.querySelector('#map .js-plotly-plot');
  for (const trace of plot._fullData) { const i = (trace.customdata || []).indexOf(token); if (i >= 0) {
    const axes = plot._fullLayout, box = plot.getBoundingClientRect();
    return [box.left + axes.xaxis._offset + axes.xaxis.l2p(trace.x[i]),
            box.top + axes.yaxis._offset + axes.yaxis.l2p(trace.y[i])]; } } }"""
WORDS = """(root) => [...document.querySelectorAll(root)].map(e => { const range = document.createRange();
  range.selectNodeContents(e); const box = range.getBoundingClientRect(); return [e.textContent, box.x, box.y]; })"""
DRAWN = "document.querySelector('#map .js-plotly-plot')?._fullData?.length > 0"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=[f"--{word}" for word in QUIET])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs: one with everything, one without graph and prior."""
    folder = tmp_path_factory.mktemp("explored")
    for words in (("geo=euclidean", "quantizer=euclidean", "transformer=none"), ()):
        result = command(folder, "train", *TINY, *words)
        assert result.returncode == 0, result.stderr
    return folder


def served(root: Path, port: int, run: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "src/explore.py", f"run={run}", f"port={port}", "trainer.threads=1", "trainer.device=cpu"],
        cwd=REPOSITORY,
        env=os.environ | {"GEOVQ_ROOT": str(root), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("explorer: http"):
            return process, line.split()[1]
    raise AssertionError(f"the explorer ended with {process.wait()}")


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process, address = served(root, 18_050, "digits-geodesic-K16-s0")
    yield process, address
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[[str], Any]]:
    """``visit(address)``: the page, its map drawn; a fault in it, or a question to another host, fails the test."""
    contexts, faults = [], list[str]()

    def visited(address: str) -> Any:
        context = chromium.new_context(viewport={"width": 1400, "height": 1000})
        contexts.append(context)
        context.set_default_timeout(90_000)  # the first answer of a server takes long where much else runs
        page = context.new_page()
        context.route(
            re.compile(f"^(?!{re.escape(address)}|data:|blob:)"),
            lambda route: (faults.append(route.request.url), route.abort()),
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("response", lambda answer: faults.append(answer.url) if answer.status >= 400 else None)
        page.goto(address)
        page.wait_for_function(DRAWN, timeout=60_000)
        return page

    yield visited
    for context in contexts:
        context.close()
    assert faults == []


def pick(page: Any, token: int) -> None:
    """Click a token of the map."""
    x, y = page.evaluate(PICKED, [token])
    page.mouse.move(x, y)
    page.wait_for_selector("#map-tooltip .hovered", timeout=20_000)
    page.mouse.click(x, y)


def turn(page: Any, panel: str) -> None:
    page.get_by_text(panel, exact=True).first.click()


def lone(page: Any) -> list[int]:
    """Two tokens that no other point of the map covers, of different images."""
    places = page.evaluate(
        """() => document.querySelector('#map .js-plotly-plot')._fullData.flatMap(
             trace => trace.customdata.map((token, i) => [token, trace.x[i], trace.y[i]]))"""
    )
    apart = [
        (min((x - u) ** 2 + (y - v) ** 2 for other, u, v in places if other != token), token) for token, x, y in places
    ]
    return [token for _, token in sorted(apart, reverse=True)[:2]]


def test_map_shows_tokens_on_hover_and_colours(server: Any, visit: Callable[[str], Any]) -> None:
    page = visit(server[1])
    assert re.search(r"tokens of \d+ test images", page.inner_text("#map-note"))
    token = lone(page)[0]
    x, y = page.evaluate(PICKED, [token])
    page.mouse.move(x, y)
    page.wait_for_selector("#map-tooltip .hovered")
    assert f"image {token // 16}, row {token % 16 // 4}, column {token % 4}" in page.inner_text("#map-tooltip")
    for colouring in ("code", "KL divergence", "decoded error of the patch"):
        page.click("#colouring")
        page.get_by_text(colouring, exact=True).last.click()
        page.wait_for_function(
            "document.querySelector('#map .js-plotly-plot')._fullData[0].marker.colorbar !== undefined"
        )


def test_controls_are_legible_in_the_dark(server: Any, chromium: Any) -> None:
    page = chromium.new_page(color_scheme="dark")
    page.goto(server[1])
    page.wait_for_function(DRAWN, timeout=60_000)
    turn(page, "Codes")
    for place in ("#split label", "#colouring", "#image", "#tabs .tab--selected"):
        ink, *_ = page.eval_on_selector(place, "e => getComputedStyle(e).color.match(/[\\d.]+/g).map(Number)")
        assert ink > 150, place  # red of 255
    page.close()


def test_lasso_keeps_images_for_the_other_panels(server: Any, visit: Callable[[str], Any]) -> None:
    page = visit(server[1])
    box = page.locator("#map .nsewdrag").first.bounding_box()
    corners = [(0.05, 0.05), (0.95, 0.05), (0.95, 0.5), (0.05, 0.5), (0.05, 0.05)]
    for place, (across, down) in enumerate(corners):
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=4)
        if place == 0:
            page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#lasso-table")
    n_tokens = int(re.search(r"tokens\s+([\d,]+)", page.inner_text("#lasso-table"))[1].replace(",", ""))
    assert 0 < n_tokens < int(re.match(r"[\d,]+", page.inner_text("#map-note"))[0].replace(",", ""))
    kept = page.inner_text("#lasso figcaption >> nth=0")
    turn(page, "Codes")
    page.wait_for_selector("#code-grid")
    assert page.input_value("#image") == kept


def test_token_shows_neighbours_links_and_codewords(server: Any, visit: Callable[[str], Any]) -> None:
    page = visit(server[1])
    assert page.inner_text("#token") == "Click a point of the map."
    pick(page, lone(page)[0])
    page.wait_for_selector("#cheapest")
    assert page.locator("#nearest h4").all_inner_texts() == [
        "latent L2",
        "whitened, pixel error",
        "pull-back, pixel error",
    ]
    assert page.locator("#nearest img").count() == 24
    assert page.locator("#links tbody tr").count() == 8
    rules = [text.partition(":")[0] for text in page.locator("#cheapest h4").all_inner_texts()]
    assert rules == ["own", "euclidean", "whitened", "metric", "sequential", "search"]
    assert "✓" in page.inner_text("#cheapest")
    assert page.locator("#ellipse .js-plotly-plot").is_visible()


def test_path_plays_three_ways(server: Any, visit: Callable[[str], Any]) -> None:
    page = visit(server[1])
    turn(page, "Path")
    assert "Click two points of the map" in page.inner_text("#path")
    for token in lone(page):
        pick(page, token)
    page.wait_for_function("document.querySelectorAll('#lengths tbody tr').length == 3")
    rows = page.locator("#lengths tbody tr").all_inner_texts()
    lengths = {row.split("\t")[0]: float(row.split("\t")[1]) for row in rows}
    assert list(lengths) == ["straight line", "graph path", "geodesic"]
    assert lengths["geodesic"] <= min(lengths.values()) * 1.001
    before = page.get_attribute("#path .moving img >> nth=0", "src")
    page.click("#play")
    page.wait_for_function("([s]) => document.querySelector('#path .moving img').src !== s", arg=[before])
    assert page.inner_text("#play") == "pause"


def test_codes_can_be_changed_and_searched(server: Any, visit: Callable[[str], Any]) -> None:
    page = visit(server[1])
    turn(page, "Codes")
    page.wait_for_selector("#code-grid")
    assert page.locator("#code-grid button").count() == 16
    assert "0 of 16 codes changed" in page.inner_text("#edit-change")
    page.click("#code-grid button >> nth=5")
    page.wait_for_selector(".alternative")
    chosen = page.locator(".alternative:not(.chosen)").last
    code = chosen.inner_text().partition(":")[0].strip()
    chosen.click()
    page.wait_for_function("document.querySelector('#edit-change').innerText.includes('1 of 16 codes changed')")
    assert page.inner_text("#code-grid button >> nth=5") == code
    assert page.locator("#code-grid .changed").count() == 1
    error = float(re.search(r"error ([\d.e-]+)", page.inner_text("#edit-change"))[1])
    page.click("#search-step")
    page.wait_for_function("document.querySelector('#codes').innerText.includes('Search changed the code')")
    assert float(re.search(r"error ([\d.e-]+)", page.inner_text("#edit-change"))[1]) < error
    assert re.search(r"Bits by the prior.*; [\d.]+ in all", page.inner_text("#codes"))
    page.click("#reset-codes")
    page.wait_for_function("document.querySelector('#edit-change').innerText.includes('0 of 16 codes changed')")
    page.fill("#image", "99999")
    page.keyboard.press("Enter")
    page.wait_for_selector("#codes .fault")
    assert "image=99999: the test images go from 0 to" in page.inner_text("#codes .fault")


def test_compare_goes_from_the_mean_to_the_images(server: Any, visit: Callable[[str], Any]) -> None:
    page = visit(server[1])
    turn(page, "Compare")
    page.wait_for_selector("#difference")
    said = page.inner_text("#difference")
    assert re.search(
        r"PSNR: [\d.]+ dB in digits-geodesic-K16-s0, [\d.]+ dB in digits-euclidean-K16-s0; mean difference", said
    )
    page.wait_for_selector(".compared")
    gains = [float(text.replace("−", "-")) for text in page.locator(".compared strong").all_inner_texts()]
    assert gains == sorted(gains, reverse=True)
    bar = page.locator("#histogram .bars .point path").first
    bar.click(force=True)
    page.wait_for_function("document.querySelector('#compare-images h3').innerText.includes('nearest')")


def test_sample_draws_and_completes(server: Any, visit: Callable[[str], Any]) -> None:
    page = visit(server[1])
    turn(page, "Sample")
    page.wait_for_selector("#samples img >> nth=15")
    first = page.get_attribute("#samples img >> nth=0", "src")
    page.fill("#sample-seed", "7")
    page.click("#draw")
    page.wait_for_function("([s]) => document.querySelector('#samples img').src !== s", arg=[first])
    page.fill("#completed-image", "3")
    page.click("#draw")
    page.wait_for_selector("#samples .cell")
    assert "upper 2 of 4 rows of image 3" in page.inner_text("#samples")
    page.fill("#top-k", "999")
    page.click("#draw")
    page.wait_for_selector("#samples .fault")
    assert "top-k=999: there are 16 codes" in page.inner_text("#samples .fault")


def test_two_pages_do_not_disturb_each_other(server: Any, visit: Callable[[str], Any]) -> None:
    first, second = visit(server[1]), visit(server[1])
    pick(first, lone(first)[0])
    first.wait_for_selector("#nearest")
    assert second.inner_text("#token") == "Click a point of the map."


def test_a_run_without_graph_and_prior_says_what_would_build_them(root: Path, visit: Callable[[str], Any]) -> None:
    process, address = served(root, 18_051, "digits-euclidean-K16-s0")
    try:
        page = visit(address)
        tokens = lone(page)
        pick(page, tokens[0])
        page.wait_for_selector("#cheapest")
        assert "python src/train.py data=digits vae=spatial quantizer=geodesic" in page.inner_text("#token")
        turn(page, "Sample")
        page.wait_for_selector("#samples .hint")
        assert "quantizer=euclidean transformer=small" in page.inner_text("#samples")
        turn(page, "Codes")
        page.wait_for_selector("#code-grid")
        assert "no prior was trained" in page.inner_text("#codes")
        moved = root / "artifacts.moved"
        (root / "artifacts").rename(moved)
        try:
            turn(page, "Compare")
            page.wait_for_selector("#compare-panel .fault")
            said = page.inner_text("#compare-panel .fault")
            assert re.search("is not there|no longer there", said), said
        finally:
            moved.rename(root / "artifacts")
    finally:
        process.kill()


def test_the_first_map_is_quick(server: Any, visit: Callable[[str], Any]) -> None:
    begun = time.perf_counter()
    page = visit(server[1])
    page.wait_for_selector("#first-map", state="detached")
    assert time.perf_counter() - begun < 15  # seconds at most on a busy machine; docs/explorer.md says the usual


@pytest.mark.parametrize("width", [1400, 500])
@pytest.mark.parametrize("without", ["_dash-component-suites", "plotly.min.js"])  # before all scripts, before Plotly
def test_the_picture_stands_where_the_map_will(server: Any, chromium: Any, width: int, without: str) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 1000})
    page.route(f"**/*{without}*/**" if without.startswith("_") else f"**/{without}*", lambda route: route.abort())
    page.goto(server[1])
    page.wait_for_function("document.querySelector('#first-map img').naturalWidth > 0")
    if without == "plotly.min.js":
        page.wait_for_selector("#map-panel #first-map")
    picture = page.locator("#first-map img").bounding_box()
    words = page.evaluate(WORDS, "#first-map .line > span, #first-map .legend > span")
    page.unroute_all()
    page.goto(server[1])
    page.wait_for_function(DRAWN, timeout=60_000)
    page.wait_for_selector("#map .legend")
    page.wait_for_selector("#first-map", state="detached")
    for _ in range(50):  # Plotly lays a narrow page out twice, on a busy machine seconds apart
        area = page.locator("#map .nsewdrag").first.bounding_box()
        if picture == pytest.approx(area, abs=1):
            break
        page.wait_for_timeout(100)
    assert picture == pytest.approx(area, abs=1)
    drawn = page.evaluate(WORDS, "#map .xtick text, #map .ytick text, #map .legendtext")
    assert [word for word, *_ in words] == [word for word, *_ in drawn]
    n_ticks = page.locator("#map .xtick text, #map .ytick text").count()
    for (word, *at), (_, *wanted) in list(zip(words, drawn, strict=True))[:n_ticks]:
        assert at == pytest.approx(wanted, abs=2), word
    page.close()


def test_another_colouring_takes_the_picture_away(server: Any, chromium: Any) -> None:
    page, held = chromium.new_page(), list[Any]()
    page.route("**/plotly.min.js*", lambda route: held.append(route))
    page.goto(server[1])
    page.wait_for_selector("#map-panel #first-map")
    page.click("#colouring")
    page.get_by_text("code", exact=True).last.click()
    page.wait_for_selector("#first-map", state="detached")
    for route in held:
        route.continue_()
    page.wait_for_function(f"{DRAWN} && document.querySelector('#map .js-plotly-plot')._fullData[0].marker.colorbar")
    assert page.locator("#first-map").count() == 0
    page.close()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("run=none-such",), "none-such"),
        (("port=99999",), "port=99999"),
        (("run=latest", "host=203.0.113.1"), "host=203.0.113.1 port=8050"),
    ],
)
def test_wrong_words_end_in_one_line(root: Path, words: tuple[str, ...], fault: str) -> None:
    result = command(root, "explore", *words, "browser=false")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert fault in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
