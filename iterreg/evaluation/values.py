"""The measures of a transform, as values."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from html import escape
from typing import Any

from iterreg.evaluation.tables import text_of
from iterreg.metrics import FieldError, Folding, TreSummary


@dataclass(frozen=True)
class RegionMeasures:
    """Measures of one region before and after; NaN if it is missing on one side.

    Args:
        value, name: its label.
        dice_before, dice_after: 0 to 1.
        hd95_before_mm, hd95_after_mm: 95th percentile of the surface distance.
        mean_surface_before_mm, mean_surface_after_mm: mean distance of the surfaces.
        coverage: share of the moving region that is reached, 0 to 1.
        volume_change: volume of the fixed region as mapped into the moving image, over its own.
        voxels_fixed, voxels_moving: of the region in its image.
        voxels_warped: of the moving region, warped onto the fixed grid. Where the regions overlap
            it is near ``voxels_fixed``, however the volume changes.
        volume_partner: volume of the moving region over that of the fixed one. ``volume_change`` is
            the same where the whole region meets its partner.
    """

    value: int
    name: str
    dice_before: float
    dice_after: float
    hd95_before_mm: float
    hd95_after_mm: float
    mean_surface_before_mm: float
    mean_surface_after_mm: float
    coverage: float
    volume_change: float
    voxels_fixed: int
    voxels_moving: int
    voxels_warped: int
    volume_partner: float = math.nan


@dataclass(frozen=True)
class Measures:
    """All measures of a transform.

    Args:
        before: what "before" means, in words.
        regions: one entry per label that both images have; empty without label maps.
        without_partner: names of the labels that only one image has.
        folding: of the total transform, interior and interface, with non-diffeomorphic volumes;
            None if the transform has no grid to count on.
        sdlogj, sdlogj_interior: std of log det J, whole grid and interior voxels; None likewise.
        sdlogj_l2r: another number: what the Learn2Reg evaluator computes, to compare with papers;
            None without label maps, which tell the moving grid.
        tre_before, tre_after: landmark errors; None without landmarks.
        field_error_before, field_error_after: distances from the known field; None without one.
        notes: what the user should know, such as labels that were left out.

    Example:
        >>> print(Measures("identity in physical space", sdlogj=0.1, sdlogj_interior=0.1))
        before  is identity in physical space
        SDlogJ  0.100
    """

    before: str
    regions: tuple[RegionMeasures, ...] = ()
    without_partner: tuple[str, ...] = ()
    folding: Folding | None = None
    sdlogj: float | None = None
    sdlogj_interior: float | None = None
    sdlogj_l2r: float | None = None
    tre_before: TreSummary | None = None
    tre_after: TreSummary | None = None
    field_error_before: FieldError | None = None
    field_error_after: FieldError | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain tables for JSON, without the notes; NaN and infinity become None."""
        tables: dict[str, Any] = without_nan(dataclasses.asdict(self))
        del tables["notes"]
        folding = self.folding
        if folding is None:
            return tables
        tables["folding"] |= without_nan(
            {
                "share_interior": folding.share_interior,
                "ndv_vox": folding.ndv_vox,
                "ndv_percent": folding.ndv_percent,
                "interior_ndv_percent": folding.interior_ndv_percent,
            }
        )
        return tables

    def __str__(self) -> str:
        """The measures as a table."""
        return text_of(self)

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return f"<pre>{escape(text_of(self))}</pre>"


def without_nan(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None in nested dicts and lists.

    Example:
        >>> without_nan({"dice": [1.0, float("nan")]})
        {'dice': [1.0, None]}
    """
    if isinstance(value, dict):
        return {str(k): without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
