"""Colours, sizes and text that all pictures share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BACKGROUND = "#0d1117"
INK = "#e6edf3"
FAINT_INK = "#8b949e"
FIXED_BRIGHTER, MOVING_BRIGHTER = "#4d9bff", "#ff9a3d"

REGION_COLOURS = ("#b9bec4", "#2fd6b5", "#ffe66d", "#c78cff", "#ff6fb5", "#d9f2a0", "#8a7fd6")
"""One colour per region, in the order of their labels; distinct on black, and none is the blue or
the orange that shows a difference."""

WIDTH_INCH = 13.0
DPI = 140


def region_colour(value: int, values: list[int]) -> str:
    """The colour of a label; colours repeat if there are more labels than colours."""
    return REGION_COLOURS[values.index(value) % len(REGION_COLOURS)]


def write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write text at shares (0 to 1) of a panel, legible on black and on white."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.2, foreground=BACKGROUND, alpha=0.85)]
    axes.text(x, y, text, color=INK, transform=axes.transAxes, zorder=9, path_effects=halo, **style)


def round_below(limit: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... that does not exceed a limit (by more than rounding).

    Example:
        >>> round_below(37.0), round_below(0.6)
        (20.0, 0.5)
    """
    power = 10.0 ** np.floor(np.log10(limit))
    return float(power * max(f for f in (1, 2, 5) if f * power <= limit * 1.001))
