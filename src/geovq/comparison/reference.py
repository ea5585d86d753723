"""The covariance spectrum of the images that recorded runs were trained on, computed once per data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from geovq.errors import DataError
from geovq.evaluation.gaussian_reference import covariance_spectrum
from geovq.pipeline.artifacts import DATA_IN_KEY, ArtifactStore, artifact_key
from geovq.tracking import CONFIG_FILE

if TYPE_CHECKING:
    from torch import Tensor

    from geovq.pipeline.artifacts import ArtifactWriter
    from geovq.tracking import RunRecord

_STAGE = "spectrum"
_FEW_IMAGES = 10
"""A covariance from fewer images per pixel than this has visibly too small a tail."""


def training_spectrum(record: RunRecord, root: Path) -> tuple[Tensor | None, list[str]]:
    """Eigenvalues (C·H·W,) of the covariance of a run's training images, and remarks on them.

    The images are looked for as ``evaluate.py`` does, and never fetched; where they are gone, the eigenvalues are None
    and a remark says so. Kept as an artifact under ``root``.
    """
    from geovq.data import load_data, open_source

    data = record.load_dict(CONFIG_FILE)["data"]

    def write(out: ArtifactWriter) -> None:
        loaded = load_data(source, validation=data["validation"], seed=data["split_seed"], limit=data["limit"])
        out.tensors("spectrum", {"eigenvalues": covariance_spectrum(loaded.train.images)})
        out.json("summary", {"n_images": len(loaded.train.images)})

    try:
        source = open_source(
            data["name"],
            os.environ.get("GEOVQ_DATA", data["root"]),
            download=False,
            seed=data["split_seed"],
            **{name: data[name] for name in ("path", "image_size", "channels", "test_fraction")},
        )
        settings = {"data": {name: data[name] for name in DATA_IN_KEY} | {"fingerprint": source.info().fingerprint}}
        artifact = ArtifactStore(root).build(_STAGE, artifact_key(_STAGE, 1, settings, {}), settings, {}, write)
    except DataError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        return None, [f"No Gaussian reference: the training images are not there ({reason})."]
    spectrum, n_images = artifact.tensors("spectrum")["eigenvalues"], artifact.json("summary")["n_images"]
    few = n_images < _FEW_IMAGES * len(spectrum)
    remark = (
        f"The Gaussian reference rests on {n_images} images of {len(spectrum)} values each: too few for the small "
        "eigenvalues, so the curve is too high."
    )
    return spectrum, [remark] * few
