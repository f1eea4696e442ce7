"""Where the name of a point stands in a scatter plot, so that no two names overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Tried in this order, then the same further away. Above left first: stairs arrive from below and leave to the right.
_ANGLES = (135, 90, 180, 0, 45, 225, 315, 270)
_CHARACTER, _HEIGHT, _MARK = 0.62, 1.15, 4.5


@dataclass(frozen=True)
class Axis:
    """An axis: data from `low` to `high` over `pixels`, linear or logarithmic."""

    low: float
    high: float
    pixels: float
    log: bool = False

    def to_pixels(self, value: float) -> float:
        """Distance from the low end."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low) * self.pixels

    def to_data(self, pixels: float) -> float:
        """The value at that distance."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        value = low + pixels / self.pixels * (high - low)
        return math.exp(value) if self.log else value

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value


def axis_over(values: Sequence[float], pixels: float, margin: float = 0.08, log_from: float = 8.0) -> Axis:
    """An axis that shows all finite `values` with a margin on both sides.

    Logarithmic where all are positive and the largest is more than `log_from` times the smallest:
    else a slow link presses the front into a corner.

    >>> axis_over([0.0, 10.0], 100, margin=0.1)
    Axis(low=-1.0, high=11.0, pixels=100, log=False)
    >>> axis_over([1.0, 100.0], 100).log
    True
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if low > 0 and high / low > log_from:
        factor = (high / low) ** margin
        return Axis(low / factor, high * factor, pixels, log=True)
    room = (high - low) * margin or abs(high) * margin or 1.0
    return Axis(low - room, high + room, pixels)


def place_labels(
    texts: Sequence[str],
    points: Sequence[tuple[float, float]],
    obstacles: Sequence[tuple[float, float]],
    x: Axis,
    y: Axis,
    font_size: float = 11,
) -> list[tuple[float, float]]:
    """The centre of each text, in data units, near its point and clear of the others.

    Args:
        texts: one per point.
        points: data coordinates of the points to be named.
        obstacles: data coordinates of all marks that text should not cover.
        x: the horizontal axis.
        y: the vertical axis.
        font_size: in pixels.

    Returns:
        One (x, y) per text. Greedy: where nothing is free, the place with the least overlap.
    """
    marks = [(x.to_pixels(a), y.to_pixels(b)) for a, b in obstacles]
    taken: list[tuple[float, float, float, float]] = []
    placed = []
    for text, (a, b) in zip(texts, points, strict=True):
        centre_x, centre_y = x.to_pixels(a), y.to_pixels(b)
        half_w, half_h = len(text) * font_size * _CHARACTER / 2, font_size * _HEIGHT / 2
        best: tuple[float, tuple[float, float, float, float]] | None = None
        for step, gap in enumerate((4.0, 12.0, 22.0, 34.0)):
            for turn, angle in enumerate(_ANGLES):
                across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
                left = centre_x + across * (half_w + gap + _MARK) - half_w
                low = centre_y + up * (half_h + gap + _MARK) - half_h
                box = (left, low, left + 2 * half_w, low + 2 * half_h)
                # A name on another name is unreadable, on a mark it is ugly, far away it is unclear.
                price = sum(_overlap(box, other) for other in taken) * 10 + step * 8 + turn * 0.5
                price += sum(_overlap(box, _around(mark)) for mark in marks) + _outside(box, x.pixels, y.pixels) * 10
                if best is None or price < best[0]:
                    best = (price, box)
        assert best is not None
        taken.append(best[1])
        left, low, right, high = best[1]
        placed.append((x.to_data((left + right) / 2), y.to_data((low + high) / 2)))
    return placed


def _around(mark: tuple[float, float]) -> tuple[float, float, float, float]:
    return (mark[0] - _MARK, mark[1] - _MARK, mark[0] + _MARK, mark[1] + _MARK)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _outside(box: tuple[float, float, float, float], width: float, height: float) -> float:
    return max(-box[0], 0) + max(-box[1], 0) + max(box[2] - width, 0) + max(box[3] - height, 0)
