"""MIND-SSC: what a voxel's surroundings look like to each other, whatever their contrast."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from iterreg.kernels import self_similarity

CHANNELS = 12
"""Of each distance."""

PATCH_RADIUS_VOXELS = 1
VARIANCE_CLAMP = (1e-3, 1e3)
"""The local variance stays within these multiples of its mean over the image (the paper's)."""


def mind_ssc(volume: Tensor, spacing_zyx_mm: tuple[float, ...], *distances_mm: float) -> Tensor:
    """The self-similarity context of every voxel.

    The six neighbours at a distance are compared with each other, patch by patch; the twelve pairs
    that are not opposite make twelve channels. Near neighbours see a vessel's wall, far ones tell
    it from the next vessel.

    Args:
        volume: (Z, Y, X) intensities.
        spacing_zyx_mm: of the volume.
        distances_mm: how far the neighbours are; at least one voxel.

    Returns:
        (Z, Y, X, 12 for each distance) float32, 0 ... 1.

    Source:
        Heinrich et al., "Towards Realtime Multimodal Fusion for Image-Guided Interventions Using
        Self-similarities", MICCAI 2013, eq. 3-4.
    """
    if len(distances_mm) == 1:
        return _context(volume, spacing_zyx_mm, distances_mm[0])
    # Filled one by one: all of them beside their concatenation would be the peak of a run's memory.
    features = volume.new_empty(*volume.shape, CHANNELS * len(distances_mm))
    for number, distance in enumerate(distances_mm):
        own = slice(number * CHANNELS, (number + 1) * CHANNELS)
        features[..., own] = _context(volume, spacing_zyx_mm, distance)
    return features


def _context(volume: Tensor, spacing_zyx_mm: tuple[float, ...], distance_mm: float) -> Tensor:
    steps = [max(1, round(distance_mm / s)) for s in spacing_zyx_mm]
    neighbours = []
    for axis, step in enumerate(steps):
        for sign in (-step, step):
            shift = [0, 0, 0]
            shift[axis] = sign
            neighbours.append((axis, shift))
    pairs = [(a, b) for (i, a), (j, b) in itertools.combinations(neighbours, 2) if i != j]
    first = torch.tensor([a for a, _ in pairs], device=volume.device)
    second = torch.tensor([b for _, b in pairs], device=volume.device)
    radius = torch.tensor([min(PATCH_RADIUS_VOXELS, n - 1) for n in volume.shape])
    return self_similarity(volume, first, second, radius, VARIANCE_CLAMP)
