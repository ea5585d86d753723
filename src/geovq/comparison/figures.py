"""The figures of a comparison: the rate-distortion plot and the sheet of reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.comparison.runs import RATES, ComparedRun
from geovq.comparison.summary import UNQUANTIZED, Comparison, Row, seed_cell
from geovq.errors import ConfigError
from geovq.evaluation.gaussian_reference import gaussian_reference_psnr
from geovq.viz import reconstruction_figure
from geovq.viz.rate_distortion import RatePanel, RatePoint, rate_distortion_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REFERENCE = "Gaussian of the images' covariance (pooled error)"
_KINDS = {"psnr": "PSNR, mean over images (dB)", "psnr_pooled": "PSNR of the pooled error (dB)"}
_CURVE_POINTS = 200


def rate_distortion(comparison: Comparison, rate: str, spectrum: Tensor | None) -> Figure:
    """PSNR against bits per image, one panel per kind of PSNR.

    Args:
        comparison: its methods are the points; unquantized reconstructions are horizontal lines, or a curve over the
            rates of the K that autoencoders were trained for.
        rate: a key of ``RATES``.
        spectrum: eigenvalues of the training images' covariance, for the reference curve in the panel of the
            pooled error; None draws none.
    """
    panels = []
    for kind, y_label in _KINDS.items():
        series: dict[str, dict[str, list[RatePoint]]] = {"methods": {}, "unquantized": {}}
        for row in comparison.rows:
            of_kind = series["unquantized" if row.kind == UNQUANTIZED else "methods"]
            of_kind.setdefault(row.series, []).extend(_points(row, kind, rate))
        references: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
        if spectrum is not None and kind == "psnr_pooled":
            bits = _curve_bits([point.bits for points in series["methods"].values() for point in points])
            references[_REFERENCE] = (bits.tolist(), gaussian_reference_psnr(spectrum, bits).tolist())
        unquantized = {label: points for label, points in series["unquantized"].items() if points}
        panels.append(RatePanel(y_label, series["methods"], unquantized, references))
    return rate_distortion_figure(panels, f"{rate} rate (bits per image)", comparison.title)


def _points(row: Row, kind: str, rate: str) -> list[RatePoint]:
    """The point of a row, where the score is there: it need not be for unquantized reconstructions, which stand at the
    mean rate of the methods on their autoencoder.
    """
    rates = [seed_cell(method.runs, RATES[rate]) for method in row.methods]
    bits = sum(each.mean or 0.0 for each in rates) / len(rates)
    psnr = seed_cell(row.runs, kind, "_continuous" * (row.kind == UNQUANTIZED))
    bits_error = None if row.kind == UNQUANTIZED else rates[0].error
    return [] if psnr.mean is None else [RatePoint(bits, psnr.mean, psnr.error, bits_error)]


def _curve_bits(rates: list[float]) -> Tensor:
    low, high = min(rates), max(rates)
    margin = max(0.08 * (high - low), 0.05 * high)
    return torch.linspace(max(0.0, low - margin) or low / 2, high + margin, _CURVE_POINTS, dtype=torch.float64)


def reconstruction_sheet(comparison: Comparison) -> Figure | str:
    """Rows original | continuous autoencoders | methods, over the test images that every report pictures.

    A method is shown by the run of its first seed, an autoencoder by that of its first method. Returns a sentence
    instead where a report holds no pictures or no image is in all.

    Raises:
        ConfigError: two reports picture different images under one index.
    """
    shown: list[tuple[ComparedRun, Mapping[str, Tensor]]] = []
    for run in (row.runs[0] for row in comparison.rows):
        if run.pictures is None:
            return (
                f"No sheet of reconstructions: the report of run {run.title} holds no pictures; python src/evaluate.py "
                f"run={run.record.run_id[:12]} records a run whose report does, to name in runs=[…]."
            )
        shown.append((run, run.pictures))
    common = sorted(set.intersection(*(set(pictures["index"].tolist()) for _, pictures in shown)))
    if not common:
        return "No sheet of reconstructions: no test image is pictured in all reports."
    first, original = shown[0][0], _pick(shown[0][1], "original", common)
    rows = {"original": original}
    for row, (run, pictures) in zip(comparison.rows, shown, strict=True):
        if not torch.equal(original, _pick(pictures, "original", common)):
            raise ConfigError(
                f"runs: {first.title} and {run.title} picture different test images under the same index; a "
                "comparison is on the same test images, take runs on one set"
            )
        label = f"{row.label}, seed {run.seed}" if len(row.runs) > 1 else row.label
        rows[label] = _pick(pictures, "continuous" if row.kind == UNQUANTIZED else "quantized", common)
    caption = "Numbers: PSNR to the original, in dB, of the pictures as stored (8 bits)."
    return reconstruction_figure(rows, comparison.title, caption)


def _pick(pictures: Mapping[str, Tensor], name: str, index: list[int]) -> Tensor:
    """(n, C, H, W) in [0, 1]."""
    places = {image: place for place, image in enumerate(pictures["index"].tolist())}
    return pictures[name][[places[image] for image in index]].float() / 255
