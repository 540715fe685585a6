"""Histograms as polygons, which a page draws without any script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iterreg.report.words import is_number, short

BINS = 24
WIDTH, HEIGHT = 240, 60
"""Of the drawing, in its own units."""


@dataclass(frozen=True)
class Histogram:
    """One figure of many cases.

    Args:
        title: what it is.
        bars: x, y, width and height of each bar, in the units of the drawing.
        low, high: ends of the axis, in words.
        median: in words.
        count: how many cases have the figure.
    """

    title: str
    bars: tuple[tuple[float, float, float, float], ...]
    low: str
    high: str
    median: str
    count: int


def histograms(figures: Sequence[tuple[str, Sequence[Any]]]) -> list[Histogram]:
    """Draw a histogram of each figure that at least two cases have.

    Args:
        figures: title and values; what is no number is left out.

    Example:
        >>> (drawn,) = histograms([("Dice", [0.5, 0.6, None, 0.9])])
        >>> drawn.low, drawn.median, drawn.high, drawn.count
        ('0.5', '0.6', '0.9', 3)
    """
    drawn = []
    for title, values in figures:
        numbers = sorted(float(v) for v in values if is_number(v))
        if len(numbers) > 1:
            drawn.append(_draw(title, numbers))
    return drawn


def _draw(title: str, numbers: Sequence[float]) -> Histogram:
    low, high = numbers[0], numbers[-1]
    width = (high - low) / BINS or 1.0
    counts = [0] * BINS
    for number in numbers:
        counts[min(BINS - 1, int((number - low) / width))] += 1
    step, most = WIDTH / BINS, max(counts)
    bars = tuple(
        (k * step, HEIGHT * (1 - c / most), step - 1, HEIGHT * c / most)
        for k, c in enumerate(counts)
        if c
    )
    median = numbers[len(numbers) // 2]
    return Histogram(title, bars, short(low), short(high), short(median), len(numbers))
