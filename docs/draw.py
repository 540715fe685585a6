"""Draw the pictures of the concept pages, for light and for dark pages.

Usage: python docs/draw.py [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

matplotlib.rcParams["svg.fonttype"] = "none"
matplotlib.rcParams["svg.hashsalt"] = "iterreg"
matplotlib.rcParams["font.family"] = "sans-serif"
matplotlib.rcParams["font.size"] = 11

THEMES = {
    "light": {"ink": "#222222", "grid": "#8a8a8a", "fixed": "#1f6fb4", "moving": "#c2571a"},
    "dark": {"ink": "#e6e6e6", "grid": "#8a8a8a", "fixed": "#6db3f2", "moving": "#f2a065"},
}
Theme = dict[str, str]
Lattice = tuple[np.ndarray, np.ndarray]


def lattice(columns: int, rows: int, spacing: float, angle_deg: float = 0.0) -> Lattice:
    """Places of a grid's nodes: x and y, each (rows, columns)."""
    y, x = np.mgrid[:rows, :columns] * spacing
    turn = np.deg2rad(angle_deg)
    return np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y


def draw_lattice(axes: Axes, nodes: Lattice, colour: str, wide: float = 0.9) -> None:
    """Draw the lines between the nodes of a grid."""
    for x, y in (nodes, (nodes[0].T, nodes[1].T)):
        for line_x, line_y in zip(x, y, strict=True):
            axes.plot(line_x, line_y, color=colour, linewidth=wide, solid_capstyle="round")


def arrow(axes: Axes, start: tuple, end: tuple, colour: str, bend: float) -> None:
    """Draw a bent arrow."""
    style = {"arrowstyle": "-|>", "mutation_scale": 16, "linewidth": 1.8, "color": colour}
    axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **style))


def draw_space(figure: Figure, theme: Theme) -> None:
    """Two grids in one space, T between two points, and what goes which way."""
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1.2, 15.2), ylim=(-2.6, 5.6), aspect="equal")
    axes.axis("off")
    fixed = lattice(7, 6, 0.7)
    x, y = lattice(6, 6, 0.85, 12.0)
    moving = x + 10.0, y - 0.4
    draw_lattice(axes, fixed, theme["fixed"])
    draw_lattice(axes, moving, theme["moving"])
    at = fixed[0][2, 4], fixed[1][2, 4]
    there = moving[0][3, 1] + 0.3, moving[1][3, 1] + 0.25
    for place, colour in ((at, theme["fixed"]), (there, theme["moving"])):
        axes.plot(*place, "o", color=colour, markersize=9)
    arrow(axes, at, there, theme["ink"], -0.25)
    text = {"color": theme["ink"], "ha": "center", "va": "center"}
    axes.text(at[0] - 0.3, at[1] - 0.4, "x", style="italic", **text)
    axes.text(there[0] + 0.35, there[1] - 0.5, "T(x)", style="italic", **text)
    axes.text(6.7, 4.35, "T takes points", **text)
    axes.text(2.1, 4.6, "fixed image", **{**text, "color": theme["fixed"]}, weight="bold")
    axes.text(11.6, 5.2, "moving image", **{**text, "color": theme["moving"]}, weight="bold")
    arrow(axes, (9.9, -1.3), (3.9, -1.3), theme["ink"], -0.12)
    axes.text(6.9, -2.2, "T pulls images and label maps onto the fixed grid", **text)
    arrow(axes, (-0.9, -2.2), (0.3, -2.2), theme["grid"], 0)
    arrow(axes, (-0.9, -2.2), (-0.9, -1.0), theme["grid"], 0)
    axes.text(0.45, -2.2, "x: left", **{**text, "ha": "left", "color": theme["grid"]})
    axes.text(-0.9, -0.7, "z: head", **{**text, "ha": "left", "color": theme["grid"]})


def draw_sliding(figure: Figure, theme: Theme) -> None:
    """The true motion of two blocks, one smooth field for both, and a field for each."""
    titles = ("before", "one smooth field", "two regions that slide")
    for number, title in enumerate(titles):
        axes = figure.add_axes((number / 3, 0, 1 / 3, 1))
        axes.set(xlim=(-1.2, 9.2), ylim=(-3.4, 9.0), aspect="equal")
        axes.axis("off")
        for side, colour in ((0, theme["fixed"]), (4, theme["moving"])):
            x, y = lattice(5, 9, 1.0)
            x = x + side
            blurred = 2.4 / (1.0 + np.exp(-1.1 * (x - 4.0)))
            shift = (np.zeros_like(x), blurred, np.full_like(x, 2.4 if side else 0.0))[number]
            draw_lattice(axes, (x, y - shift), colour, 1.1)
        centre = {"color": theme["ink"], "ha": "center", "va": "center"}
        axes.text(4, 8.7, title, **centre)


DRAWINGS: dict[str, tuple[Callable[[Figure, Theme], None], tuple[float, float]]] = {
    "space": (draw_space, (8.2, 4.1)),
    "sliding": (draw_sliding, (8.2, 3.3)),
}


def main() -> None:
    """Write NAME-light.svg and NAME-dark.svg for each drawing."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, (draw, size) in DRAWINGS.items():
        for theme, colours in THEMES.items():
            figure = Figure(figsize=size)
            draw(figure, colours)
            metadata = {"Date": None, "Creator": "docs/draw.py"}
            figure.savefig(folder / f"{name}-{theme}.svg", transparent=True, metadata=metadata)


if __name__ == "__main__":
    main()
