"""What keeps two regions in contact while they slide: gap and overlap cost, sliding does not.

A jump of the displacement across an interface is split along the interface's normal. The tangential
part is sliding, and :mod:`iterreg.energy.smoothness` lets it pass. The normal part opens a gap or
makes tissue overlap.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from iterreg.kernels import Contact

REACH_VOXELS = 2
SIGMA_VOXELS = 1.2
"""Of the Gaussian that regions are smoothed with before their normals are taken: label maps are
staircases."""


def contact(labels: Tensor, weights: Tensor, spacing_zyx_mm: tuple[float, ...]) -> Contact | None:
    """The edges on which gap and overlap are measured.

    Args:
        labels: (Z, Y, X) int32 compact labels of the partition.
        weights: (labels, labels) symmetric, of the normal part of a jump; 0 where it is free.
        spacing_zyx_mm: of the grid.

    Returns:
        None where no interface has a weight.
    """
    every = labels.flatten().long()
    ends = [_edges(labels, weights, axis) for axis in range(3)]
    voxels, place = torch.unique(torch.cat([*sum(ends, ())]), return_inverse=True)
    if len(voxels) == 0:
        return None
    inward = _inward(labels, voxels, spacing_zyx_mm)
    sides = place.split([len(end) for pair in ends for end in pair])
    across = []
    for axis, (low, high) in enumerate(ends):
        normal = inward[:, sides[2 * axis + 1]] - inward[:, sides[2 * axis]]
        weight = weights[every[low], every[high]].sqrt() / spacing_zyx_mm[axis]
        across.append(normal / normal.norm(dim=0).clamp(min=1e-6) * weight)
    return Contact(tuple(low for low, _ in ends), tuple(high for _, high in ends), tuple(across))


def _edges(labels: Tensor, weights: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Flat indices of both ends of the edges along an axis whose interface has a weight."""
    n = labels.shape[axis]
    low, high = labels.narrow(axis, 0, n - 1), labels.narrow(axis, 1, n - 1)
    z, y, x = (low != high).nonzero(as_tuple=True)
    weighed = weights[low[z, y, x].long(), high[z, y, x].long()] > 0
    _, ny, nx = labels.shape
    first = ((z * ny + y) * nx + x)[weighed]
    return first, first + (ny * nx, nx, 1)[axis]


def _inward(labels: Tensor, voxels: Tensor, spacing_zyx_mm: tuple[float, ...]) -> Tensor:
    """(3, N), the gradient of each voxel's own region, smoothed; the border is repeated.

    Args:
        labels: (Z, Y, X). voxels: (N,) flat indices. spacing_zyx_mm: of the grid.
    """
    _, ny, nx = labels.shape
    wide = pad(labels[None].float(), (REACH_VOXELS,) * 6, mode="replicate")[0].to(labels)
    _, wy, wx = wide.shape
    index = torch.stack((voxels // (ny * nx), voxels // nx % ny, voxels % nx)) + REACH_VOXELS
    at = (index[0] * wy + index[1]) * wx + index[2]
    every = wide.flatten()
    own = every[at]
    inward = torch.zeros(3, len(voxels), device=labels.device)
    reach = range(-REACH_VOXELS, REACH_VOXELS + 1)
    for z, y, x in itertools.product(*[reach if n > 1 else (0,) for n in labels.shape]):
        same = every[at + (z * wy + y) * wx + x] == own
        share = math.exp(-(z * z + y * y + x * x) / (2 * SIGMA_VOXELS**2))
        for axis, (step, spacing) in enumerate(zip((z, y, x), spacing_zyx_mm, strict=True)):
            if step:
                inward[axis].add_(same, alpha=share * step / spacing)
    return inward
