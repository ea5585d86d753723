"""The figures of a comparison: the rate-distortion plot and the sheet of reconstructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.comparison.runs import RATES, ComparedRun
from geovq.comparison.summary import CEILING, Comparison, Footnotes, Row, seed_cell
from geovq.errors import ConfigError
from geovq.evaluation.gaussian_reference import gaussian_reference_psnr
from geovq.evaluation.reconstruction import image_errors
from geovq.viz.grids import image_grid
from geovq.viz.rate_distortion import RatePanel, RatePoint, rate_distortion_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REFERENCE = "Gaussian of the images' covariance (pooled error)"
_KINDS = {"psnr": "PSNR, mean over images (dB)", "psnr_pooled": "PSNR of the pooled error (dB)"}
_CURVE_POINTS = 200


def rate_distortion(comparison: Comparison, rate: str, spectrum: Tensor | None) -> Figure:
    """PSNR against bits per image, one panel per kind of PSNR.

    Args:
        comparison: its arms are the points; its ceilings are horizontal lines, or a curve over the rates of the K that
            autoencoders were trained for.
        rate: a key of ``RATES``.
        spectrum: eigenvalues of the training images' covariance, for the reference curve in the panel of the
            pooled error; None draws none.
    """
    notes = Footnotes()  # both kinds of PSNR and the rate are there: reading the runs has made sure
    series = {kind: _points(comparison, kind, rate, notes) for kind in _KINDS}
    panels = []
    for kind, y_label in _KINDS.items():
        references = {}
        if spectrum is not None and kind == "psnr_pooled":
            bits = _curve_bits([point.bits for points in series[kind].values() for point in points])
            references[_REFERENCE] = (bits.tolist(), gaussian_reference_psnr(spectrum, bits).tolist())
        panels.append(RatePanel(y_label, series[kind], _ceilings(comparison, kind, rate, notes), references))
    return rate_distortion_figure(panels, f"{rate} rate (bits per image)", comparison.title)


def _points(comparison: Comparison, kind: str, rate: str, notes: Footnotes) -> dict[str, list[RatePoint]]:
    series: dict[str, list[RatePoint]] = {}
    for arm in comparison.arms:
        psnr, bits = (seed_cell(arm.runs, name, notes) for name in (kind, RATES[rate]))
        assert psnr.mean is not None
        assert bits.mean is not None
        series.setdefault(arm.series, []).append(RatePoint(bits.mean, psnr.mean, psnr.error, bits.error))
    return series


def _ceilings(comparison: Comparison, kind: str, rate: str, notes: Footnotes) -> dict[str, list[RatePoint]]:
    """Per series of autoencoders a point for each, at the mean rate of the arms on it."""
    ceilings: dict[str, list[RatePoint]] = {}
    for row in comparison.rows:
        if row.kind != CEILING:
            continue
        level = seed_cell(row.runs, kind, notes, f"{kind}_continuous")
        rates = [seed_cell(arm.runs, RATES[rate], notes).mean or 0.0 for arm in row.arms]
        if level.mean is not None:
            point = RatePoint(sum(rates) / len(rates), level.mean, level.error)
            ceilings.setdefault(row.series, []).append(point)
    return ceilings


def _curve_bits(rates: list[float]) -> Tensor:
    low, high = min(rates), max(rates)
    margin = max(0.08 * (high - low), 0.05 * high)
    return torch.linspace(max(0.0, low - margin) or low / 2, high + margin, _CURVE_POINTS, dtype=torch.float64)


def reconstruction_sheet(comparison: Comparison) -> Figure | str:
    """Rows original | continuous autoencoders | arms, over the test images that every report pictures.

    An arm is shown by the run of its first seed, an autoencoder by that of its first arm. Returns a sentence instead
    where a report holds no pictures or no image is in all.

    Raises:
        ConfigError: two reports picture different images under one index.
    """
    lacking = [row for row in comparison.rows if row.runs[0].pictures is None]
    if lacking:
        run = lacking[0].runs[0]
        return (
            f"No sheet of reconstructions: the report of run {run.title} holds no pictures; "
            f"python src/evaluate.py run={run.record.run_id[:12]} records a run whose report does, to name in runs=[…]."
        )
    shown = [row.runs[0] for row in comparison.rows]
    common = _common_index(shown)
    if not common:
        return "No sheet of reconstructions: no test image is pictured in all reports."
    original = _pick(shown[0], "original", common)
    for run in shown[1:]:
        if not torch.equal(original, _pick(run, "original", common)):
            raise ConfigError(
                f"runs: {shown[0].title} and {run.title} picture different test images under the same index; a "
                "comparison is on the same test images, take runs on one set"
            )
    images, labels, titles = [original], ["original"], [""] * len(common)
    for row in comparison.rows:
        output = _pick(row.runs[0], "continuous" if row.kind == CEILING else "quantized", common)
        images.append(output)
        labels.append(_row_label(row))
        titles += [f"{psnr:.1f}" for psnr in image_errors(original, output)["psnr"].tolist()]
    return image_grid(
        torch.cat(images),
        rows=len(images),
        cols=len(common),
        titles=titles,
        row_labels=labels,
        title=comparison.title,
        caption="Numbers: PSNR to the original, in dB, of the pictures as stored (8 bits).",
    )


def _row_label(row: Row) -> str:
    return f"{row.label}, seed {row.runs[0].seed}" if len(row.runs) > 1 else row.label


def _common_index(runs: list[ComparedRun]) -> list[int]:
    """Test images that all runs picture, rising."""
    sets = [set(run.pictures["index"].tolist()) for run in runs if run.pictures is not None]
    return sorted(set.intersection(*sets))


def _pick(run: ComparedRun, name: str, index: list[int]) -> Tensor:
    """(n, C, H, W) in [0, 1]."""
    assert run.pictures is not None
    places = {image: place for place, image in enumerate(run.pictures["index"].tolist())}
    return run.pictures[name][[places[image] for image in index]].float() / 255
