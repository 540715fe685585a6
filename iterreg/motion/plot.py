"""Curves over the phases, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

MOST_NAMED = 12
"""More curves are drawn without a legend."""


def plot_curves(lines: Mapping[str, Sequence[float]], axis: str, path: Path) -> None:
    """Draw one curve for each name over the phases.

    Args:
        lines: a value for each phase, by name.
        axis: what the values are.
        path: the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    named = len(lines) <= MOST_NAMED
    for name, values in lines.items():
        axes.plot(range(len(values)), values, marker="o", markersize=3, label=name, linewidth=1.2)
    axes.set_xlabel("phase")
    axes.set_ylabel(axis)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if named:
        axes.legend(frameon=False, fontsize=8)
    # Without the date and version that matplotlib would add, the same curves give the same bytes.
    figure.savefig(path, dpi=110, metadata={"Software": None})
