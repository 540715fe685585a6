"""A cone-beam scanner whose geometry is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from iterreg.errors import ConfigError


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
        ConfigError: a distance is not positive, or the panel lies before the axis.

    Example:
        >>> from iterreg import ConeBeam
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
            raise ConfigError(
                "ConeBeam: expected positive distances and a panel beyond the axis, got "
                f"source_axis_mm {self.source_axis_mm:g}, source_detector_mm "
                f"{self.source_detector_mm:g}, panel {self.panel_width_mm:g} x "
                f"{self.panel_height_mm:g} mm"
            )

    @property
    def radius_mm(self) -> float:
        """Radius of the cylinder that all projections see, or see from the other side."""
        reach = self.panel_width_mm / 2 + abs(self.panel_shift_mm)
        return self.source_axis_mm * math.sin(math.atan(reach / self.source_detector_mm))

    @property
    def half_height_mm(self) -> float:
        """Half the height of what is seen on the axis."""
        return self.panel_height_mm / 2 * self.source_axis_mm / self.source_detector_mm

    def in_units_of(self, mm: float) -> ConeBeam:
        """The same scanner, its lengths in units of so many mm."""
        centre = self.isocentre_lps_mm
        return replace(
            self,
            source_axis_mm=self.source_axis_mm / mm,
            source_detector_mm=self.source_detector_mm / mm,
            panel_width_mm=self.panel_width_mm / mm,
            panel_height_mm=self.panel_height_mm / mm,
            panel_shift_mm=self.panel_shift_mm / mm,
            isocentre_lps_mm=centre and (centre[0] / mm, centre[1] / mm, centre[2] / mm),
        )
