"""Made-up runs, recorded through the real tracking, with small report artifacts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from geovq.pipeline.artifacts import ArtifactStore, artifact_key

N_IMAGES = 6


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Path:
    """One database for all tests here; an experiment per test."""
    return Path(shutil.copy(database, tmp_path_factory.mktemp("experiments"))).parent


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> SimpleNamespace:
    experiment = re.sub(r"\W", "_", request.node.name)
    return SimpleNamespace(enabled=True, uri=None, experiment=experiment, run_name=None, log_every=50, wait_seconds=5.0)


def write_report(
    root: Path, psnr: Sequence[float], *, vae: str, fingerprint: str = "digits", pictures: bool = True, salt: str = ""
) -> dict[str, str]:
    """A report and the autoencoder it names, as artifacts; their keys."""
    store = ArtifactStore(root)
    data = {"data": {"fingerprint": fingerprint}, "vae": vae}
    vae_key = artifact_key("vae", 1, data, {})
    store.build("vae", vae_key, data, {}, lambda out: out.json("summary", {}))
    images = torch.linspace(0, 255, N_IMAGES).byte()[:, None, None, None].expand(-1, 1, 4, 4)

    def write(out: Any) -> None:
        out.tensors("per_image", {"psnr": torch.tensor(list(psnr))})
        if pictures:
            shown = images[[0, 2, 5]]
            near, far = (shown.float().add(step).clamp(0, 255).byte() for step in (5, 20))
            index = torch.tensor([0, 2, 5])
            out.tensors("pictures", {"index": index, "original": shown, "continuous": near, "quantized": far})

    what = {"psnr": list(psnr), "pictures": pictures, "salt": salt}
    key = artifact_key("report", 1, what, {"vae": vae_key})
    store.build("report", key, what, {"vae": vae_key}, write)
    return {"artifact.report": key, "artifact.vae": vae_key, "artifact.classifier": "c"}


@pytest.fixture
def record(root: Path, settings: SimpleNamespace) -> Callable[..., str]:
    """``record("euclidean", 16, seed=0, psnr=[…])``: a finished training run; returns its id."""
    from geovq.tracking import start_run

    def make(
        quantizer: str,
        n_codes: int,
        *,
        seed: int = 0,
        psnr: Sequence[float] = (20.0,) * N_IMAGES,
        metrics: dict[str, float] | None = None,
        without: Sequence[str] = (),
        omitted: dict[str, str] | None = None,
        params: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
        parent: str | None = None,
        status: str = "FINISHED",
        data: str = "digits",
        **report: Any,
    ) -> str:
        keys = write_report(
            root, psnr, **({"vae": f"seed {seed}", "salt": f"{quantizer} {n_codes} {seed} {params}"} | report)
        )
        labels = {"geovq.kind": "train", "data": data, "quantizer": quantizer, "K": str(n_codes), "seed": str(seed)}
        config: dict[str, Any] = {
            "data": {"name": data, "root": "nowhere", "path": None, "validation": 0.1, "test_fraction": 0.2}
            | {"image_size": None, "channels": None, "limit": None, "split_seed": 0},
            "vae": {"grid": 4, "seed": seed},
            "quantizer": {"name": quantizer, "K": n_codes, "seed": seed},
            "evaluation": {"n_samples": 20, "lpips_net": "alex", "seed": 0},
            "trainer": {"device": "cpu"},
            "seed": seed,
        }
        for key, value in (params or {}).items():
            group, name = key.split(".")
            config.setdefault(group, {})[name] = value
        measured = {
            "psnr": sum(psnr) / len(psnr),
            "psnr_pooled": sum(psnr) / len(psnr) - 0.25,
            "psnr_continuous": 30.0 + seed,
            "psnr_pooled_continuous": 29.0 + seed,
            "ssim": 0.9,
            "ssim_continuous": 0.95,
            "perceptual_digits_cnn": 0.5,
            "perceptual_digits_cnn_continuous": 0.25,
            "rate_nominal_bits_per_image": 16 * torch.tensor(float(n_codes)).log2().item(),
            "rate_prior_bits_per_image": 40.0 + seed,
            "n_test_images": float(len(psnr)),
        } | (metrics or {})
        name = f"{data}-{quantizer}-K{n_codes}-s{seed}"
        run = start_run(settings, root, name, labels | keys | (tags or {}), parent)
        run.log_params(config)
        run.log_dict(config, "config.json")
        run.log_metrics({name: value for name, value in measured.items() if name not in without})
        run.set_tags({f"omitted.{name}": reason for name, reason in (omitted or {}).items()})
        if status != "RUNNING":
            run.end(status)
        return str(run.run_id)

    return make


@pytest.fixture
def compare(root: Path, settings: SimpleNamespace, compose: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """``compare("runs=[…]")``: the command; returns the folder it wrote."""
    from omegaconf import OmegaConf

    from geovq.commands.compare import compare as command

    def call(*overrides: str) -> Path:
        out = tmp_path / "out"
        chosen = ("metrics=[psnr,ssim,perceptual,rate_nominal_bits_per_image]", "bootstrap=200", "reference=none")
        where = (f"paths.root={root}", f"tracking.experiment={settings.experiment}", f"out={out}")
        values = compose(*where, *chosen, *overrides, name="compare")
        command(OmegaConf.create(values))
        return Path(values["out"]) if values["out"] else root / "comparisons"

    return call
