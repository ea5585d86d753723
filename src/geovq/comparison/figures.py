"""The figures of a comparison: the rate-distortion plot with its reference, and the sheet of reconstructions."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.comparison.methods import Method
from geovq.comparison.runs import RATES, ComparedRun
from geovq.comparison.summary import Comparison, seed_cell
from geovq.errors import ConfigError, DataError, first_line
from geovq.evaluation.gaussian_reference import covariance_spectrum, gaussian_reference_psnr
from geovq.pipeline.artifacts import DATA_IN_KEY, ArtifactStore, artifact_key
from geovq.tracking import CONFIG_FILE
from geovq.viz import reconstruction_figure
from geovq.viz.rate_distortion import RatePanel, RatePoint, rate_distortion_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geovq.pipeline.artifacts import ArtifactWriter
    from geovq.tracking import RunRecord

_REFERENCE = "Gaussian of the images' covariance (pooled error)"
_KINDS = {"psnr": "PSNR, mean over images (dB)", "psnr_pooled": "PSNR of the pooled error (dB)"}
_CURVE_POINTS = 200
_SPECTRUM = "spectrum"
_MOST_EIGENVALUES = 4096
"""Their cost grows with the third power. Enough for images of 32x32 in colour, or for as many images of any size."""
_FEW_IMAGES = 10
"""A covariance from fewer images per pixel than this has visibly too small a tail."""


def training_spectrum(record: RunRecord, root: Path) -> tuple[Tensor | None, list[str]]:
    """Eigenvalues (C·H·W,) of the covariance of a run's training images, and remarks on them.

    The images are looked for as ``evaluate.py`` does, and never fetched; where they are gone, the eigenvalues are None
    and a remark says so. Kept as an artifact under ``root``.
    """
    from geovq.configuration.options import Data
    from geovq.configuration.parse import parse
    from geovq.configuration.renamed import in_words_of_today, option
    from geovq.data import open_images
    from geovq.pipeline.prepared import load_images

    data = record.load_dict(CONFIG_FILE)["data"]

    def write(out: ArtifactWriter) -> None:
        loaded = load_images(settings, source, source.info(), root, processes=None)
        out.tensors("spectrum", {"eigenvalues": covariance_spectrum(loaded.train.images)})
        out.json("summary", {"n_images": len(loaded.train.images)})

    try:
        here = {"root": os.environ.get("GEOVQ_DATA", data["root"]), "download": False}
        known = option("data", "_base") | in_words_of_today({"data": data})["data"]
        settings = parse(Data, known | here, "data")
        source = open_images(settings)
        info = source.info()
        n_values, n_images = math.prod(info.image_shape), min(info.n_train, settings.limit or info.n_train)
        if min(n_values, n_images) > _MOST_EIGENVALUES:
            told = f"the covariance of {n_values} values over {n_images} images has too many eigenvalues"
            return None, [f"No Gaussian reference: {told}."]
        origin = {"data": {name: data[name] for name in DATA_IN_KEY} | {"fingerprint": info.fingerprint}}
        artifact = ArtifactStore(root).build(_SPECTRUM, artifact_key(_SPECTRUM, 1, origin, {}), origin, {}, write)
    except DataError as error:
        reason = first_line(error).rstrip(".")
        return None, [f"No Gaussian reference: the training images are not there ({reason})."]
    spectrum, n_images = artifact.tensors("spectrum")["eigenvalues"], artifact.json("summary")["n_images"]
    few = n_images < _FEW_IMAGES * len(spectrum)
    remark = (
        f"The Gaussian reference rests on {n_images} images of {len(spectrum)} values each: too few for the small "
        "eigenvalues, so the curve is too high."
    )
    return spectrum, [remark] * few


def rate_distortion(comparison: Comparison, rate: str, spectrum: Tensor | None) -> Figure:
    """PSNR against bits per image by ``rate``, a key of ``RATES``; one panel per kind of PSNR.

    Methods are the points. Unquantized reconstructions are horizontal lines, or a curve over the rates of the K that
    autoencoders were trained for. ``spectrum``, the eigenvalues of the training images' covariance, gives a reference
    curve in the panel of the pooled error.
    """
    panels = []
    for kind, y_label in _KINDS.items():
        methods: dict[str, list[RatePoint]] = {}
        unquantized: dict[str, list[RatePoint]] = {}
        for row in comparison.rows:
            is_method = isinstance(row.of, Method)
            psnr = seed_cell(row.of.runs, kind, "" if is_method else "_continuous")
            bits = [seed_cell(method.runs, RATES[rate]) for method in row.of.methods]
            if psnr.mean is not None:  # that of methods is: reading the runs has made sure, and of their rates
                mean_bits = sum(each.mean or 0.0 for each in bits) / len(bits)
                point = RatePoint(mean_bits, psnr.mean, psnr.error, bits[0].error if is_method else None)
                (methods if is_method else unquantized).setdefault(row.of.series, []).append(point)
        references: dict[str, tuple[list[float], list[float]]] = {}
        if spectrum is not None and kind == "psnr_pooled":
            rates = [point.bits for points in methods.values() for point in points]
            margin = max(0.08 * (max(rates) - min(rates)), 0.05 * max(rates))
            low, high = max(0.0, min(rates) - margin) or min(rates) / 2, max(rates) + margin
            curve = torch.linspace(low, high, _CURVE_POINTS, dtype=torch.float64)
            references[_REFERENCE] = (curve.tolist(), gaussian_reference_psnr(spectrum, curve).tolist())
        panels.append(RatePanel(y_label, methods, unquantized, references))
    return rate_distortion_figure(panels, f"{rate} rate (bits per image)", comparison.title)


def reconstruction_sheet(comparison: Comparison) -> Figure | str:
    """Rows original | continuous autoencoders | methods, over the test images that every report pictures.

    A method is shown by the run of its first seed, an autoencoder by that of its first method. Returns a sentence
    instead where a report holds no pictures or no image is in all.

    Raises:
        ConfigError: two reports picture different images under one index.
    """
    runs = [row.of.runs[0] for row in comparison.rows]
    for run in runs:
        if not run.pictures:
            return (
                f"No sheet of reconstructions: the report of run {run.title} holds no pictures; python src/evaluate.py "
                f"run={run.record.run_id[:12]} records a run whose report does, to name in runs=[…]."
            )
    common = sorted(set.intersection(*(set(run.pictures["index"].tolist()) for run in runs)))
    if not common:
        return "No sheet of reconstructions: no test image is pictured in all reports."
    rows = {"original": _pick(runs[0], "original", common)}
    for row, run in zip(comparison.rows, runs, strict=True):
        if not torch.equal(rows["original"], _pick(run, "original", common)):
            raise ConfigError(
                f"runs: {runs[0].title} and {run.title} picture different test images under the same index; a "
                "comparison is on the same test images, take runs on one set"
            )
        label = f"{row.of.label}, seed {run.seed}" if len(row.of.runs) > 1 else row.of.label
        rows[label] = _pick(run, "quantized" if isinstance(row.of, Method) else "continuous", common)
    caption = "Numbers: PSNR to the original, in dB, of the pictures as stored (8 bits)."
    return reconstruction_figure(rows, comparison.title, caption)


def _pick(run: ComparedRun, name: str, index: list[int]) -> Tensor:
    """(n, C, H, W) in [0, 1]."""
    places = {image: place for place, image in enumerate(run.pictures["index"].tolist())}
    return run.pictures[name][[places[image] for image in index]].float() / 255
