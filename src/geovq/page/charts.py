"""Small charts as SVG whose colours are those of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from markupsafe import Markup

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 210, 52, 18, 26, 40
_MOST_POINTS = 400


def line_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    log: bool = False,
    even: float | None = None,
) -> Markup:
    """At most two lines of (x, y) by name; ``even`` is a height to mark. With ``log``, values up to 0 are left out."""
    kept = {name: _points(x, y, log) for name, (x, y) in series.items()}
    kept = {name: points for name, points in kept.items() if len(points)}
    if not kept:
        return Markup("<p class='faint'>nothing to draw</p>")
    every = np.concatenate([*kept.values()])
    heights = [*every[:, 1], *([even] if even is not None and (even > 0 or not log) else [])]
    frame = _Frame((every[:, 0].min(), every[:, 0].max()), (min(heights), max(heights)), log)
    parts = [frame.axes(x_label, y_label)]
    if even is not None and len(heights) > len(every):
        height = frame.y(even)
        parts.append(f'<line class="even" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
    for place, (name, points) in enumerate(kept.items()):
        other = " other" if place else ""
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        mark = f'<polyline class="series{other}" points="{path}"/>'
        if len(points) == 1:
            mark = (
                f'<circle class="bar{other}" r="3" cx="{frame.x(points[0][0]):.1f}" cy="{frame.y(points[0][1]):.1f}"/>'
            )
        parts.append(mark)
        if len(kept) > 1:
            x = _WIDTH - _RIGHT - 65 * (len(kept) - 1 - place)
            parts.append(f'<text class="name{other}" x="{x}" y="14">{escape(name)}</text>')
    return _svg(parts, y_label)


def bar_chart(values: Sequence[float], x_label: str, y_label: str, *, log: bool = False) -> Markup:
    """A bar for each value, from 0 or, where ``log``, from half the smallest one; numbered from 1."""
    heights = np.asarray(values, dtype=float)
    shown = heights[heights > 0] if log else heights
    if not len(shown):
        return Markup("<p class='faint'>nothing to draw</p>")
    base = shown.min() / 2 if log else min(0.0, shown.min())
    frame = _Frame((0.5, len(heights) + 0.5), (base, max(shown.max(), base)), log, whole=True)
    parts = [frame.axes(x_label, y_label)]
    gap = 1.0 if len(heights) < 100 else -0.3
    for place, value in enumerate(heights, 1):
        if value > base:
            left, right, top = frame.x(place - 0.5), frame.x(place + 0.5), frame.y(value)
            size = f'width="{max(right - left - gap, 0.5):.1f}" height="{frame.y(base) - top:.1f}"'
            parts.append(
                f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" {size}><title>{place}: {value:.4g}</title></rect>'
            )
    return _svg(parts, y_label)


class _Frame:
    """From values to places in the picture."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float], log: bool, whole: bool = False) -> None:
        self.log, self.across = log, across if across[1] > across[0] else (across[0] - 1, across[1] + 1)
        low, high = (math.log10(up[0]), math.log10(up[1])) if log else up
        margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        self.up = (low if whole else low - margin, high + margin)

    def x(self, value: float) -> float:
        low, high = self.across
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.up
        share = ((math.log10(value) if self.log else value) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    def axes(self, x_label: str, y_label: str) -> str:
        """Axes, ticks and labels."""
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        parts = [f'<path class="axis" d="M{_LEFT},{_TOP}V{bottom}H{right}"/>']
        for value in _ticks(*self.across):
            parts.append(f'<text x="{self.x(value):.1f}" y="{bottom + 15}" text-anchor="middle">{value:.6g}</text>')
        powers = self.log and self.up[1] - self.up[0] >= 2
        levels = [10**power for power in _ticks(*self.up, least=1)] if powers else self._levels()
        for value in levels:
            y = self.y(value)
            parts.append(f'<path class="axis" d="M{_LEFT},{y:.1f}H{right}"/>')
            parts.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
        middle = (_LEFT + right) / 2
        parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
        parts.append(f'<text x="2" y="14">{escape(y_label)}</text>')
        return "".join(parts)

    def _levels(self) -> list[float]:
        if not self.log:
            return _ticks(*self.up)
        low, high = (10**end for end in self.up)
        return [value for value in _ticks(low, high) if value > low]


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """Some round numbers from low to high, apart by 1, 2 or 5 times a power of ten."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = max(next(power * each for each in (1, 2, 5, 10) if span / (power * each) <= 5), least)
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [float(f"{place * step:.12g}") for place in places]


def _points(x: Sequence[float], y: Sequence[float], log: bool) -> np.ndarray:
    points = np.stack([np.asarray(x, float), np.asarray(y, float)], axis=1)
    points = points[np.isfinite(points).all(1)]
    points = points[points[:, 1] > 0] if log else points
    if len(points) <= _MOST_POINTS:
        return points
    return points[np.linspace(0, len(points) - 1, _MOST_POINTS).astype(int)]


def _svg(parts: Sequence[str], label: str) -> Markup:
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")
