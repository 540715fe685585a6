"""Measures of a transform, before and after.

measures  the values, from label maps, landmarks and a known field
given     reads whatever a user gives, and measures all of it
tables    the measures as people read them
"""

from iterreg.evaluation.measures import (
    BEFORE_GIVEN,
    BEFORE_IDENTITY,
    identity,
    measure,
    measure_landmarks,
    on_cpu,
)
from iterreg.evaluation.values import Measures, RegionMeasures, without_nan

__all__ = [
    "BEFORE_GIVEN",
    "BEFORE_IDENTITY",
    "Measures",
    "RegionMeasures",
    "identity",
    "measure",
    "measure_landmarks",
    "on_cpu",
    "without_nan",
]
