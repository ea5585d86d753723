"""The commands as a person types them: training in a process of its own, the rest in this process."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from geovq.commands.evaluate import evaluate
from geovq.commands.sample import sample
from geovq.commands.train import train
from geovq.errors import ConfigError, DataError, TrackingError
from tiny import REPOSITORY, TINY, command, command_here, runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    root = tmp_path_factory.mktemp("experiments")
    return root, command(root, "train", *TINY)


@pytest.fixture
def call(
    trained: tuple[Path, Any], compose: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """``call(command, *overrides)`` under the root of ``trained``: what the command printed, ``.out`` and ``.err``."""

    def called(command: Callable[[Any], Any], *overrides: str) -> Any:
        words = [*overrides, f"paths.root={trained[0]}", "trainer.device=cpu"]
        capsys.readouterr()
        command(OmegaConf.create(compose(*words, name=command.__name__)))
        return capsys.readouterr()

    return called


def test_train_prints_a_short_report_with_units_in_four_groups(trained: tuple[Path, Any]) -> None:
    root, result = trained
    assert result.returncode == 0, result.stderr
    assert re.search(r"^  PSNR +\d+\.\d\d +\d+\.\d\d  dB ↑$", result.stdout, re.MULTILINE)
    assert re.search(r"^  nominal rate +64\.0  bits/image ↓$", result.stdout, re.MULTILINE)
    assert re.search(r"^  LPIPS(: omitted, .+| +\d\.\d{4} +\d\.\d{4}  ↓)$", result.stdout, re.MULTILINE)
    headings = [line for line in result.stdout.splitlines()[2:] if not line.startswith(" ")]
    assert headings == ["reconstruction", "codebook", "rate", "samples"]
    assert 15 <= len(result.stdout.splitlines()) <= 24
    assert runs(root)[0] == ("digits-geodesic-K16-s0", "FINISHED")
    drawn = {path.name for path in (root / "artifacts").glob("*/*/*.png")}
    assert {"reconstructions.png", "usage.png", "codebook.png", "spectrum.png"} <= drawn
    assert drawn == {path.name for path in (root / "mlartifacts").rglob("figures/*.png")}


def test_a_run_ends_with_its_page_and_two_hints(trained: tuple[Path, Any]) -> None:
    root, result = trained
    total, page, look, ahead = result.stderr.splitlines()[-4:]
    assert re.fullmatch(r"all stages in \d+ s", total)
    path = root / "runs" / "digits-geodesic-K16-s0" / "report.html"
    assert page == f"page: {path}"
    assert look == "all runs: ./scripts/mlflow_ui.sh"  # GEOVQ_ROOT is set
    words = " ".join(TINY)
    assert ahead == f"next: python src/train.py -m {words} quantizer=geodesic,euclidean && python src/compare.py"
    text = path.read_text(encoding="utf-8")
    assert f"python src/train.py {words}\n" in text
    recorded = next((root / "mlartifacts").glob("**/report.html"))
    run_id = recorded.parents[1].name
    assert f"python src/evaluate.py run={run_id[:12]}" in recorded.read_text(encoding="utf-8")


def test_a_second_run_reads_and_records_the_same_numbers(trained: tuple[Path, Any], call: Callable[..., Any]) -> None:
    root, first = trained
    second = call(train, *TINY)
    assert second.out == first.stdout
    assert "built" not in second.err
    for stage in ("vae: training the autoencoder, 30 steps", "report: measuring codes and samples"):
        assert re.search(rf"^{stage}$", first.stderr, re.MULTILINE)
        built = re.search(rf"^{stage} – built in \d+\.\d s \(([0-9a-f]{{16}})\)$", first.stderr, re.MULTILINE)
        assert built is not None
        assert f"{stage} – read ({built[1]})\n" in second.err
    with sqlite3.connect(root / "mlflow.db") as connection:
        rows = connection.execute(
            "select m.key, count(distinct m.value), count(distinct m.run_uuid) from latest_metrics m join runs r on "
            "m.run_uuid = r.run_uuid where r.name = 'digits-geodesic-K16-s0' and m.key not like '%seconds' "
            "group by m.key"
        ).fetchall()
    assert {"psnr", "ssim", "distortion_pullback_pixel2", "vae/loss", "prior/nats_per_code"} <= {row[0] for row in rows}
    assert all(values == 1 and count == 2 for _, values, count in rows), rows


def test_reconstructions_alone_searched_and_tuned(trained: tuple[Path, Any], call: Callable[..., Any]) -> None:
    root, _ = trained
    overrides = ("transformer=none", "evaluation.geodesic_codewords=0", "quantizer=pullback", "assign=search")
    words = (*TINY, *overrides, "finetune=both", "finetune.steps=10", "tracking.experiment=methods")
    short = call(train, *words).out
    scores = "FID (our network), precision, recall, sample accuracy"
    omitted = f"{scores}: omitted, transformer=none: there is no prior"
    assert omitted in short
    printed = call(evaluate, "run=latest", "tracking.experiment=methods").out
    assert "rate_prior_bits_per_image: omitted, transformer=none: there is no prior" in printed
    assert "distortion_geodesic_pixel2: omitted, evaluation.geodesic_codewords=0" in printed
    assert ("digits-pullback-K16-search-tuned_both-s0", "FINISHED") in runs(root)
    with pytest.raises(ConfigError, match="transformer=none and so no prior"):
        call(sample, "run=latest", "tracking.experiment=methods")


def test_sample_draws_from_the_latest_run(trained: tuple[Path, Any], tmp_path: Path) -> None:
    root, _ = trained
    arguments = ["run=latest", "temperature=[0.5,1.0,1.5]", "top_k=5", "label=0", "n=3", f"output={tmp_path}"]
    result = command_here(root, "sample", *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "samples.png")
    from safetensors.torch import load_file

    drawn = load_file(tmp_path / "samples.safetensors")
    assert {name for name in drawn if name.startswith("codes")} == {
        "codes_temperature_0.5",
        "codes_temperature_1",
        "codes_temperature_1.5",
    }
    assert drawn["codes_temperature_1"].shape == (3, 4, 4)


def test_evaluate_prints_the_same_report_and_measures_again_when_asked(
    trained: tuple[Path, Any], call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, first = trained
    same = command_here(root, "evaluate", "run=latest")
    assert same.returncode == 0, same.stderr
    assert same.stdout.splitlines()[0] == first.stdout.splitlines()[0]
    assert re.search(r"^  psnr +\d+\.\d\d +\d+\.\d\d  dB ↑$", same.stdout, re.MULTILINE)
    assert re.search(r"^  rate_nominal_bits_per_image +64\.0  bits/image ↓$", same.stdout, re.MULTILINE)
    assert "lpips: omitted" in same.stdout or "LPIPS" in same.stdout
    numbers = [re.findall(r" [\d.]+(?= )", f"{line} ") for line in first.stdout.splitlines() if "omitted" not in line]
    assert {number for line in numbers[1:] for number in line} <= {*re.findall(r" [\d.]+(?=\s)", same.stdout)}
    assert f"page: {root / 'runs' / 'digits-geodesic-K16-s0' / 'report.html'}" in same.stderr
    call(train, *TINY)  # now at least two runs have this name
    with pytest.raises(TrackingError, match=r"means \d+ runs"):
        call(evaluate, "run=digits-geodesic-K16-s0")
    added = ("evaluation.geodesic_codewords=4", "evaluation.evaluators=[{_target_: my_scores.Sharpness, power: 2}]")
    missing = r"evaluation\.evaluators\[0\]\._target_=my_scores\.Sharpness: .*No module named"
    monkeypatch.delitem(sys.modules, "my_scores", raising=False)  # another test may have found it
    with pytest.raises(ConfigError, match=missing):
        call(evaluate, "run=latest", *added)
    monkeypatch.syspath_prepend(REPOSITORY / "tests" / "evaluation")
    again = call(evaluate, "run=latest", *added)
    assert re.search(r"^report: .* built in", again.err, re.M)
    assert re.search(r"^  sharpness +\d+\.\d{3}  edges ↑$", again.out, re.MULTILINE)
    assert any(name.endswith("-evaluate") for name, _ in runs(root))


def test_a_label_that_no_class_has_is_refused(call: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="label=77"):
        call(sample, "run=latest", "label=77")


def test_a_run_that_nobody_recorded_is_refused(call: Callable[..., Any]) -> None:
    with pytest.raises(TrackingError, match="feedbeef"):
        call(sample, "run=feedbeef")


@pytest.mark.parametrize(
    ("run", "script", "argument", "message"),
    [
        (command, "sample", "temperature=-1", "temperature=-1"),
        (command_here, "evaluate", "run=none-such", "none-such"),
    ],
)
def test_a_wrong_word_ends_in_one_message_and_a_non_zero_exit(
    trained: tuple[Path, Any], run: Callable[..., Any], script: str, argument: str, message: str
) -> None:
    result = run(trained[0], script, argument)
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_images_are_compressed_and_come_back_under_their_names(call: Callable[..., Any], tmp_path: Path) -> None:
    from PIL import Image

    from geovq.commands.compress import compress
    from geovq.commands.decompress import decompress

    (tmp_path / "photos" / "b").mkdir(parents=True)
    for number, name in enumerate(("a 1.png", "b/c.png", "d.png")):
        Image.new("L", (8, 8), 80 * number).save(tmp_path / "photos" / name)
    told = call(compress, f"images='{tmp_path}/photos'").out
    assert re.match(r"3 images, \d+ bytes, \d+\.\d\d bits per image: .*/photos\.gvq\n", told)
    assert re.search(r"^code length: \d+\.\d\d bits per image, probabilities=autoregressive$", told, re.MULTILINE)
    assert re.search(r"^PSNR of the decoded images: \d+\.\d\d dB, mean over images$", told, re.MULTILINE)
    file = tmp_path / "photos.gvq"
    call(decompress, f"file='{file}'", f"output='{tmp_path}/decoded'", "prefix=0.5")
    written = sorted(str(path.relative_to(tmp_path / "decoded")) for path in (tmp_path / "decoded").rglob("*.png"))
    assert written == ["a 1.png", "b/c.png", "d.png"]
    assert call(decompress, f"file='{file}'", f"output='{tmp_path}/some'", "only=[2,0]").out.startswith("2 images: ")
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == ["a 1.png", "d.png"]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"photos\.gvq: ends within block 1 of 1"):
        call(decompress, f"file='{file}'", f"output='{tmp_path}/other'")
    assert not (tmp_path / "other").exists()
    with pytest.raises(ConfigError, match=r"output=.*/photos: is a folder; name a file"):
        call(compress, f"images='{tmp_path}/photos'", f"output='{tmp_path}/photos'")
    with pytest.raises(ConfigError, match=r"file=.*/photos: is a folder; name a file"):
        call(decompress, f"file='{tmp_path}/photos'")
    for command_, key in ((compress, "images=null"), (decompress, "file=null")):
        with pytest.raises(ConfigError, match=key):
            call(command_)


def test_the_file_to_decompress_may_stand_first(tmp_path: Path) -> None:
    result = command(tmp_path, "decompress", str(tmp_path / "it's none.gvq"))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/it's none.gvq: no such file or directory;")
