"""A cone-beam scanner whose geometry is known."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from iterreg.errors import ConfigError

LENGTHS = (
    "source_axis_mm",
    "source_detector_mm",
    "panel_width_mm",
    "panel_height_mm",
    "panel_shift_mm",
)


@dataclass(frozen=True)
class ConeBeam:
    """A cone-beam scanner that turns about an axis. Distances in mm.

    Args:
        source_axis_mm: from the source to the axis.
        source_detector_mm: from the source to the panel.
        panel_width_mm, panel_height_mm: what the panel measures, across and along the axis.
        panel_shift_mm: of the panel's middle across the axis; about 0 for a full-fan scan, and up
            to nearly half its width for a half-fan scan.
        isocentre_lps_mm: on the axis, in the plane of the source; None is the image's middle.
        axis_lps: direction of the axis, of any length; that from feet to head unless the patient
            was turned after the scan.

    Raises:
        ConfigError: a number that is not finite, a distance that is not positive, a panel before
            the axis or one that does not see it, no direction.

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
    axis_lps: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for name in LENGTHS:
            _require_numbers(name, (getattr(self, name),), 1)
        if self.isocentre_lps_mm is not None:
            _require_numbers("isocentre_lps_mm", self.isocentre_lps_mm, 3)
        _require_numbers("axis_lps", self.axis_lps, 3)
        sizes = (self.source_axis_mm, self.panel_width_mm, self.panel_height_mm)
        if min(sizes) <= 0 or self.source_detector_mm <= self.source_axis_mm:
            raise ConfigError(
                "scanner: expected positive distances and a panel beyond the axis, got "
                f"source_axis_mm {self.source_axis_mm:g}, source_detector_mm "
                f"{self.source_detector_mm:g}, panel {self.panel_width_mm:g} x "
                f"{self.panel_height_mm:g} mm"
            )
        if abs(self.panel_shift_mm) >= self.panel_width_mm / 2:
            raise ConfigError(
                "scanner: expected a panel that sees the axis, its panel_shift_mm below half of "
                f"panel_width_mm {self.panel_width_mm:g}, got {self.panel_shift_mm:g}"
            )
        if not any(self.axis_lps):
            raise ConfigError("scanner: axis_lps: expected a direction, got (0, 0, 0)")

    @property
    def radius_mm(self) -> float:
        """Radius of the cylinder that all projections see, or see from the other side."""
        reach = self.panel_width_mm / 2 + abs(self.panel_shift_mm)
        return self.source_axis_mm * math.sin(math.atan(reach / self.source_detector_mm))

    @property
    def half_height_mm(self) -> float:
        """Half the height of what is seen on the axis."""
        return self.panel_height_mm / 2 * self.source_axis_mm / self.source_detector_mm

    def about(self, centre_lps_mm: Iterable[float]) -> ConeBeam:
        """The same scanner, its isocentre at a point unless it is known."""
        if self.isocentre_lps_mm is not None:
            return self
        x, y, z = (float(k) for k in centre_lps_mm)
        return replace(self, isocentre_lps_mm=(x, y, z))

    def in_units_of(self, mm: float) -> ConeBeam:
        """The same scanner, its lengths in units of so many mm."""
        centre = self.isocentre_lps_mm
        return replace(
            self,
            **{name: getattr(self, name) / mm for name in LENGTHS},
            isocentre_lps_mm=centre and (centre[0] / mm, centre[1] / mm, centre[2] / mm),
        )


def _require_numbers(name: str, values: Any, count: int) -> None:
    """Refuse what is not so many finite numbers."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        expected = "a finite number" if count == 1 else f"{count} finite numbers"
        got = values[0] if count == 1 else values
        raise ConfigError(f"scanner: {name}: expected {expected}, got {got!r}")
