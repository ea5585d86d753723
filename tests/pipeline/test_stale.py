"""Artifacts built with other code, or on other inputs, than there are now."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geovq.pipeline import source_code
from geovq.pipeline.manifest import DamagedArtifactError
from geovq.pipeline.source_code import changed_files, code_of

VAE = "geovq.pipeline.stages.vae"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package that hashes are taken of, to be changed."""
    copy = tmp_path / "geovq"
    shutil.copytree(source_code._SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source_code, "_SOURCE", copy)
    yield copy
    forget()


def forget() -> None:
    """As in a new process."""
    for cached in (source_code._bytes, source_code._tree, source_code._hashes, source_code._imports):
        cached.cache_clear()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    forget()


def test_the_code_of_a_stage_is_what_it_imports_and_what_could_change_results(source: Path) -> None:
    files = set(code_of([VAE]))
    assert {"models/objective.py", "models/vae.py", "models/layers.py", "pipeline/fit.py"} <= files
    assert not {name for name in files if name.startswith(("tracking/", "commands/", "data/")) or "section" in name}
    assert not files & {"progress.py", "pipeline/artifacts.py", "configuration/config.py", "models/joint.py"}
    chosen = code_of(["geovq.pipeline.stages.codebook", "geovq.quantizers.euclidean"])
    assert "quantizers/euclidean.py" in chosen
    assert not {"quantizers/residual.py", "quantizers/geodesic.py"} & set(chosen)


def test_a_comment_or_docstring_is_no_change_and_a_number_is(source: Path) -> None:
    code, file = code_of([VAE]), source / "models/objective.py"
    edit(file, "from __future__", "# a remark\nfrom __future__")
    edit(file, '"""', '"""Other words. ')
    assert changed_files(code) == []
    edit(source / "models/layers.py", "def ", "ANOTHER = 1\n\n\ndef ")
    assert changed_files(code) == ["models/layers.py"]
    file.unlink()
    forget()
    assert changed_files(code) == ["models/layers.py", "models/objective.py"]


def test_a_run_says_what_was_built_with_other_code_and_builds_it_anew_when_asked(
    tmp_path: Path, source: Path, make_runner: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("stages=[latents]", "vae.steps=3")
    first = make_runner(tmp_path, *words).run()
    vae, latents = (first[name].artifact for name in ("vae", "latents"))
    edit(source / "models/objective.py", "def forward(", "ANOTHER = 1\n\n    def forward(")
    capsys.readouterr()
    assert all(result.cached for result in make_runner(tmp_path, *words).run().values())
    reason = "built with other code (models/objective.py changed); stale=rebuild builds it anew"
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert told == [f"warning: vae {vae.key}, latents {latents.key}: {reason}"]
    make_runner(tmp_path, *words, "stale=ignore").run()
    assert "warning" not in capsys.readouterr().err

    rebuilt = make_runner(tmp_path, *words, "stale=rebuild").run()
    assert not any(result.cached for result in rebuilt.values())
    assert len(list((tmp_path / "artifacts/vae").glob("*.stale-*"))) == 1
    assert all(result.cached for result in make_runner(tmp_path, *words, "stale=rebuild").run().values())
    capsys.readouterr()
    make_runner(tmp_path, *words).run()
    assert "warning" not in capsys.readouterr().err


def test_what_was_built_on_other_tensors_is_stale_too(
    tmp_path: Path, make_runner: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same key holds other weights: computed with other code or threads, and not by damage."""
    words = ("stages=[latents]", "vae.steps=3")
    first = make_runner(tmp_path, *words)
    built = first.run()
    stage, vae = built["vae"].stage, built["vae"].artifact
    shutil.move(vae.directory, tmp_path / "old")

    def other(out: Any) -> None:
        out.tensors("weights", {name: tensor + 1 for name, tensor in tensors.items()})

    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "old/weights.safetensors")
    first.store.build("vae", vae.key, {}, {}, other, stage.schema)
    capsys.readouterr()
    assert make_runner(tmp_path, *words).run()["latents"].cached
    assert f"latents {built['latents'].artifact.key}: built on another vae than the one" in capsys.readouterr().err
    results = make_runner(tmp_path, *words, "stale=rebuild").run()
    assert results["vae"].cached
    assert not results["latents"].cached
    again = make_runner(tmp_path, *words, "stale=rebuild").obtain(("latents",))["latents"]
    assert again.key == built["latents"].artifact.key
    assert again.manifest["input_tensors"] == {"vae": results["vae"].artifact.tensors_digest}


def test_other_inputs_than_the_key_stands_for_are_damage(
    tmp_path: Path, make_runner: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("stages=[latents]", "vae.steps=3")
    latents = make_runner(tmp_path, *words).run()["latents"].artifact
    manifest = {name: value for name, value in latents.manifest.items() if name != "checksum"}
    manifest["inputs"] = {"vae": "0" * 16}
    latents.path("manifest.json").write_text(json.dumps(manifest))
    assert not make_runner(tmp_path, *words).run()["latents"].cached
    assert "it was built from other inputs than its key stands for; set aside" in capsys.readouterr().err


def test_a_checkpoint_of_other_code_is_told_and_dropped_when_asked(
    tmp_path: Path, source: Path, make_runner: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("stages=[vae]", "vae.steps=6", "trainer.checkpoint_seconds=1e-9")

    def interrupt(stage: str, metrics: dict[str, float], step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_runner(tmp_path, *words, log=interrupt).run()
    before = code_of([VAE])
    edit(source / "models/objective.py", "def forward(", "ANOTHER = 1\n\n    def forward(")
    scratch = next((tmp_path / "artifacts/vae").glob("*.partial"))
    kept = shutil.copytree(scratch, tmp_path / "kept")

    capsys.readouterr()
    vae = make_runner(tmp_path, *words).run()["vae"].artifact
    assert "its checkpoint was made with other code (models/objective.py changed)" in capsys.readouterr().err
    assert vae.manifest["code"]["models/objective.py"] == before["models/objective.py"]

    shutil.rmtree(vae.directory)
    shutil.copytree(kept, scratch)
    anew = make_runner(tmp_path, *words, "stale=rebuild")
    assert anew.run()["vae"].artifact.manifest["code"]["models/objective.py"] != before["models/objective.py"]
    assert "training starts anew" in capsys.readouterr().err


def test_auto_and_the_precision_it_comes_to_share_their_keys(tmp_path: Path, make_runner: Callable[..., Any]) -> None:
    auto = make_runner(tmp_path, "trainer.precision=auto")
    resolved = auto.context.config.trainer.precision
    assert resolved in ("32-true", "bf16-mixed")
    assert make_runner(tmp_path, f"trainer.precision={resolved}").keys == auto.keys
    other = {"32-true": "bf16-mixed", "bf16-mixed": "32-true"}[resolved]
    assert not set(make_runner(tmp_path, f"trainer.precision={other}").keys.values()) & set(auto.keys.values())


def test_the_manifest_says_how_many_threads_computed(digits_run: Any) -> None:
    assert digits_run[1]["vae"].artifact.manifest["threads"] == 1


def test_looking_at_what_is_there_moves_nothing(tmp_path: Path, make_runner: Callable[..., Any]) -> None:
    runner = make_runner(tmp_path, "stages=[latents]")
    runner.run()
    assert set(runner.present()) == {"vae", "latents"}
    path = next((tmp_path / "artifacts" / "latents").glob("*/test.safetensors"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedArtifactError, match="differs from its checksum"):
        make_runner(tmp_path, "stages=[latents]").present()
    assert path.is_file()
