"""Lists in the documentation are those of the code: stages, options, keys, scripts, folders."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from geovq.pipeline.stages import STAGES

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"
DOCS = REPOSITORY / "docs"
CONFIGURATION = "\n".join((DOCS / name).read_text() for name in ("configuration.md", "reference/configuration.md"))
README = (REPOSITORY / "README.md").read_text()


def options(group: str) -> set[str]:
    return {path.stem for path in (CONFIGS / group).glob("[!_]*.yaml")}


def names(listed: str) -> set[str]:
    return {name.strip() for name in listed.split(",")}


@pytest.mark.parametrize("page", ["index", "pipeline"])
def test_the_table_of_stages_holds_them_all(page: str) -> None:
    rows = [line for line in (DOCS / f"{page}.md").read_text().splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert {stage.name for stage in STAGES} <= told


def test_headings_of_the_configuration_list_the_options() -> None:
    headings = re.findall(r"`(\w+)` \(([^)]+)\)", "\n".join(re.findall(r"^## .*$", CONFIGURATION, re.MULTILINE)))
    assert {group for group, _ in headings} >= {"data", "vae", "geo", "assign", "finetune", "transformer"}
    for group, listed in headings:
        assert names(listed) == options(group), group


def test_every_quantizer_is_listed() -> None:
    pages = ("geo/codebooks.md", "geo/structured.md", "joint.md")
    rows = [line for page in pages for line in (DOCS / page).read_text().splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])} >= options("quantizer")
    section = CONFIGURATION.split("## `quantizer`")[1].split("\n| ")[0]
    assert all(re.search(rf"\b{name}\b", section) for name in options("quantizer"))


def test_the_way_to_a_formula_names_what_there_is() -> None:
    sources = "\n".join(path.read_text() for path in (REPOSITORY / "src" / "geovq").rglob("*.py"))
    section = (DOCS / "index.md").read_text().split("## The way of the data")[1].split("## Words and units")[0]
    rows = [line.split("|")[3:5] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", " ".join(row))}
    assert len(named) > 20
    for name in named:
        assert re.search(rf"\b(def|class) {name}\b", sources), name
    for path in re.findall(r"`(?:src/)?(geovq/[\w/]+\.py|src/\w+\.py)`", section):
        assert (REPOSITORY / "src" / path.removeprefix("src/")).is_file(), path


def test_every_key_is_explained(compose: Callable[..., Any]) -> None:
    """A key of the first level below a group; those of quantizers trained with their networks are in joint.md."""
    explained = CONFIGURATION + (DOCS / "joint.md").read_text()
    groups = ("data", "vae", "quantizer", "geo", "assign", "finetune", "transformer", "evaluation", "tracking")
    # One option of each group at a time: composing is what takes the time.
    for chosen in zip_longest(*(sorted(options(group)) for group in groups)):
        words = [f"{group}={option}" for group, option in zip(groups, chosen, strict=True) if option is not None]
        values = compose(*words, "data.path=somewhere")
        for word in words:
            group = word.split("=")[0]
            for key in set(values[group]) - {"name", "_target_"}:
                assert re.search(rf"`([\w.]*\.)?{key}[`.:]", explained), f"{word}: {key}"
    for group in ("samples", "trainer", "paths"):
        for key in compose()[group]:
            assert f"`{group}.{key}`" in CONFIGURATION, f"{group}.{key}"


def test_keys_that_follow_the_seed_are_named(compose: Callable[..., Any]) -> None:
    moved = compose("seed=7", "assign=sequential", "finetune=both")
    bullet = (DOCS / "configuration.md").read_text().split("- **`seed`**")[1]
    following = {f"{group}.seed" for group, keys in moved.items() if isinstance(keys, dict) and keys.get("seed") == 7}
    assert following == set(re.findall(r"`(\w+\.seed)`", bullet.split("refer to it")[0]))


def test_where_things_are_names_every_folder_and_script() -> None:
    section = README.split("## Where things are")[1].split("\n## ")[0]
    for folder in (REPOSITORY / "src" / "geovq").iterdir():
        if (folder / "__init__.py").is_file():
            assert re.search(rf"\b{folder.name}\b", section), folder.name
            assert f"`src/geovq/{folder.name}/`" in (DOCS / "index.md").read_text(), folder.name
    for script in (REPOSITORY / "scripts").glob("*.sh"):
        assert re.search(rf"\b{script.stem}\b", section), script.name


def test_the_name_of_a_run_is_as_described(compose: Callable[..., Any]) -> None:
    from geovq.commands.train import run_name
    from geovq.configuration.config import validate

    text = (DOCS / "tracking.md").read_text()
    config = validate(compose("data=fashion", "quantizer=pullback", "assign=search", "finetune=both"))
    assert f"`{run_name(config)}`" in text
    config = validate(compose("data=fashion", "quantizer=pullback"))
    assert run_name(config) == "fashion-pullback-K512-s0"
    assert "`<data>-<quantizer>-K<K>-s<seed>`" in text


def test_every_tag_of_a_run_is_described(compose: Callable[..., Any]) -> None:
    from types import SimpleNamespace

    from geovq.commands.train import tags
    from geovq.configuration.config import validate

    text = (DOCS / "tracking.md").read_text()
    for tag in tags(validate(compose()), SimpleNamespace(keys={})):  # type: ignore[arg-type]
        assert f"`{tag}`" in text, tag


def pages() -> list[Path]:
    return [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_pages_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if heading:
            assert heading in anchors(found), target


def test_pages_stay_short() -> None:
    words = {page: sum(map(bool, map(re.compile(r"\w").search, page.read_text().split()))) for page in pages()}
    assert words[REPOSITORY / "README.md"] < 700
    shown = {page for page in words if page.parent.name == "tutorial" or page.stem in ("demos", "explorer")}
    assert sum(words[page] for page in shown) <= 3_800  # read beside what they show, most of it commands and output
    assert sum(words[page] for page in words.keys() - shown) <= 33_000


def test_every_page_is_in_the_menu_of_the_site_once() -> None:
    menu = (REPOSITORY / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    listed = re.findall(r"^ +- (?:[^:]+: )?(\S+\.md)$", menu, re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_renamed_pages_lead_to_their_new_names() -> None:
    settings = (REPOSITORY / "mkdocs.yml").read_text()
    renamed = re.findall(r"^        (\S+\.md): (\S+\.md)$", settings, re.MULTILINE)
    assert len(renamed) >= 4
    for old, new in renamed:
        assert (DOCS / new).is_file(), new
        assert not (DOCS / old).exists(), old


def test_the_check_of_a_site_finds_what_is_not_there(tmp_path: Path) -> None:
    from check_site import faults

    (tmp_path / "b.html").write_text('<h1 id="here">b</h1>')
    good = '<p id="top"><a href="b.html#here"></a><a href="#top"></a><a href="https://hydra.cc"></a><img src="data:,">'
    (tmp_path / "a.html").write_text(good)
    assert faults(tmp_path) == []
    for bad in (
        '<a href="c.html">',
        '<a href="b.html#there">',
        '<a href="#below">',
        '<img src="c.png">',
        '<script src="https://unpkg.com/x.js"></script>',
        '<link href="https://fonts.example/x.css">',
        "<li>$x$</li>",
    ):
        (tmp_path / "a.html").write_text(good + bad)
        assert len(faults(tmp_path)) == 1, bad


@pytest.mark.slow
def test_the_site_is_built_without_a_fault(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="./scripts/setup_env.sh docs installs what builds the site")
    from check_site import faults

    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(REPOSITORY / "mkdocs.yml", tmp_path)
    (tmp_path / "src").symlink_to(REPOSITORY / "src")
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "griffe:" not in done.stdout + done.stderr, "a docstring: " + done.stdout + done.stderr
    assert faults(tmp_path / "build" / "site") == []
    assert "transformer.html" in (tmp_path / "build" / "site" / "prior.html").read_text()
    (tmp_path / "docs" / "data.md").write_text("# Images\n\n[nowhere](vae.md#nowhere)\n")
    assert subprocess.run(build, cwd=tmp_path, capture_output=True).returncode != 0


@pytest.mark.parametrize("page", ["configuration", "metrics"])
def test_references_are_those_of_the_declarations(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``./scripts/make_reference.sh`` makes them anew."""
    import reference_pages

    getattr(reference_pages, f"print_{page}")()
    made = capsys.readouterr().out
    assert (DOCS / "reference" / f"{page}.md").read_text() == made
