"""MIND-SSC: how the surroundings of a voxel resemble each other, whatever the contrast.

::

    MIND(a, b) = exp(-D(a, b) / V)        D(a, b) = sum over a patch p of (I(p + a) - I(p + b))^2

a and b are two neighbours of the voxel, and V is the mean of D over all pairs.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from iterreg.kernels import self_similarity
from iterreg.to_device import on_device

CHANNELS = 12
"""Number of channels of each distance."""

PATCH_RADIUS_VOXELS = 1
VARIANCE_CLAMP = (1e-3, 1e3)
"""V stays within these multiples of its mean over the image. The values are the paper's."""


def mind_ssc(volume: Tensor, spacing_zyx_mm: tuple[float, ...], *distances_mm: float) -> Tensor:
    """The self-similarity context of every voxel.

    The six neighbours at a distance are compared with each other, patch by patch. The twelve pairs
    that are not opposite make twelve channels. Near neighbours see the wall of a vessel; far ones
    tell the vessel from the next one.

    Args:
        volume: (Z, Y, X) intensities.
        spacing_zyx_mm: of the volume.
        distances_mm: how far away the neighbours are; at least one voxel.

    Returns:
        (Z, Y, X, 12 for each distance) float32, 0 ... 1.

    Source:
        Heinrich et al., "Towards Realtime Multimodal Fusion for Image-Guided Interventions Using
        Self-similarities", MICCAI 2013, eq. 3-4.

    Example:
        >>> mind_ssc(torch.rand(4, 5, 6), (1.0, 1.0, 1.0), 2.0, 4.0).shape
        torch.Size([4, 5, 6, 24])
    """
    if len(distances_mm) == 1:
        return _context(volume, spacing_zyx_mm, distances_mm[0])
    # Filled one by one: keeping all of them to join them would be the peak of a run's memory.
    features = volume.new_empty(*volume.shape, CHANNELS * len(distances_mm))
    for number, distance in enumerate(distances_mm):
        own = slice(number * CHANNELS, (number + 1) * CHANNELS)
        features[..., own] = _context(volume, spacing_zyx_mm, distance)
    return features


def _context(volume: Tensor, spacing_zyx_mm: tuple[float, ...], distance_mm: float) -> Tensor:
    """The twelve channels of one distance, (Z, Y, X, 12)."""
    steps = [max(1, round(distance_mm / s)) for s in spacing_zyx_mm]
    neighbours = []
    for axis, step in enumerate(steps):
        for sign in (-step, step):
            shift = [0, 0, 0]
            shift[axis] = sign
            neighbours.append((axis, shift))
    pairs = [(a, b) for (i, a), (j, b) in itertools.combinations(neighbours, 2) if i != j]
    first = on_device([a for a, _ in pairs], volume.device)
    second = on_device([b for _, b in pairs], volume.device)
    radius = torch.tensor([min(PATCH_RADIUS_VOXELS, n - 1) for n in volume.shape])
    return self_similarity(volume, first, second, radius, VARIANCE_CLAMP)
