"""Files of codes beside JPEG, WebP, AVIF and JPEG XL, on the same test images.

python benchmarks/codecs.py data=fashion [runs=latest,NAME,…] [images=1024] [singles=100]

A file of one small image is all header, so peers also get one mosaic of all images: ``tiles`` side by side, or
``spread``, where pixel (r, c) of all images lie together. Of each peer's settings the one counts that takes fewest bits
at a PSNR. PSNR is the mean over images, of bytes.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.interpolate import PchipInterpolator

from _coded_run import CodedRun
from coding import file_of
from geovq.coding.integer_prior import IntegerPrior
from geovq.evaluation.reconstruction import image_errors

FEWEST_RATES = 5


class Point(NamedTuple):
    """A rate in bits per image, and the PSNR in dB there."""

    bits: float
    psnr: float
    setting: str


def peers() -> dict[str, tuple[list[dict[str, Any]], list[int]]]:
    """Options of Pillow that are tried of each format, and the qualities with each."""
    found: dict[str, tuple[list[dict[str, Any]], list[int]]] = {
        "JPEG": ([{"optimize": True}, {"optimize": True, "progressive": True}], [2, 5, 8, 12, 18, 25, 35, 50]),
        "WEBP": ([{"method": 6}, {"method": 6, "alpha_quality": 0, "exact": False}], [0, 2, 5, 10, 20, 35, 50, 65]),
        "AVIF": (
            [
                {"speed": speed, "subsampling": "4:0:0", "advanced": advanced}
                for speed, advanced in ((2, {"tune": "psnr"}), (2, {}), (6, {"tune": "psnr"}))
            ],
            [5, 12, 20, 28, 36, 44, 52, 60],
        ),
    }
    try:
        import pillow_jxl  # noqa: F401  (registers the format)

        found["JXL"] = ([{"effort": 7}, {"effort": 9}], [1, 5, 10, 20, 30, 45, 60, 75])
    except ImportError:
        print("JPEG XL is left out: pip install -e '.[codecs]'")
    return found


def tiled(images: np.ndarray) -> np.ndarray:
    """(N, H, W), N a square, to a mosaic, side by side."""
    side = math.isqrt(len(images))
    _, height, width = images.shape
    return images.reshape(side, side, height, width).swapaxes(1, 2).reshape(side * height, side * width)


def untiled(mosaic: np.ndarray, n: int) -> np.ndarray:
    """Undo ``tiled``."""
    side = math.isqrt(n)
    height, width = mosaic.shape[0] // side, mosaic.shape[1] // side
    return mosaic.reshape(side, height, side, width).swapaxes(1, 2).reshape(n, height, width)


def spread(images: np.ndarray) -> np.ndarray:
    """(N, H, W) to a mosaic of H x W blocks, each of one pixel of all images."""
    side = math.isqrt(len(images))
    _, height, width = images.shape
    return images.reshape(side, side, height, width).transpose(2, 0, 3, 1).reshape(side * height, side * width)


def unspread(mosaic: np.ndarray, n: int) -> np.ndarray:
    """Undo ``spread``."""
    side = math.isqrt(n)
    height, width = mosaic.shape[0] // side, mosaic.shape[1] // side
    return mosaic.reshape(height, side, width, side).transpose(1, 3, 0, 2).reshape(n, height, width)


def psnr(before: np.ndarray, after: np.ndarray) -> float:
    """Mean over images (N, H, W) of bytes."""
    pair = (torch.from_numpy(np.ascontiguousarray(images))[:, None].float() / 255 for images in (before, after))
    return float(image_errors(*pair)["psnr"].double().mean())


def coded(image: np.ndarray, form: str, quality: int, options: dict[str, Any]) -> tuple[int, np.ndarray]:
    """Bytes of a grey picture in a format, and what is read from them."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form, quality=quality, **options)
    size = stream.tell()
    return size, np.asarray(Image.open(stream).convert("L"))


def points_of(
    images: np.ndarray, form: str, way: str, options: list[dict[str, Any]], qualities: list[int]
) -> list[Point]:
    """All settings of a format, of ``tiles``, ``spread`` or ``singles``."""
    join, part = {"tiles": (tiled, untiled), "spread": (spread, unspread)}.get(way, (None, None))
    found = []
    for quality in qualities:
        for number, chosen in enumerate(options):
            if join is not None and part is not None:
                size, mosaic = coded(join(images), form, quality, chosen)
                read = part(mosaic, len(images))
            else:
                each = [coded(image, form, quality, chosen) for image in images]
                size, read = sum(size for size, _ in each), np.stack([image for _, image in each])
            found.append(Point(8 * size / len(images), psnr(images, read), f"q{quality}/{number}"))
    return found


def frontier(points: list[Point]) -> list[Point]:
    """The points that no other one beats in rate and PSNR, by rising rate."""
    kept: list[Point] = []
    for point in sorted(points):
        if not kept or point.psnr > kept[-1].psnr:
            kept.append(point)
    return kept


def bits_at(points: list[Point], wanted: float) -> float:
    """Bits per image at a PSNR, between two points; infinite or nan outside them."""
    psnrs, logs = [p.psnr for p in points], [math.log(p.bits) for p in points]
    return math.exp(np.interp(wanted, psnrs, logs)) if psnrs[0] <= wanted <= psnrs[-1] else math.nan


def bd_rate(ours: list[Point], theirs: list[Point]) -> str:
    """Mean difference of rate in percent at equal PSNR (Bjontegaard 2001, with monotone cubics)."""
    if min(len(ours), len(theirs)) < FEWEST_RATES:
        return f"not enough rates for a BD-rate ({len(ours)} and {len(theirs)}, at least {FEWEST_RATES})"
    low, high = max(ours[0].psnr, theirs[0].psnr), min(ours[-1].psnr, theirs[-1].psnr)
    if low >= high:
        return "no common PSNR for a BD-rate"
    means = []
    for points in (ours, theirs):
        curve = PchipInterpolator([p.psnr for p in points], [math.log(p.bits) for p in points])
        means.append(curve.integrate(low, high) / (high - low))
    return f"BD-rate {100 * (math.exp(means[0] - means[1]) - 1):+.1f} % from {low:.2f} to {high:.2f} dB"


def ours_of(run: CodedRun, n: int, singles: int) -> tuple[Point, float]:
    """One file of the first n test images, and the mean of files of one."""
    codes, prior = run.codes[:n].flatten(1).numpy(), IntegerPrior(run.prior)
    with_classes = run.prior.layout.n_classes > 0
    size = len(file_of(prior, codes, with_classes=with_classes))
    alone = [len(file_of(prior, codes[i : i + 1], with_classes=with_classes)) for i in range(singles)]
    before, after = run.test_images[:n, 0].numpy(), run.decoded()[:n, 0].numpy()
    return Point(8 * size / n, psnr(before, after), run.record.name), 8 * sum(alone) / singles


def main() -> None:
    """Tables on standard output."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    runs = [CodedRun(which) for which in words.get("runs", "latest").split(",")]
    n, singles = int(words.get("images", 1024)), int(words.get("singles", 100))
    n = math.isqrt(n) ** 2
    wanted = words.get("data", "fashion")
    for run in runs:
        if run.context.config.data.name != wanted or run.context.info.channels != 1:
            sys.exit(
                f"error: runs: {run.record.name} is of data={run.context.config.data.name}; name grey runs of {wanted}"
            )
    ours = []
    print(f"first {n:,} test images of {wanted}; one file, its header and checksums counted, without names")
    for run in runs:
        point, alone = ours_of(run, n, singles)
        ours.append(point)
        weights = run.weights()
        listed = ", ".join(f"{name} {size:,}" for name, size in weights.items())
        print(f"{point.setting:36s} {point.bits:8.1f} bits per image, {point.psnr:.2f} dB; alone {alone:.0f} bits")
        print(f"  needs {sum(weights.values()):,} bytes of weights ({listed}), trained on images of the same kind")
    images = runs[0].test_images[:n, 0].numpy()
    curve = frontier(ours)
    for form, way, found in measured(images, images[:singles], lambda: peers()):
        best = frontier(found)
        told = "  ".join(f"{p.bits:.0f}:{p.psnr:.2f}" for p in best)
        print(f"{form:5s} {way:8s} bits:dB {told}", flush=True)
        for point in curve:
            print(f"  at {point.psnr:.2f} dB {bits_at(best, point.psnr):.0f} bits per image, ours {point.bits:.1f}")
        if way != "singles":
            print(f"  {bd_rate(curve, best)}", flush=True)


def measured(
    images: np.ndarray, few: np.ndarray, formats: Callable[[], dict[str, Any]]
) -> Iterator[tuple[str, str, list[Point]]]:
    """Every format in every way."""
    for form, (options, qualities) in formats().items():
        for way, given in (("tiles", images), ("spread", images), ("singles", few)):
            yield form, way, points_of(given, form, way, options, qualities)


if __name__ == "__main__":
    main()
