"""The page of a run: whole, well-formed and by itself, whatever the run has."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from geovq.page import FinishedRun, html_page, page_path, write_page
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.networks import load_final_decoder
from geovq.pipeline.stages.samples import to_bytes

SECTIONS = (
    *("summary", "reconstructions", "codebook", "latents", "samples", "rates", "curves", "scores", "settings"),
    "commands",
)
_MOST_BYTES = 3_000_000
_WITHOUT_END = {"meta", "img", "input", "br", "hr", "link"}


class Reader(HTMLParser):
    """Sections, addresses and texts of a page; refuses tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.images: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        assert len(values) == len(attributes), attributes
        self.ids += [str(values["id"])] if "id" in values else []
        self.addresses += [str(values[name]) for name in ("src", "href", "srcset", "action") if name in values]
        if tag == "img":
            assert values["alt"]
            self.images.append(str(values["src"]))
        if tag not in _WITHOUT_END:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, tag

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def checked(page: str) -> Reader:
    read = Reader(page)
    assert len(page.encode()) < _MOST_BYTES
    assert [each for each in read.ids if each in SECTIONS] == list(SECTIONS)
    assert len(set(read.ids)) == len(read.ids)
    own = [each[1:] for each in read.addresses if each.startswith("#")]
    assert set(own) <= set(read.ids)
    assert all(each.startswith(("#", "data:image/")) for each in read.addresses)
    assert not re.search(r"https?://|@import|url\(", re.sub(r"<li>.*?</li>", "", page))  # a reason may name an address
    assert "None" not in read.text
    assert "nan" not in re.findall(r"[\w.]+", read.text)
    assert "nan" not in "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    return read


@pytest.fixture(scope="module")
def page_of(
    make_runner: Callable[..., Any], begin: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    root = begin(tmp_path_factory.mktemp("pages"))

    def made(*overrides: str) -> tuple[Reader, dict[str, Any], Any]:
        runner = make_runner(root, *overrides)
        results = runner.run()
        run = FinishedRun("my run", runner.context.config, results, ["data=digits", *overrides], "0123456789abcdef")
        return checked(html_page(run)), results, runner

    return made


def test_the_page_of_a_run_has_it_all(digits_run: Any) -> None:
    runner, results = digits_run
    words = ["data=digits", "quantizer.K=16", "tracking.run_name=mine"]
    read = checked(html_page(FinishedRun("a <b> & c", runner.context.config, results, words, "0123456789abcdef")))
    metrics, report = results["report"].artifact.json("metrics"), results["report"].artifact
    assert all(name.removesuffix("_continuous") in read.text for name in metrics)
    assert all(reason in read.text for reason in report.json("omitted").values())
    assert f"{metrics['psnr']:.2f}" in read.text
    assert "quantizer.K" not in read.text.split("Settings")[0]
    for stage in ("vae", "codebook", "prior", "classifier"):
        assert results[stage].artifact.key in read.text
    assert "python src/train.py data=digits quantizer.K=16\n" in read.text
    assert "python src/sample.py run=0123456789ab 'temperature=[0.5,1.0]'" in read.text
    assert "python src/evaluate.py run=0123456789ab" in read.text
    n_images, n_codewords, n_strips = 16, 16, 2 * 10 + 2
    assert len(read.images) == n_images * (3 + 2) + 2 * n_codewords + n_strips


def test_large_pictures_are_cut_to_the_size_of_a_page(digits_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, results = digits_run
    report = results["report"].artifact
    small = {name: report.tensors(name) for name in ("pictures", "codewords", "samples", "usage", "per_image")}

    def large(name: str) -> dict[str, torch.Tensor]:
        noise = {
            key: torch.randint(256, (len(each), 3, 160, 160), dtype=torch.uint8) for key, each in small[name].items()
        }
        return {key: noise[key] if each.ndim == 4 else each for key, each in small[name].items()}

    monkeypatch.setattr(report, "tensors", large)
    read = checked(html_page(FinishedRun("large", runner.context.config, results, [], "")))
    assert re.search(r"The first \d+ of 16 images are shown", read.text)


def test_two_grids_have_no_codeword_alone(page_of: Callable[..., Any]) -> None:
    read, results, _ = page_of("quantizer=vqvae2")
    assert not results["report"].artifact.has("codewords.safetensors")
    assert "Decoded codewords are left out" in read.text
    assert "Left out: the autoencoder has no posterior." in read.text


def test_scores_of_codewords_are_no_reconstruction_and_without_prior_there_is_no_sample(
    page_of: Callable[..., Any],
) -> None:
    read, results, _ = page_of("quantizer=gumbel", "transformer=none")
    assert "Left out without quantizer: the quantizer's latents are scores of codewords" in read.text
    assert "Left out: transformer=none: there is no prior." in read.text
    assert "sample.py" not in read.text.split("Commands")[1]
    assert "continuous" not in results["report"].artifact.tensors("pictures")


def test_several_slots_and_tuned_networks(page_of: Callable[..., Any]) -> None:
    read, results, runner = page_of("quantizer=product", "finetune=both", "finetune.steps=4")
    assert "finetune" in read.text
    artifacts = {name: each.artifact for name, each in results.items()}
    check_codewords(artifacts, artifacts["tuned_codes"], runner.context)


def test_codewords_stand_where_they_are_used(digits_run: Any) -> None:
    artifacts = {name: each.artifact for name, each in digits_run[1].items()}
    check_codewords(artifacts, artifacts["codes"], digits_run[0].context)


def check_codewords(artifacts: dict[str, Any], codes_of: Any, context: Any) -> None:
    """Each tile against the decoder: whole codes, joined by hand, and the grid of the code alone."""
    kept, counts = artifacts["report"].tensors("codewords"), artifacts["report"].tensors("usage")["counts"]
    codec, codes = load_codec(codes_of), load_codes(codes_of, "test").long()
    decoder = load_final_decoder(context, artifacts)
    sizes = codec.levels[0].sizes
    slots = codes.reshape(*codes.shape[:3], len(sizes))
    assert (kept["count"].diff() <= 0).all()
    assert kept["grid"].tolist() == list(codes.shape[1:3])
    for code, count, (image, row, column), alone, within in zip(
        *(kept[name] for name in ("code", "count", "place", "alone", "within")), strict=True
    ):
        assert counts[code] == count
        if not count:
            assert image == row == column == -1
            continue
        digits = torch.stack([part.squeeze() for part in torch.unravel_index(code, sizes)])
        assert torch.equal(slots[image, row, column], digits)
        assert int((slots == digits).all(-1).sum()) == count
        assert torch.equal(within, to_bytes(decode(decoder, codec.embed(codes[image][None]), context.device))[0])
        filled = digits.expand(1, *codes.shape[1:3], -1).reshape(1, *codec.shape)
        difference = alone.int() - to_bytes(decode(decoder, codec.embed(filled), context.device))[0].int()
        assert difference.abs().max() <= 1  # batches of other sizes round elsewhere


def test_the_samples_are_those_of_the_sheets(digits_run: Any) -> None:
    runner, results = digits_run
    artifacts = {name: each.artifact for name, each in results.items()}
    shown, drawn = artifacts["report"].tensors("samples"), artifacts["samples"].tensors("temperature_1")
    decoder = load_final_decoder(runner.context, artifacts)
    expected = decode(decoder, load_codec(artifacts["codes"]).embed(drawn["codes"]), runner.context.device)
    assert torch.equal(shown["labels"], drawn["labels"])
    assert (shown["temperature_1"].int() - to_bytes(expected).int()).abs().max() <= 1


def test_a_later_page_replaces_an_earlier_one(digits_run: Any, tmp_path: Path) -> None:
    run = FinishedRun("mine", digits_run[0].context.config, digits_run[1], None, "")
    path = page_path(tmp_path, "a/b c:ü")
    assert path == tmp_path / "runs" / "a_b_c_ü" / "report.html"
    assert page_path(tmp_path, "../..") == tmp_path / "runs" / "run" / "report.html"
    assert len(page_path(tmp_path, "x" * 500).parent.name) < 200
    path.parent.mkdir(parents=True)
    path.write_text("old")
    assert "not recorded (tracking=none)" in Path(write_page(run, path)).read_text()
    assert list(path.parent.iterdir()) == [path]
