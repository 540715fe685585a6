"""Target registration error of landmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import GeometryError
from iterreg.geometry import Points


def tre_mm(
    fixed: Points, moving: Points, map_points: Callable[[Points], Points]
) -> NDArray[np.float64]:
    """Compute the target registration error of each landmark.

    Args:
        fixed: (n) landmarks of the fixed image.
        moving: (n) the same landmarks in the moving image, in the same order.
        map_points: the transform, from points of the fixed image to points of the moving one.

    Returns:
        (n) distances in mm, measured in the moving image.

    Raises:
        GeometryError: the two sets differ in number or rank.

    Example:
        >>> fixed, moving = Points(np.zeros((1, 3))), Points(np.array([[3.0, 4.0, 0.0]]))
        >>> tre_mm(fixed, moving, lambda points: points)
        array([5.])
    """
    if fixed.lps.shape != moving.lps.shape:
        raise GeometryError(
            f"tre_mm: moving: expected {fixed.lps.shape} like the fixed landmarks, "
            f"got {moving.lps.shape}"
        )
    distance: NDArray[np.float64] = np.linalg.norm(map_points(fixed).lps - moving.lps, axis=1)
    return distance


@dataclass(frozen=True)
class TreSummary:
    """Landmark errors in a few numbers; all but the count are NaN without landmarks.

    Args:
        count: how many landmarks.
        mean_mm, median_mm, p95_mm, max_mm: of their errors; p95 is the 95th percentile.
    """

    count: int
    mean_mm: float
    median_mm: float
    p95_mm: float
    max_mm: float


def summarize_tre(errors_mm: NDArray[np.floating]) -> TreSummary:
    """Summarise landmark errors by mean, median, 95th percentile and maximum.

    Args:
        errors_mm: (n), from :func:`tre_mm`.

    Example:
        >>> summarize_tre(np.array([5.0, 0.0, 1.0])).mean_mm
        2.0
    """
    errors = np.asarray(errors_mm, np.float64)
    if errors.size == 0:
        return TreSummary(0, *[float("nan")] * 4)
    summary = (errors.mean(), np.median(errors), np.percentile(errors, 95), errors.max())
    return TreSummary(errors.size, *map(float, summary))
