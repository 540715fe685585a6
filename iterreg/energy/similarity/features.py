"""Features of a network: the squared difference of the channels that the pair brings with it.

::

    E(u) = sum_n w / C sum_c (M_c(q_n) - F_c(n))^2

The features are of the whole pair: a network sees a slice at its own resolution. They are brought
to the voxels of each level, and the moving ones are interpolated, as those of MIND are.
"""

from __future__ import annotations

import torch

from iterreg.config import Similarity
from iterreg.energy.similarity.types import ComparedImages
from iterreg.energy.terms import SquaredDifference
from iterreg.errors import ConfigError

OUTSIDE_WEIGHT = 0.05
"""Cost of a squared voxel outside the moving image: half the variance of the features."""


def features_term(config: Similarity, images: ComparedImages) -> SquaredDifference:
    """See :func:`iterreg.energy.similarity.similarity_term`.

    Raises:
        ConfigError: the pair brings no features with it.
    """
    fixed, moving = images.fixed_features, images.moving_features
    if fixed is None or moving is None:
        raise ConfigError(f"similarity.kind {config.kind}: expected a pair with features, got none")
    seen = images.common_fov
    kind = torch.float16 if seen.is_cuda else torch.float32
    samples = fixed.on(seen.shape)[seen].to(kind)
    features = moving.on(images.moving.shape[1:]).to(kind)
    voxels = seen.nonzero().int()
    return SquaredDifference.of_features(samples, features, voxels, config.weight, OUTSIDE_WEIGHT)
