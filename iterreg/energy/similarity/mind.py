"""MIND: the squared difference of self-similarity features, for images of any two contrasts.

::

    E(u) = sum_n w / C sum_c (MIND_c(M)(q_n) - MIND_c(F)(n))^2

The features are computed once, on the whole images, and the moving ones are interpolated.
"""

from __future__ import annotations

from torch import Tensor

from iterreg.config import Similarity
from iterreg.energy.terms import SquaredDifference
from iterreg.features import mind_ssc

OUTSIDE_WEIGHT = 0.05
"""Cost of a squared voxel outside the moving image: a tenth of a typical feature cost."""


def mind_term(
    config: Similarity,
    fixed: Tensor,
    moving: Tensor,
    fixed_spacing_mm: tuple[float, ...],
    moving_spacing_mm: tuple[float, ...],
    common_fov: Tensor,
) -> SquaredDifference:
    """See :func:`iterreg.energy.similarity.similarity_term`."""
    # Only the samples are kept, so that the rest is gone before the moving features are made.
    samples = mind_ssc(fixed.mean(0), fixed_spacing_mm, *config.radius_mm)[common_fov]
    features = mind_ssc(moving.mean(0), moving_spacing_mm, *config.radius_mm)
    voxels = common_fov.nonzero().int()
    return SquaredDifference.of_features(samples, features, voxels, config.weight, OUTSIDE_WEIGHT)
