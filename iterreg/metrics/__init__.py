"""Measures of a registration: overlap, surface distance, landmark error, Jacobian and coverage.

All are pure functions of tensors on the fixed grid, rank 2 or 3. A displacement is always the
*total* one, A(x + u(x)) - x, in voxels of the fixed grid, (rank, *shape), components in array
order. Long sums are made in float64, and results are the same on every run.
"""

from __future__ import annotations

from iterreg.metrics.coverage import coverage
from iterreg.metrics.field_error import FieldError, field_error, field_error_mm
from iterreg.metrics.folding import Folding, folding, folding_mask, interior_mask
from iterreg.metrics.jacobian import (
    det_jacobian,
    det_jacobian_within,
    sdlogj,
    sdlogj_l2r,
    volume_change,
)
from iterreg.metrics.landmarks import TreSummary, summarize_tre, tre_mm
from iterreg.metrics.overlap import dice
from iterreg.metrics.similarity import ImageSimilarity, image_similarity, local_correlation
from iterreg.metrics.surface_distance import (
    SurfaceDistance,
    hd95_by_label_mm,
    hd95_mm,
    surface_distance_by_label,
)

__all__ = [
    "FieldError",
    "Folding",
    "ImageSimilarity",
    "SurfaceDistance",
    "TreSummary",
    "coverage",
    "det_jacobian",
    "det_jacobian_within",
    "dice",
    "field_error",
    "field_error_mm",
    "folding",
    "folding_mask",
    "hd95_by_label_mm",
    "hd95_mm",
    "image_similarity",
    "interior_mask",
    "local_correlation",
    "sdlogj",
    "sdlogj_l2r",
    "summarize_tre",
    "surface_distance_by_label",
    "tre_mm",
    "volume_change",
]
