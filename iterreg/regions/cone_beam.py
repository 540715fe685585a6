"""The view of a cone-beam scanner whose geometry is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iterreg.geometry import Grid, apply_affine
from iterreg.scanner import ConeBeam


def view_of(scanner: ConeBeam, grid: Grid) -> NDArray[np.bool_]:
    """(Z, Y, X) bool: the voxels that every projection sees, between the two cones.

    Args:
        scanner: the geometry.
        grid: of rank 3, canonical axes.

    Example:
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((61, 61, 61), (4.0, 4.0, 4.0), (-120.0, -120.0, -120.0), axes)
        >>> view = view_of(ConeBeam(1000.0, 1500.0, 400.0, 300.0), grid)
        >>> int(view[:, 30, 30].sum()), int(view[:, 30, 60].sum()), int(view[30, 30].sum())
        (51, 45, 61)
    """
    centre = grid.centre_lps_mm if scanner.isocentre_lps_mm is None else scanner.isocentre_lps_mm
    index = apply_affine(grid.lps_to_index, np.asarray([centre]))[0]
    z, y, x = (
        (np.arange(n) - at) * step
        for n, at, step in zip(grid.shape_zyx, index, grid.spacing_zyx_mm, strict=True)
    )
    radius_mm = np.hypot(y[:, None], x[None, :])
    half_mm = scanner.half_height_mm * (1 - radius_mm / scanner.source_axis_mm)
    seen = (np.abs(z)[:, None, None] <= half_mm) & (radius_mm <= scanner.radius_mm)
    return np.asarray(seen)
