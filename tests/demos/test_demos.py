"""The demos on a corner of the digits: they print what they found, leave their figures, and read what is there."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from geovq.errors import ConfigError, DataError
from tiny import REPOSITORY, TINY

DEMOS = REPOSITORY / "demos"
_OURS = [word for word in TINY if not word.startswith(("quantizer.K", "data.limit"))]
SMALL = (*_OURS, "debug=fast", "data.limit=300", "vae.steps=30")
FIGURES = {
    "geodesic_paths": ["geodesic_paths"],
    "vae_knn_analysis": ["vae_knn_analysis"],
    "codebook_comparison": ["codebook_comparison", "codebook_comparison_scores"],
    "kmedoids_geodesic_analysis": ["kmedoids_geodesic_analysis", "kmedoids_geodesic_medoids"],
}
SAYS = {
    "geodesic_paths": ["straight", "root-summed pixel error"],
    "vae_knn_analysis": ["1. Latents", "2. Graph", "3. Intrinsic dimension", "4. Classes", "5. Metric"],
    "codebook_comparison": ["K = 16: 64 bits per image", "unquantized", "random tokens", "Highest PSNR"],
    "kmedoids_geodesic_analysis": ["1. Cost", "2. Codewords", "3. Classes", "ARI"],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where demos find what others have built."""
    return tmp_path_factory.mktemp("built")


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``demo(name)``: the module of a demo, which writes below ``tmp_path``."""
    monkeypatch.setenv("GEOVQ_ROOT", str(tmp_path))
    monkeypatch.syspath_prepend(DEMOS)
    yield importlib.import_module
    for name in [name for name in sys.modules if (DEMOS / f"{name}.py").is_file()]:
        del sys.modules[name]


def started(demo: Any, name: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> ModuleType:
    """Start a demo as the command line does."""
    monkeypatch.setattr(sys, "argv", [f"demos/{name}.py", *words])
    module: ModuleType = demo(name)
    module.run_demo(module.main, module.__doc__)
    return module


def test_every_demo_is_tried_and_shown() -> None:
    names = {path.stem for path in DEMOS.glob("[!_]*.py")}
    gallery = (REPOSITORY / "docs" / "demos.md").read_text()
    for name in names:
        assert f"demos/{name}.py" in gallery, name
    for name in set(FIGURES):
        assert name in names
        for figure in FIGURES[name]:
            assert f"images/{figure}.png" in gallery, figure


@pytest.mark.parametrize("name", [pytest.param("geodesic_paths", marks=pytest.mark.slow), *[*FIGURES][1:]])
def test_a_demo_tells_what_it_found(
    demo: Any,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    built: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "artifacts").symlink_to(built)
    if name == "geodesic_paths":
        monkeypatch.setattr(demo(name), "N_PAIRS", 1)
    started(demo, name, monkeypatch, *SMALL, "quantizer.K=16")
    told = capsys.readouterr().out
    for words in SAYS[name]:
        assert words in told
    assert "nan" not in told
    for figure in FIGURES[name]:
        assert f"figure: {tmp_path}/demos/{figure}.png" in told
        assert (tmp_path / "demos" / f"{figure}.png").stat().st_size > 5_000


def test_what_is_finished_is_read(
    demo: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def finished() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "artifacts").glob("*/*/manifest.json")}

    module = started(demo, "vae_knn_analysis", monkeypatch, *SMALL)
    told, first = capsys.readouterr().out, finished()
    assert len(first) == 4
    module.main([*SMALL])
    assert capsys.readouterr().out == told
    assert finished() == first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae_knn_analysis", "kmedoids_geodesic_analysis"])
def test_grids_of_tokens_and_single_ones(
    demo: Any, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started(demo, name, monkeypatch, *SMALL, "quantizer.K=16", "vae=spatial", "vae.grid=2")
    assert "figure:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "word", "told"),
    [
        ("geodesic_paths", "datta=digits", "datta=digits: no such key or group; did you mean data?"),
        ("geodesic_paths", "vae=spatial", "vae=spatial: paths are drawn between whole images; leave it out"),
        ("vae_knn_analysis", "vae.dim=many", "vae.dim='many': "),
        ("vae_knn_analysis", "geo=euclidean", "geo.metric=none: "),
        ("vae_knn_analysis", "-m", "-m: demos take key=value alone"),
        ("vae_knn_analysis", "quantizer=fsq", "quantizer=fsq is trained with its autoencoder"),
        ("codebook_comparison", "quantizer=random", "quantizer=random: this demo compares codebooks of its own"),
        ("kmedoids_geodesic_analysis", "quantizer=random", "quantizer=random: this demo is about quantizer=geodesic"),
    ],
)
def test_a_wrong_word_ends_in_one_line(
    demo: Any, name: str, word: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        started(demo, name, monkeypatch, *SMALL, word)
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1


def test_an_interrupt_ends_in_one_line(
    demo: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(words: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["demos/some.py"])
    with pytest.raises(SystemExit) as ended:
        demo("_pipeline").run_demo(interrupted, "")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "error: interrupted; the same command goes on from here\n"


def test_help_says_what_one_sees(
    demo: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = started(demo, "vae_knn_analysis", monkeypatch, "--help")
    assert capsys.readouterr().out.strip() == module.__doc__.strip()


def test_images_without_classes_are_refused(demo: Any) -> None:
    from types import SimpleNamespace

    context = SimpleNamespace(
        data=SimpleNamespace(train=SimpleNamespace(labels=None)),
        config=SimpleNamespace(data=SimpleNamespace(name="mine")),
    )
    with pytest.raises(DataError, match=r"data=mine: .* fewer than two"):
        demo("_pipeline").labels_of(SimpleNamespace(context=context), "train")


def test_scores_of_codes_and_classes(demo: Any) -> None:
    module = demo("kmedoids_geodesic_analysis")
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert module.purity(labels, labels) == 1
    assert module.purity(np.array([0, 0, 0, 0, 0, 0]), labels) == 0.5
    assert module.purity(np.array([0, 0, 1, 1, 1, 1]), labels) == pytest.approx(4 / 6)
    scores = module.scores_of(np.array([0, 0, 0, 1, 1, 1]), labels, np.array([0, 1, 1]), np.array([0, 1, 2]), 0)
    assert scores.test == pytest.approx(2 / 3)
    assert module.scores_of(labels, labels, labels, labels, 0)[2:] == pytest.approx((1, 1, 1))


def test_an_elbow_is_found_where_there_is_one(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    module = demo("kmedoids_geodesic_analysis")
    sizes = [16, 32, 64, 128]
    power = np.array([8.0, 4, 2, 1])
    assert module.tell_elbow(sizes, {"training": power, "test": power}, "pixel²") is None
    assert "like K^-1.00, as for points that fill 2.0 dimensions" in capsys.readouterr().out
    bent = np.array([8.0, 4, 2, 1.9])
    assert module.tell_elbow(sizes, {"training": power, "test": bent}, "pixel²") == 64
    assert "Elbow at K = 64: 50% per doubling before it, 5% after it." in capsys.readouterr().out


def test_a_word_for_the_codebook_is_told_before_compute(demo: Any) -> None:
    with pytest.raises(ConfigError, match="leave it out"):
        demo("codebook_comparison").main(["quantizer=fsq"])


def test_neighbours_share_a_class_where_classes_stand_apart(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Neighbours in the same image would share its class by themselves, so they do not count."""
    from geovq.geometry.graph import build_graph

    module, rng = demo("vae_knn_analysis"), np.random.default_rng(0)
    labels, image, chosen = np.repeat([0, 1], 40), np.repeat(np.arange(80), 2), np.arange(160)
    centres = 100 * labels[image, None] + rng.normal(size=(160, 3))
    shares = module.tell_classes(build_graph(centres, k=5), labels, image, chosen, ("a", "b"))
    assert shares["latent space"] == pytest.approx([1, 1])
    assert shares["chance"] == pytest.approx([79 / 159, 79 / 159])
    alone = build_graph(np.repeat(rng.normal(size=(80, 3)), 2, axis=0) + 1e-6 * rng.normal(size=(160, 3)), k=1)
    mixed = module.tell_classes(alone, rng.permutation(labels), image, chosen, ("a", "b"))
    assert mixed["latent space"].max() < 0.9
    assert "by chance 49.7%" in capsys.readouterr().out


def test_latents_are_set_beside_a_gaussian_of_their_covariance(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A dimension that hardly varies counts in both; a curved sheet fills less than the Gaussian does."""
    from geovq.geometry.graph import build_graph

    module, rng = demo("vae_knn_analysis"), np.random.default_rng(0)
    flat = rng.normal(size=(400, 4)) * (1, 1, 1, 1e-3)
    ring = np.exp(2j * np.pi * rng.random(400))
    for points, dimension, told in ((flat, 3, "fill as much."), (np.stack((ring.real, ring.imag), 1), 1, "% of that.")):
        fits = module.tell_dimension(build_graph(points, k=5), np.arange(400), rng)
        assert fits["latent space"].dimension == pytest.approx(dimension, rel=0.15)
        assert told in capsys.readouterr().out


def test_lengths_agree_where_there_is_no_metric(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from geovq.geometry.graph import build_graph

    graph = build_graph(np.random.default_rng(0).normal(size=(50, 4)), k=5)
    euclidean, riemannian = demo("vae_knn_analysis").tell_lengths(graph)
    assert len(euclidean) == graph.n_edges
    assert euclidean == pytest.approx(riemannian, rel=1e-5)
    assert "of the two lengths: 1.00" in capsys.readouterr().out


def test_interactive_exploration_builds_two_runs_and_reads_its_port(demo: Any) -> None:
    module = demo("interactive_exploration")
    run, other = module.runs_of([*TINY, "stages=[codes]"])
    assert (run.name, other.name) == ("digits-geodesic", "digits-euclidean")
    assert run.missing("graph") is None
    assert not torch.equal(run.codes, other.codes)
    assert module.port_of(["data=digits", "port=8123"]) == (8123, ["data=digits"])
    with pytest.raises(ConfigError, match="port=abc: give a whole number"):
        module.port_of(["port=abc"])
