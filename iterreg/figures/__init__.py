"""Pictures of a result: before, after and the deformation on three planes; matched ROIs.

Everything is drawn on the fixed grid with its axes nearest to (S, P, L), in radiological
convention. Only the planes that are drawn are resampled, so the size of the volume hardly matters.
Matplotlib is imported inside functions, through its object interface: no global state.

    style    colours, sizes, text          planes       cutting planes from the pair
    lattice  the deformed lattice          panels       windows, panels, legend, the whole figure
    roi_overlay  matched ROIs of SAMReg
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from iterreg.displacement import Transform
from iterreg.figures.panels import Captions, draw_panels, length_unit
from iterreg.figures.planes import CanonicalPair, cut_planes
from iterreg.figures.style import BACKGROUND, DPI
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap

__all__ = ["overlay"]


def overlay(
    fixed: Image,
    moving: Image,
    transform: Transform,
    path: str | Path,
    *,
    fixed_labels: LabelMap | None = None,
    start: Transform | None = None,
    fixed_fov: Tensor | None = None,
    moving_fov: Tensor | None = None,
) -> None:
    """Draw a registration: before, after, and the deformed lattice, on three planes.

    The planes pass through the largest motion. Grey: the images agree. Blue: brighter in the fixed
    image. Orange: brighter in the moving image. Hatched: outside the field of view of one of the
    images, so there is nothing to compare; the fixed image shines through.

    Args:
        fixed, moving: the pair, rank 2 or 3.
        transform: fixed to moving, on the fixed grid.
        path: the PNG to write.
        fixed_labels: regions to outline. The lattice is cut between them, so that sliding shows
            as a jump of its lines.
        start: the transform to show as "before"; None is the position that the files' headers give.
        fixed_fov, moving_fov: bool in the shape of their image, its field of view; None takes all
            of it.

    Raises:
        GeometryError: the labels or a transform do not lie on the fixed grid.

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
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    fovs = fixed_fov, moving_fov
    pair = CanonicalPair.of((fixed, moving), transform, fixed_labels, start, fovs)
    planes = [plane.cropped() for plane in cut_planes(pair)]
    captions = Captions(_before_in_words(fixed.grid, start), length_unit(fixed.grid))
    figure = draw_panels(planes, pair.labels, pair.values, captions)
    FigureCanvasAgg(figure)
    figure.savefig(
        path, format="png", dpi=DPI, facecolor=BACKGROUND, pil_kwargs={"compress_level": 4}
    )


def _before_in_words(grid: Grid, start: Transform | None) -> str:
    if start is not None:
        return "by the initial transform"
    return "where the files' headers put them" if grid.rank == 3 else "one laid over the other"
