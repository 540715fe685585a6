"""Colours, sizes and text that all pictures share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BACKGROUND = "#0d1117"
INK = "#e6edf3"
FAINT_INK = "#8b949e"
FIXED_ALONE, MOVING_ALONE = "#4d9bff", "#ff9a3d"

REGION_COLOURS = (
    "#9fb4c7",
    "#3ddbc0",
    "#ffb454",
    "#c792ea",
    "#7cc5ff",
    "#f78c6c",
    "#addb67",
    "#ff7eb6",
    "#ffe66d",
    "#5c9ded",
)
"""One colour per region, in the order of their labels; distinct on black."""

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
