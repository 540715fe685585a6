"""The view of a cone-beam scanner whose geometry is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import ConfigError
from iterreg.geometry import Grid
from iterreg.image import Image
from iterreg.scanner import ConeBeam


def view_of(scanner: ConeBeam, grid: Grid) -> NDArray[np.bool_]:
    """(*shape) bool: the voxels that every projection sees, between the two cones.

    Args:
        scanner: the geometry. Without an isocentre its axis goes through the grid's middle.
        grid: of rank 3, axes of any order and direction.

    Example:
        >>> from iterreg import ConeBeam, Grid
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((61, 61, 61), (4.0, 4.0, 4.0), (-120.0, -120.0, -120.0), axes)
        >>> view = view_of(ConeBeam(1000.0, 1500.0, 400.0, 300.0), grid)
        >>> int(view[:, 30, 30].sum()), int(view[:, 30, 60].sum()), int(view[30, 30].sum())
        (51, 45, 61)
    """
    centre = scanner.about(grid.centre_lps_mm).isocentre_lps_mm
    axis = np.asarray(scanner.axis_lps) / np.linalg.norm(scanner.axis_lps)
    k, j, i = (np.arange(n, dtype=np.float64) for n in grid.shape_zyx)
    # Rows of the matrix give x, y, z (LPS) of an index whose order is that of the array.
    rows = grid.index_to_lps[:3]
    seen = np.empty(grid.shape_zyx, bool)
    for n in range(len(k)):
        from_centre = [
            row[0] * k[n] + row[1] * j[:, None] + row[2] * i[None, :] + row[3] - c
            for row, c in zip(rows, np.asarray(centre), strict=True)
        ]
        height = sum(p * a for p, a in zip(from_centre, axis, strict=True))
        square = sum(p * p for p in from_centre) - height * height
        radius_mm = np.sqrt(np.maximum(square, 0.0))
        half_mm = scanner.half_height_mm * (1 - radius_mm / scanner.source_axis_mm)
        seen[n] = (np.abs(height) <= half_mm) & (radius_mm <= scanner.radius_mm)
    return seen


def seen_by(scanner: ConeBeam, image: Image) -> NDArray[np.bool_]:
    """(*shape) bool: what a scanner sees of an image.

    Raises:
        ConfigError: nothing, or the image is a picture.
    """
    if image.grid.rank != 3:
        raise ConfigError(f"{image.name}: expected no scanner for a picture, got {scanner}")
    seen = view_of(scanner, image.grid)
    if not seen.any():
        corners = image.grid.corners_lps_mm
        ends = zip(corners.min(0), corners.max(0), strict=True)
        raise ConfigError(
            f"{image.name}: expected a scanner that sees some of it, got one that sees "
            f"{scanner.radius_mm:.0f} mm around its axis and {scanner.half_height_mm:.0f} mm along "
            f"it from {scanner.isocentre_lps_mm or 'the middle'}; the image spans "
            + ", ".join(f"{low:.0f} to {high:.0f}" for low, high in ends)
            + " (LPS mm)"
        )
    return seen
