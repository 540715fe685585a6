"""A figure that a notebook shows without pyplot."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCREEN_DPI = 80
"""Of the picture in a notebook; the file has more."""


def png_of(figure: Figure) -> bytes:
    """A figure as a PNG for a screen."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=SCREEN_DPI, facecolor=figure.get_facecolor())
    return stream.getvalue()


@cache
def shown_figure() -> type[Figure]:
    """Matplotlib's figure, with what a notebook asks for."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """Matplotlib's figure, which notebooks show."""

        def _repr_png_(self) -> bytes:
            return png_of(self)

    return ShownFigure
