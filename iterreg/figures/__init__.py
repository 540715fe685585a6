"""Pictures of a result: before, after and the deformation on three planes; matched ROIs.

Everything is drawn on the fixed grid with its axes nearest to (S, P, L), in radiological
convention. Only the planes that are drawn are resampled, so the size of the volume hardly matters.
Matplotlib is imported inside functions, through its object interface: no global state.

    shown    a figure for notebooks
    canonical_pair  the pair on the fixed image's canonical grid
    style    colours, sizes, text          planes       cutting planes from the pair
    lattice  the deformed lattice          panels       windows, panels, legend, the whole figure
    roi_overlay  matched ROIs of SAMReg
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from iterreg.atomic import write_aside
from iterreg.displacement import Transform
from iterreg.figures.canonical_pair import CanonicalPair
from iterreg.figures.panels import Captions, draw_panels, length_unit
from iterreg.figures.planes import cut_planes
from iterreg.figures.style import BACKGROUND, DPI
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.regions.field_of_view import Fovs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_overlay", "overlay", "save_figure"]


def overlay(
    fixed: Image,
    moving: Image,
    transform: Transform,
    path: str | Path,
    *,
    fixed_labels: LabelMap | None = None,
    start: Transform | None = None,
    fovs: Fovs = (None, None),
) -> None:
    """Write :func:`draw_overlay`'s picture.

    Args:
        fixed, moving, transform, fixed_labels, start, fovs: as in :func:`draw_overlay`.
        path: the PNG to write.

    Raises:
        GeometryError: as :func:`draw_overlay`.
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile, torch, numpy as np
        >>> from iterreg.displacement import DisplacementField
        >>> grid = Grid((20, 30), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> image = Image(torch.rand(1, 20, 30), grid)
        >>> identity = Transform(np.eye(3), DisplacementField.zero(grid))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     overlay(image, image, identity, Path(folder) / "overlay.png")
        ...     [file.name for file in Path(folder).iterdir()]
        ['overlay.png']
    """
    figure = draw_overlay(
        fixed, moving, transform, fixed_labels=fixed_labels, start=start, fovs=fovs
    )
    save_figure(figure, path)


def draw_overlay(
    fixed: Image,
    moving: Image,
    transform: Transform,
    *,
    fixed_labels: LabelMap | None = None,
    start: Transform | None = None,
    fovs: Fovs = (None, None),
) -> Figure:
    """Draw a registration: before, after, and the deformed lattice, on three planes.

    The planes pass through the largest motion. Grey: the images agree. Blue: brighter in the fixed
    image. Orange: brighter in the moving image. Hatched: outside the field of view of one of the
    images, so there is nothing to compare; the fixed image shines through.

    Args:
        fixed, moving: the pair, rank 2 or 3.
        transform: fixed to moving, on the fixed grid.
        fixed_labels: regions to outline. The lattice is cut between them, so that sliding shows
            as a jump of its lines.
        start: the transform to show as "before"; None is the position that the files' headers give.
        fovs: the fields of view, fixed and moving, each bool in its image's shape; None takes all
            of the image.

    Raises:
        GeometryError: the labels or a transform do not lie on the fixed grid.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    pair = CanonicalPair.of((fixed, moving), transform, fixed_labels, start, fovs)
    planes = [plane.cropped() for plane in cut_planes(pair)]
    captions = Captions(_before_in_words(fixed.grid, start), length_unit(fixed.grid))
    figure = draw_panels(planes, pair.labels, pair.values, captions)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG to a file, which appears whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    write_aside(
        Path(path),
        lambda target: figure.savefig(
            target, format="png", dpi=DPI, facecolor=BACKGROUND, pil_kwargs={"compress_level": 4}
        ),
    )


def _before_in_words(grid: Grid, start: Transform | None) -> str:
    if start is not None:
        return "by the initial transform"
    return "where the files' headers put them" if grid.rank == 3 else "one laid over the other"
