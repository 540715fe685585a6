"""Dose-volume histograms, with the band that an error of the registration gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import ImageContentError
from iterreg.image import Image, require_same_space

BINS = 200

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """The cumulative dose-volume histogram of a structure.

    Args:
        name: of the structure.
        dose_gy: (n,), from 0.
        share: (n,) of the volume that gets at least this dose.
        low, high: (n,) the same if every voxel had the least, and the highest, dose within
            ``error_mm`` of it.
        volume_ml: of the structure.
        error_mm: radius of the band.
    """

    name: str
    dose_gy: Values
    share: Values
    low: Values
    high: Values
    volume_ml: float
    error_mm: float

    def figures(self) -> dict[str, Any]:
        """Mean, D95, D50 and D2 in Gy, the last three with their band."""
        found: dict[str, Any] = {
            "structure": self.name,
            "volume_ml": self.volume_ml,
            "error_mm": self.error_mm,
            "mean_gy": float(np.trapezoid(self.share, self.dose_gy)),
        }
        for percent in (95, 50, 2):
            for kind, curve in (("", self.share), ("_low", self.low), ("_high", self.high)):
                found[f"d{percent}{kind}_gy"] = self.dose_at(percent / 100, curve)
        return found

    def dose_at(self, share: float, curve: Values) -> float:
        """The highest dose that this share of the volume gets."""
        reached = np.flatnonzero(curve >= share - 1e-9)
        return float(self.dose_gy[reached[-1]]) if len(reached) else 0.0


def dose_volume(name: str, dose: Image, share: Image, error_mm: float = 0.0) -> Histogram:
    """Compute the histogram of a structure.

    Args:
        name: of the structure.
        dose: Gy.
        share: of each voxel that is inside, 0 to 1, on the same grid.
        error_mm: how far a point may lie from where it is thought to be; 0 for no band.

    Returns:
        The histogram.

    Raises:
        GeometryError: the grids differ.
        ImageContentError: the structure has no volume.

    Example:
        >>> import torch
        >>> from iterreg.geometry import Grid
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), axes)
        >>> whole = Image(torch.ones(1, 4, 4, 4), grid)
        >>> even = dose_volume("ptv", Image(torch.full((1, 4, 4, 4), 20.0), grid), whole)
        >>> round(even.figures()["d95_gy"], 1), even.volume_ml
        (20.0, 0.064)
    """
    require_same_space(dose, share)
    weight = share.data[0].double().numpy()
    values = dose.data[0].double().numpy()
    inside = weight > 1e-3
    total = float(weight[inside].sum())
    if total <= 0:
        raise ImageContentError(f"{name}: expected a structure with a volume, got an empty one")
    low, high = _within(values, dose.grid.spacing_zyx_mm, error_mm)
    edges = np.linspace(0, max(float(high[inside].max()), 1e-6), BINS + 1)
    share_at, low_at, high_at = (
        _cumulative(v[inside], weight[inside], edges) / total for v in (values, low, high)
    )
    volume_ml = total * float(np.prod(dose.grid.spacing_xyz_mm)) / 1000
    return Histogram(name, edges, share_at, low_at, high_at, volume_ml, error_mm)


def _within(values: Values, spacing: tuple[float, ...], radius_mm: float) -> tuple[Values, Values]:
    """The least and the highest value within a radius of each voxel."""
    from scipy.ndimage import grey_dilation, grey_erosion

    reach = [int(radius_mm / mm) for mm in spacing]
    if not any(reach):
        return values, values
    offsets = np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij")
    apart = sum(np.square(o * mm) for o, mm in zip(offsets, spacing, strict=True))
    ball = apart <= radius_mm**2
    return grey_erosion(values, footprint=ball), grey_dilation(values, footprint=ball)


def _cumulative(values: Values, weight: Values, edges: Values) -> Values:
    """The weight of all values that reach each edge."""
    order = np.argsort(values)
    above = np.concatenate(([0.0], np.cumsum(weight[order][::-1])))[::-1]
    # Half a rounding below the edge, so that an even dose reaches itself.
    found: Values = above[np.searchsorted(values[order], edges - 1e-6, side="left")]
    return found
