from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from geovq.comparison import figures
from geovq.errors import ArtifactError, ConfigError, GeoVQError, TrackingError
from geovq.tracking import find_run, start_run

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks nesting and collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "table.csv").open() as file:
        return {row["label"]: row for row in csv.DictReader(file)}


def three_seeds(record: Callable[..., str]) -> None:
    """euclidean and random at K=16 with PSNR differences of 1, 2 and 3 dB on every image of seed 0, 1, 2."""
    for seed in range(3):
        base = [20.0, 22.0, 24.0, 20.0, 22.0, 24.0]
        record("euclidean", 16, seed=seed, psnr=base)
        record("random", 16, seed=seed, psnr=[value - 1 - seed for value in base])


def test_means_errors_and_differences_are_those_computed_by_hand(record: Any, compare: Any, capsys: Any) -> None:
    three_seeds(record)
    table = rows(compare("baseline=euclidean"))
    assert list(table) == ["continuous autoencoder", "euclidean, K=16", "random, K=16"]
    random, unquantized = table["random, K=16"], table["continuous autoencoder"]
    assert (unquantized["kind"], table["euclidean, K=16"]["kind"], random["kind"]) == (
        "unquantized",
        "baseline",
        "method",
    )
    assert float(random["psnr"]) == pytest.approx(20.0)  # mean of 21, 20 and 19
    assert float(random["psnr_standard_error"]) == pytest.approx(1 / 3**0.5)
    assert float(random["psnr_difference_db"]) == pytest.approx(-2.0)
    # all images agree, so this is the t interval of -1, -2 and -3 alone: 4.303 standard errors of 1/√3
    low, high = float(random["psnr_difference_low_db"]), float(random["psnr_difference_high_db"])
    assert (low, high) == pytest.approx((-2 - 4.302653 / 3**0.5, -2 + 4.302653 / 3**0.5))
    assert float(random["psnr_difference_seed_error_db"]) == pytest.approx(1 / 3**0.5)
    assert float(random["psnr_difference_image_error_db"]) == pytest.approx(0)
    assert (random["psnr_difference_n_seeds"], random["seeds"], random["n_runs"]) == ("3", "0 1 2", "3")
    assert float(unquantized["psnr"]) == pytest.approx(31.0)
    assert float(unquantized["perceptual"]) == 0.25
    assert table["euclidean, K=16"]["psnr_difference_db"] == ""
    printed = capsys.readouterr().out
    assert re.search(
        r"random, K=16 +3 +20\.00 ± 0\.58 +0\.9000 +0\.5000 +64\.0 +-2\.00 \[-4\.48, \+0\.48\] +0\.577, 0\.000", printed
    )
    assert "continuous autoencoder (unquantized)" in printed
    assert "euclidean, K=16 (baseline)" in printed


def test_one_seed_has_an_interval_over_images_and_no_standard_error(record: Any, compare: Any, capsys: Any) -> None:
    record("euclidean", 16, psnr=[20.0] * 6)
    record("random", 16, psnr=[19.0, 18.0, 19.0, 18.0, 19.0, 18.0])
    random = rows(compare())["random, K=16"]
    assert float(random["psnr_difference_db"]) == -1.5
    low, high = float(random["psnr_difference_low_db"]), float(random["psnr_difference_high_db"])
    assert -2 <= low < -1.5 < high <= -1
    assert random["psnr_standard_error"] == ""
    assert random["psnr_difference_seed_error_db"] == ""
    assert float(random["psnr_difference_image_error_db"]) == pytest.approx(0.3**0.5 / 6**0.5)
    printed = capsys.readouterr().out
    assert "One seed per method" in printed
    assert "± seeds, images" not in printed


def test_an_omitted_metric_shows_its_recorded_reason_once(record: Any, compare: Any, capsys: Any) -> None:
    reasons = {"lpips": "no weights", "lpips_continuous": "no weights"}
    for quantizer in ("euclidean", "random"):
        record(quantizer, 16, omitted=reasons)
    folder = compare("metrics=[psnr,lpips]")
    printed = capsys.readouterr().out
    assert printed.count("lpips: omitted, no weights.") == 1
    assert printed.count("– (1)") == 3
    for file in ("table.md", "comparison.html"):
        assert "lpips: omitted, no weights." in (folder / file).read_text()
    assert rows(folder)["random, K=16"]["lpips"] == ""
    assert rows(folder)["random, K=16"]["notes"] == "lpips: omitted, no weights."


def test_a_metric_that_one_seed_left_out_is_no_mean_of_the_others(record: Any, compare: Any, capsys: Any) -> None:
    record("random", 16, seed=0, metrics={"lpips": 0.5})
    record("random", 16, seed=1, omitted={"lpips": "switched off"})
    folder = compare("metrics=[psnr,lpips]")
    assert rows(folder)["random, K=16"]["lpips"] == ""
    assert "lpips: omitted in 1 of 2 runs, switched off." in capsys.readouterr().out


def test_gain_and_time_of_a_search_have_a_column_where_any_run_has_them(record: Any, compare: Any, capsys: Any) -> None:
    metrics = "metrics=[psnr,search_gain_db,encoding_milliseconds_per_image]"
    record("euclidean", 16)
    record("whitened", 16, omitted={"search_gain_db": "assign is not search"})
    assert "search_gain_db" not in rows(compare(metrics))["euclidean, K=16"]
    assert "gain of search" not in capsys.readouterr().out
    record("random", 16, metrics={"search_gain_db": 0.75})
    table = rows(compare(metrics, "baseline=euclidean"))
    printed = capsys.readouterr().out
    assert float(table["random, K=16"]["search_gain_db"]) == 0.75
    assert table["euclidean, K=16"]["search_gain_db"] == ""
    assert table["euclidean, K=16"]["notes"] == "search_gain_db: omitted, the run is older than this metric."
    assert table["whitened, K=16"]["notes"] == "search_gain_db: omitted, assign is not search."
    assert "gain of search ↑" in printed
    assert "encoding" not in printed


def test_the_files_of_a_comparison_are_whole(record: Any, compare: Any) -> None:
    three_seeds(record)
    folder = compare()
    assert {path.name for path in folder.iterdir()} == {
        "table.md",
        "table.csv",
        "rate_distortion.png",
        "reconstructions.png",
        "comparison.html",
    }
    for name in ("rate_distortion.png", "reconstructions.png"):
        with Image.open(folder / name) as picture:
            picture.load()
    lines = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert not [path for path in folder.parent.iterdir() if "unfinished" in path.name]


def test_the_page_is_well_formed_and_refers_to_nothing_outside(record: Any, compare: Any) -> None:
    three_seeds(record)
    source = (compare("baseline=euclidean") / "comparison.html").read_text()
    page = Page()
    page.feed(source)
    page.close()
    assert page.open == []
    assert source.startswith("<!DOCTYPE html>")
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object", "base"} & set(names)
    references = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert len(references) == 2
    assert all(value is not None and value.startswith("data:image/png;base64,") for value in references)
    assert "url(" not in source
    assert "@import" not in source
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    for part in ("digits, 6 test images", "random, K=16", "src/compare.py", "Settings that differ", "quantizer.name"):
        assert part in page.text


def test_words_of_a_run_are_text_on_the_page(record: Any, compare: Any) -> None:
    record("random", 16, omitted={"lpips": "<script>alert(1)</script> & more"})
    source = (compare("metrics=[psnr,lpips]") / "comparison.html").read_text()
    assert "<script" not in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in source


def test_the_comparison_is_recorded_and_latest_stays_the_training_run(
    record: Any, compare: Any, root: Path, settings: Any
) -> None:
    first = record("euclidean", 16, psnr=[20.0] * 6)
    second = record("random", 16, psnr=[19.0] * 6)
    compare()
    assert find_run(settings, root, "latest").run_id == second
    kept = find_run(settings, root, "digits-compare")
    assert (kept.tags["geovq.kind"], kept.tags["baseline"]) == ("compare", "euclidean, K=16")
    assert kept.load_dict("config.json")["runs"] == [first, second]
    assert kept.metrics["psnr_difference_db.random_K16"] == -1.0
    assert kept.metrics["psnr_difference_low_db.random_K16"] == -1.0
    files = {file.path for file in kept.client.list_artifacts(kept.run_id, "comparison")}
    assert {"comparison/comparison.html", "comparison/rate_distortion.png", "comparison/table.csv"} <= files


def test_without_words_the_last_sweep_is_compared(
    record: Any, compare: Any, root: Path, settings: Any, capsys: Any
) -> None:
    record("geodesic", 16)
    for overrides in ("quantizer=whitened", "quantizer=euclidean,random"):
        time.sleep(0.005)
        with start_run(settings, root, "multirun", {"geovq.kind": "multirun", "geovq.overrides": overrides}) as sweep:
            for quantizer in overrides.removeprefix("quantizer=").split(","):
                record(quantizer, 16, parent=sweep.run_id)
            record("pullback", 16, parent=sweep.run_id, status="FAILED")
    record("geodesic", 32)
    folder = compare()
    assert [row["quantizer"] for row in rows(folder).values()] == ["", "euclidean", "random"]
    captured = capsys.readouterr()
    assert "comparing 2 runs: the last sweep" in captured.err
    assert "did not finish are left out: digits-pullback-K16-s0" in captured.out
    assert "python src/train.py -m quantizer=euclidean,random" in (folder / "comparison.html").read_text()


def test_without_any_sweep_all_runs_on_the_images_of_the_latest_are_compared(record: Any, compare: Any) -> None:
    record("euclidean", 16, params={"data.limit": 300})
    record("euclidean", 16)
    record("random", 16)
    assert [row["quantizer"] for row in rows(compare()).values()] == ["", "euclidean", "random"]


def test_a_query_filters_training_runs(record: Any, compare: Any) -> None:
    record("euclidean", 16)
    record("euclidean", 32)
    record("random", 32)
    folder = compare("query=\"params.`quantizer.K` = '32'\"", "baseline=random")
    assert [row["label"] for row in rows(folder).values()][1:] == ["euclidean, K=32", "random, K=32"]


def test_one_report_read_by_two_runs_counts_once(record: Any, compare: Any, capsys: Any) -> None:
    first = record("random", 16)
    second = record("random", 16)
    assert rows(compare())["random, K=16"]["run_ids"] == second
    assert f"same report as another count once: {first[:8]}" in capsys.readouterr().out


def test_different_autoencoders_have_rows_of_their_own(record: Any, compare: Any) -> None:
    record("random", 16, vae="a", metrics={"psnr_continuous": 25.0})
    record("random", 32, vae="b", metrics={"psnr_continuous": 26.0})
    table = rows(compare())
    assert float(table["continuous VAE, K=16"]["psnr"]) == 25.0
    assert float(table["continuous VAE, K=32"]["psnr"]) == 26.0


def test_without_pictures_the_sheet_is_skipped_in_words(record: Any, compare: Any, capsys: Any) -> None:
    record("euclidean", 16)
    bare = record("random", 16, pictures=False)
    folder = compare()
    assert not (folder / "reconstructions.png").exists()
    for text in (capsys.readouterr().err, (folder / "comparison.html").read_text()):
        assert "No sheet of reconstructions: the report of run digits-random-K16-s0" in text
        assert f"run={bare[:12]}" in text


def test_the_reference_is_left_out_in_words_where_images_are_gone(
    record: Any, compare: Any, capsys: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("GEOVQ_DATA", str(tmp_path / "nowhere"))
    record("random", 16, data="mnist", metrics={"perceptual_mnist_cnn": 0.5, "perceptual_mnist_cnn_continuous": 0.1})
    compare("reference=gaussian")
    assert "No Gaussian reference: the training images are not there" in capsys.readouterr().out


def test_the_reference_is_left_out_in_words_where_images_are_many_and_large(
    record: Any, compare: Any, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(figures, "_MOST_EIGENVALUES", 63)
    record("random", 16)
    compare("reference=gaussian")
    told = r"No Gaussian reference: the covariance of 64 values over \d{4} images has too many eigenvalues"
    assert re.search(told, capsys.readouterr().out)


def test_the_spectrum_of_the_training_images_is_kept(record: Any, compare: Any, root: Path) -> None:
    from sklearn.datasets import load_digits

    from geovq.pipeline.artifacts import Artifact

    record("random", 16)
    compare("reference=gaussian")
    [folder] = (root / "artifacts/spectrum").glob("*/")
    spectrum = Artifact(folder).tensors("spectrum")["eigenvalues"]
    variance = (load_digits().images / 16).reshape(-1, 64).var(0).sum()
    assert float(spectrum.sum()) == pytest.approx(variance, rel=0.02)  # of the training part alone, rounded to bytes
    assert spectrum.shape == (64,)


def test_out_null_gives_each_comparison_a_folder_of_its_own(record: Any, compare: Any, root: Path) -> None:
    record("random", 16)
    before = set((root / "comparisons").glob("*")) if (root / "comparisons").exists() else set()
    for _ in range(2):
        compare("out=null")
    made = set((root / "comparisons").glob("*")) - before
    assert len(made) == 2
    assert all((folder / "comparison.html").is_file() for folder in made)


@pytest.mark.parametrize(
    ("second", "overrides", "kind", "message"),
    [
        (
            {"without": ["ssim"]},
            [],
            ConfigError,
            r"metrics: run digits-random-K16-s0 \(\w{8}\) lacks ssim( \(it has .*\))?; leave ssim out",
        ),
        ({"without": ["psnr_pooled"]}, [], ConfigError, "lacks the metric psnr_pooled, which every comparison needs"),
        ({}, ["metrics=[psnrr]"], ConfigError, r"lacks psnrr \(it has psnr.*\); leave psnrr out of metrics"),
        ({}, ["metrics=[]"], ConfigError, "metrics=\\[\\]: name at least one"),
        (
            {"without": ["rate_prior_bits_per_image"], "omitted": {"rate_prior_bits_per_image": "never without class"}},
            ["rate=prior"],
            ConfigError,
            r"rate=prior: .* lacks rate_prior_bits_per_image \(never without class\); take rate=nominal",
        ),
        ({}, ["rate=unigram"], ConfigError, r"rate=unigram: .* lacks rate_unigram_bits_per_image"),
        ({"params": {"data.limit": 300}}, [], ConfigError, r"data\.limit=null in run .*, data\.limit=300 in run "),
        ({"params": {"data.split_seed": 4}}, [], ConfigError, "data.split_seed=0 in run .* on the same test images"),
        ({"fingerprint": "others"}, [], ConfigError, "data.path=null had other content in run"),
        ({"psnr": [20.0] * 5}, [], ConfigError, "n_test_images=6 in run .*, n_test_images=5 in run"),
        (
            {"tags": {"artifact.classifier": "d"}},
            [],
            ConfigError,
            "artifact.classifier=c in run .* perceptual does not",
        ),
        ({"metrics": {"psnr": 3.0}}, [], ArtifactError, r"recorded psnr=3\.0000 .* holds 6 images of 20\.0000"),
        (
            {"status": "FAILED"},
            [],
            ConfigError,
            r"runs: digits-random-K16-s0 \(\w{8}\) has status=FAILED; take finished",
        ),
        ({"status": "RUNNING"}, [], ConfigError, "has status=RUNNING"),
        ({"tags": {"geovq.kind": "stages"}}, [], ConfigError, "has geovq.kind=stages and no report; take runs of kind"),
        ({}, ["baseline=geodesic"], ConfigError, "baseline=geodesic: means 0 of the compared methods"),
        ({}, ["rate=shannon"], ConfigError, "rate='shannon'"),
        ({}, ["+colour=red"], ConfigError, "colour: no such key"),
        ({}, ["tracking.enabled=false"], ConfigError, "tracking.enabled=false"),
        ({}, ["query=\"tags.data = 'digits'\""], ConfigError, "give one of them"),
    ],
)
def test_what_does_not_compare_ends_in_one_line(
    record: Any, compare: Any, second: dict[str, Any], overrides: list[str], kind: type[GeoVQError], message: str
) -> None:
    ids = [record("euclidean", 16), record("random", 16, **second)]
    with pytest.raises(kind, match=message) as caught:
        compare(f"runs=['{ids[0]}','{ids[1]}']", *overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["runs=[feedbeef]"], TrackingError, "no run with id or name 'feedbeef'"),
        (["runs=[1234]"], ConfigError, r"runs\[0\]=1234: input should be a valid string"),
        (["runs=[]"], ConfigError, "name at least one run"),
        (["query=\"params.`quantizer.K` = '77'\""], ConfigError, "query=.* finds no training run"),
        (["query='K is 77'"], ConfigError, "query='K is 77': .*; write an MLflow filter"),
    ],
)
def test_runs_that_are_not_there_are_named(
    record: Any, compare: Any, overrides: list[str], kind: type[GeoVQError], message: str
) -> None:
    record("random", 16)
    with pytest.raises(kind, match=message) as caught:
        compare(*overrides)
    assert "\n" not in str(caught.value)


def test_a_report_that_is_gone_is_named_with_the_way_back(record: Any, compare: Any, root: Path, settings: Any) -> None:
    import shutil

    run_id = record("random", 16, salt="gone")
    shutil.rmtree(root / "artifacts/report" / find_run(settings, root, run_id).tags["artifact.report"])
    with pytest.raises(ArtifactError, match=f"is gone; .* python src/evaluate.py run={run_id[:12]}"):
        compare()


def test_a_folder_that_cannot_be_written_is_named(record: Any, compare: Any, tmp_path: Path) -> None:
    record("random", 16)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"out='.*file/below': .*file is a file"):
        compare(f"out={tmp_path}/file/below")
