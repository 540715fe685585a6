"""What is measured of a result, apart from the energy."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from iterreg.metrics import ImageSimilarity


@dataclass(frozen=True)
class Evidence:
    """Measures of a result that the energy did not minimise.

    Args:
        before, after: similarity of the images without and with the transform, inside the common
            field of view, on a coarse grid.
        inconsistency_median_mm, inconsistency_p95_mm: how far from its start a fixed point ends
            after this registration and a second, coarse one of moving to fixed; over points with
            structure, inside the regions if there are any. NaN without such points.
        affine_volume: determinant of the affine.
        affine_stretch: its longest stretch or strongest compression, at least 1.
        affine_shear_deg: largest change of a right angle between two axes.
        common_view: share of the fixed field of view that lands in the moving one, 0 to 1.
        region_dice, region_dice_before: Dice of each region inside the common view, with and
            without the transform, by name.
        region_distance_mm: distance of each region's centres after the registration, by name.
        region_volume: of each region that must keep its volume, the ratio after to before, by name.
        landmarks_mm: mean distance of the landmarks that guided the result; NaN without any.
        interior_folds: voxels that fold inside regions.
        improved: whether the energy is no higher than without any displacement.
        better_flip: which flip of the moving image fits clearly better, in words; else empty.

    Example:
        >>> from iterreg.metrics import ImageSimilarity
        >>> alike = ImageSimilarity(0.98, 0.9, 0.3)
        >>> Evidence(alike, alike, 0.4, 1.0, 1.02, 1.05, 1.0, 0.9, {}, {}).common_view
        0.9
    """

    before: ImageSimilarity
    after: ImageSimilarity
    inconsistency_median_mm: float
    inconsistency_p95_mm: float
    affine_volume: float
    affine_stretch: float
    affine_shear_deg: float
    common_view: float
    region_dice: dict[str, float]
    region_distance_mm: dict[str, float]
    landmarks_mm: float = math.nan
    interior_folds: int = 0
    improved: bool = True
    better_flip: str = ""
    region_dice_before: dict[str, float] = dataclasses.field(default_factory=dict)
    region_volume: dict[str, float] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain tables, as in ``run.json``."""
        return dataclasses.asdict(self)
