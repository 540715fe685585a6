"""MIND: the squared difference of self-similarity features, for images of any two contrasts.

::

    E(u) = sum_n w / C sum_c (MIND_c(M)(q_n) - MIND_c(F)(n))^2

The features are computed once, on the whole images, and the moving ones are interpolated. On a GPU
they are kept with half precision: they lie between 0 and 1, and bytes are what a step costs there.
"""

from __future__ import annotations

import torch

from iterreg.config import Similarity
from iterreg.energy.similarity.types import ComparedImages
from iterreg.energy.terms import SquaredDifference
from iterreg.features import mind_ssc

OUTSIDE_WEIGHT = 0.05
"""Cost of a squared voxel outside the moving image: a tenth of a typical feature cost."""


def mind_term(config: Similarity, images: ComparedImages) -> SquaredDifference:
    """See :func:`iterreg.energy.similarity.similarity_term`."""
    # Only the samples are kept, so that the rest is gone before the moving features are made.
    seen, spacing_mm = images.common_fov, images.moving_spacing_mm
    kind = torch.float16 if seen.is_cuda else torch.float32
    samples = mind_ssc(images.fixed.mean(0), images.fixed_spacing_mm, *config.radius_mm)[seen]
    samples = samples.to(kind)
    features = mind_ssc(
        images.moving.mean(0),
        spacing_mm,
        *config.radius_mm,
        lattice_zyx_mm=images.fixed_spacing_mm,
        turn=images.turn,
    ).to(kind)
    voxels = seen.nonzero().int()
    return SquaredDifference.of_features(samples, features, voxels, config.weight, OUTSIDE_WEIGHT)
