"""MIND-SSC: how the surroundings of a voxel resemble each other, whatever the contrast.

::

    MIND(a, b) = exp(-D(a, b) / V)        D(a, b) = sum over a patch p of (I(p + a) - I(p + b))^2

a and b are two neighbours of the voxel, and V is the mean of D over all pairs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.kernels import self_similarity
from iterreg.neighbourhood import shifted
from iterreg.to_device import on_device

CHANNELS = 12
"""Number of channels of each distance."""

PATCH_STEPS = 3
"""Width of a patch, in steps of the lattice."""

VARIANCE_CLAMP = (1e-3, 1e3)
"""V stays within these multiples of its mean over the image. The values are the paper's."""

LEAST_TURN_VOXELS = 0.25
"""What a turn adds to an offset is rounded to this: looking between voxels blurs and costs, so a
slight turn changes nothing."""

Offsets = tuple[tuple[tuple[float, ...], ...], ...]

Turn = NDArray[np.float64]
"""(3, 3) rotation: column a is where axis a of the other image points, components (z, y, x)."""


def mind_ssc(
    volume: Tensor,
    spacing_zyx_mm: tuple[float, ...],
    *distances_mm: float,
    lattice_zyx_mm: tuple[float, ...] | None = None,
    turn: Turn | None = None,
) -> Tensor:
    """The self-similarity context of every voxel.

    The six neighbours at a distance are compared with each other, patch by patch. The twelve pairs
    that are not opposite make twelve channels. Near neighbours see the wall of a vessel; far ones
    tell the vessel from the next one.

    Args:
        volume: (Z, Y, X) intensities.
        spacing_zyx_mm: of the volume.
        distances_mm: how far away the neighbours are, rounded to whole steps of the lattice, at
            least one.
        lattice_zyx_mm: spacing of the image that the features are compared with: offsets and
            patches are as long as there; None: the volume's own.
        turn: how the axes of that image lie in this one: neighbours are looked for along them;
            None: along the volume's own.

    Returns:
        (Z, Y, X, 12 for each distance) float32, 0 ... 1.

    Source:
        Heinrich et al., "Towards Realtime Multimodal Fusion for Image-Guided Interventions Using
        Self-similarities", MICCAI 2013, eq. 3-4.

    Example:
        >>> mind_ssc(torch.rand(4, 5, 6), (1.0, 1.0, 1.0), 2.0, 4.0).shape
        torch.Size([4, 5, 6, 24])
    """
    lattice = lattice_zyx_mm or spacing_zyx_mm
    # Voxels of the volume in a step of the lattice; what rounding adds is no step.
    steps = [round(step / s, 3) for step, s in zip(lattice, spacing_zyx_mm, strict=True)]
    patch = [_box(PATCH_STEPS * step, n) for step, n in zip(steps, volume.shape, strict=True)]
    # Filled one by one: keeping all of them to join them would be the peak of a run's memory.
    features = volume.new_empty(*volume.shape, CHANNELS * len(distances_mm))
    for number, offsets in enumerate(
        neighbour_offsets(spacing_zyx_mm, distances_mm, lattice, turn)
    ):
        own = slice(number * CHANNELS, (number + 1) * CHANNELS)
        found = _context(volume, offsets, patch)
        if len(distances_mm) == 1:
            return found
        features[..., own] = found
    return features


def neighbour_offsets(
    spacing_zyx_mm: Sequence[float],
    distances_mm: Sequence[float],
    lattice_zyx_mm: Sequence[float],
    turn: Turn | None = None,
) -> Offsets:
    """The neighbour along each axis of the lattice, at each distance.

    Args:
        spacing_zyx_mm, distances_mm, lattice_zyx_mm, turn: see :func:`mind_ssc`.

    Returns:
        For each distance and axis (z, y, x) an offset in voxels (z, y, x).

    Example:
        >>> neighbour_offsets((1.0, 1.0, 1.0), (4.0,), (2.0, 2.0, 2.0))
        (((4.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0, 0.0, 4.0)),)
    """
    spacing, lattice = np.asarray(spacing_zyx_mm), np.asarray(lattice_zyx_mm)
    # What rounding adds is no step.
    steps = np.round(lattice / spacing, 3)
    offsets = []
    for distance in distances_mm:
        reach = np.maximum(1, np.round(distance / lattice)) * steps
        along = np.diag(reach)
        if turn is not None:
            turned = turn * (spacing * reach) / spacing[:, None]
            change = (turned - along) / LEAST_TURN_VOXELS
            along = along + np.round(change) * LEAST_TURN_VOXELS
        offsets.append(tuple(tuple(map(float, offset)) for offset in along.T))
    return tuple(offsets)


def _context(volume: Tensor, offsets: Sequence[Sequence[float]], patch: Sequence[Tensor]) -> Tensor:
    """The twelve channels of one distance, (Z, Y, X, 12); ``offsets`` in voxels (z, y, x)."""
    copies = volume.new_empty(6, *volume.shape)
    for axis, offset in enumerate(offsets):
        for side, sign in enumerate((-1, 1)):
            copies[2 * axis + side] = _neighbour(volume, [sign * voxels for voxels in offset])
    pairs = [(a, b) for a, b in itertools.combinations(range(6), 2) if a // 2 != b // 2]
    first, second = on_device(pairs, volume.device).T.contiguous()
    return self_similarity(copies, first, second, patch, VARIANCE_CLAMP)


def _neighbour(volume: Tensor, offset: Sequence[float]) -> Tensor:
    """Each voxel's neighbour at an offset (z, y, x), linear between voxels."""
    for axis, voxels in enumerate(offset):
        whole = math.floor(voxels)
        near, far = ([k if a == axis else 0 for a in range(3)] for k in (whole, whole + 1))
        if voxels == whole:
            volume = shifted(volume, near)
        else:
            volume = torch.lerp(shifted(volume, near), shifted(volume, far), voxels - whole)
    return volume


def _box(width: float, voxels: int) -> Tensor:
    """The share of each voxel in a box around the middle one, of a width in voxels."""
    if voxels == 1 or width <= 1:
        return torch.ones(1)
    reach = math.ceil(round((width - 1) / 2, 3))
    shares = torch.ones(2 * reach + 1)
    shares[0] = shares[-1] = (width - 1) / 2 - (reach - 1)
    return shares
