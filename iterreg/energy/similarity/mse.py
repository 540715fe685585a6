"""MSE: the squared difference of intensities, for two images of one contrast.

::

    E(u) = sum_n w / C sum_c (M_c(q_n) - F_c(n))^2
"""

from __future__ import annotations

from iterreg.config import Similarity
from iterreg.energy.similarity.types import ComparedImages
from iterreg.energy.terms import SquaredDifference

OUTSIDE_WEIGHT = 0.002
"""Cost of a squared voxel outside the moving image: a tenth of a typical difference."""


def mse_term(config: Similarity, images: ComparedImages) -> SquaredDifference:
    """See :func:`iterreg.energy.similarity.similarity_term`."""
    samples = images.fixed.permute(1, 2, 3, 0)[images.common_fov]
    features = images.moving.permute(1, 2, 3, 0).contiguous()
    voxels = images.common_fov.nonzero().int()
    return SquaredDifference.of_features(samples, features, voxels, config.weight, OUTSIDE_WEIGHT)
