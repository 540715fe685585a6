"""The view of a cone-beam scanner whose geometry is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iterreg.geometry import Grid, apply_affine


@dataclass(frozen=True)
class ConeBeam:
    """Distances of a scanner that turns about the patient's long axis, in mm.

    Args:
        source_axis_mm: from the source to the axis.
        source_detector_mm: from the source to the panel.
        panel_width_mm, panel_height_mm: what the panel measures, across and along the axis.
        panel_shift_mm: of the panel's middle across the axis; about 0 for a full-fan scan, and up
            to nearly half its width for a half-fan scan.
        isocentre_lps_mm: on the axis, in the plane of the source; None is the image's middle.

    Raises:
        ValueError: a distance is not positive, or the panel lies before the axis.

    Example:
        >>> scanner = ConeBeam(1000.0, 1500.0, 400.0, 300.0, 148.0)
        >>> round(scanner.radius_mm), round(scanner.half_height_mm)
        (226, 100)
    """

    source_axis_mm: float
    source_detector_mm: float
    panel_width_mm: float
    panel_height_mm: float
    panel_shift_mm: float = 0.0
    isocentre_lps_mm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        sizes = (self.source_axis_mm, self.panel_width_mm, self.panel_height_mm)
        if min(sizes) <= 0 or self.source_detector_mm <= self.source_axis_mm:
            raise ValueError(
                "ConeBeam: expected positive distances and a panel beyond the axis, got "
                f"source_axis_mm {self.source_axis_mm:g}, source_detector_mm "
                f"{self.source_detector_mm:g}, panel {self.panel_width_mm:g} x "
                f"{self.panel_height_mm:g} mm"
            )

    @property
    def radius_mm(self) -> float:
        """Radius of the cylinder that all projections see, or see from the other side."""
        reach = self.panel_width_mm / 2 + abs(self.panel_shift_mm)
        return self.source_axis_mm * float(np.sin(np.arctan(reach / self.source_detector_mm)))

    @property
    def half_height_mm(self) -> float:
        """Half the height of what is seen on the axis."""
        return self.panel_height_mm / 2 * self.source_axis_mm / self.source_detector_mm


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
