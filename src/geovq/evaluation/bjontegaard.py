"""How many bits one method spends more or less than another at equal quality, from a few points of each.

Bjøntegaard's delta rate (VCEG-M33, 2001), with the logarithm of the rate as a monotone piecewise cubic of the PSNR
(pchip: Fritsch and Carlson 1980) in place of one cubic, as in later practice: it passes through the points and does not
swing between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geovq.errors import InputError


def bd_rate(
    psnr: Sequence[float], bits: Sequence[float], reference_psnr: Sequence[float], reference_bits: Sequence[float]
) -> tuple[float, float, float]:
    """Mean difference of the rate at equal PSNR in percent, below 0 where the method spends less.

    ``100·(exp(mean of ln bits − ln reference bits) − 1)`` over the PSNRs that both curves reach.

    Args:
        psnr: of the method's points in dB, in any order.
        bits: of the same points, above 0.
        reference_psnr: of the method that it is compared with.
        reference_bits: of the same points.

    Returns:
        The difference, and the least and the greatest PSNR of the mean.

    Raises:
        InputError: fewer than two points, a rate that is not above 0, two points of one PSNR, or curves that share no
            PSNR.
    """
    from scipy.interpolate import PchipInterpolator

    curves = []
    for quality, rate in ((psnr, bits), (reference_psnr, reference_bits)):
        x, y = np.asarray(quality, float), np.asarray(rate, float)
        if x.shape != y.shape or x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all() or not (y > 0).all():
            raise InputError(f"PSNR {x.tolist()} and bits {y.tolist()}: give two points or more, with bits above 0")
        order = np.argsort(x)
        if (np.diff(x[order]) == 0).any():
            raise InputError(f"PSNR {x.tolist()}: two points have the same, so that the rate is no function of it")
        curves.append((x[order], PchipInterpolator(x[order], np.log(y[order]))))
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if low >= high:
        raise InputError(f"one curve ends at {low:g} dB and the other begins there or at {high:g}: no PSNR is common")
    means = [float(curve.integrate(low, high)) / (high - low) for _, curve in curves]
    return 100 * float(np.expm1(means[0] - means[1])), float(low), float(high)
