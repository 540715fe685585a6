"""MIND: the squared difference of self-similarity features, for images of any two contrasts.

::

    E(u) = sum_n w / C sum_c (MIND_c(M)(q_n) - MIND_c(F)(n))^2

The features are computed once, on the whole images, and the moving ones are interpolated. On a GPU
they are kept with half precision: they lie between 0 and 1, and bytes are what a step costs there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iterreg.config import Similarity
from iterreg.energy.similarity.types import ComparedImages
from iterreg.energy.terms import SquaredDifference
from iterreg.features.mind import Turn, mind_ssc, neighbour_offsets

KEPT_VOXELS = 500_000
"""Features of an image of at most so many voxels are kept, with half or all of 48 MB."""

OUTSIDE_WEIGHT = 0.05
"""Cost of a squared voxel outside the moving image: a tenth of a typical feature cost."""


def mind_term(config: Similarity, images: ComparedImages) -> SquaredDifference:
    """See :func:`iterreg.energy.similarity.similarity_term`."""
    # Only the samples are kept, so that the rest is gone before the moving features are made.
    seen, (ours, theirs) = images.common_fov, images.kept
    spacing_mm = images.fixed_spacing_mm
    samples = _features(images.fixed, spacing_mm, config, (spacing_mm, None), ours)[seen]
    other = spacing_mm, images.turn
    features = _features(images.moving, images.moving_spacing_mm, config, other, theirs)
    voxels = seen.nonzero().int()
    return SquaredDifference.of_features(samples, features, voxels, config.weight, OUTSIDE_WEIGHT)


def _features(
    image: Tensor,
    spacing_mm: tuple[float, ...],
    config: Similarity,
    other: tuple[tuple[float, ...], Turn | None],
    kept: dict[Any, Tensor],
) -> Tensor:
    """(Z, Y, X, channels) of an image, from what is kept of it if it was asked for before.

    Args:
        image: (C, Z, Y, X).
        spacing_mm: (z, y, x), of the image.
        config: the distances.
        other: spacing and turn of the fixed image, along whose axes neighbours are looked for.
        kept: of the image.
    """
    lattice_mm, turn = other
    key = "mind", lattice_mm, neighbour_offsets(spacing_mm, config.radius_mm, lattice_mm, turn)
    if key in kept:
        return kept[key]
    kind = torch.float16 if image.is_cuda else torch.float32
    found = mind_ssc(
        image.mean(0), spacing_mm, *config.radius_mm, lattice_zyx_mm=lattice_mm, turn=turn
    ).to(kind)
    if image[0].numel() <= KEPT_VOXELS:
        kept[key] = found
    return found
