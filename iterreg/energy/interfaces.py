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
    edges = [_edges(labels, weights, axis) for axis in range(3)]
    ends = [end for low, high, _ in edges for end in (low, high)]
    voxels, place = torch.unique(torch.cat(ends), return_inverse=True)
    if len(voxels) == 0:
        return None
    inward = _inward(labels, voxels, spacing_zyx_mm)
    sides = place.split([len(end) for end in ends])
    across = []
    for axis, (_, _, weight) in enumerate(edges):
        normal = inward[:, sides[2 * axis + 1]] - inward[:, sides[2 * axis]]
        root = weight.sqrt() / spacing_zyx_mm[axis]
        across.append(normal / normal.norm(dim=0).clamp(min=1e-6) * root)
    return Contact(tuple(ends[::2]), tuple(ends[1::2]), tuple(across))


def faces(labels: Tensor, table: Tensor, axis: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Where two labels meet along an axis.

    Args:
        labels: (Z, Y, X) compact labels. table: (labels, labels). axis: 0, 1 or 2.

    Returns:
        The indices (z, y, x) of the lower voxels, and the table's entry for each, (n,).
    """
    n = labels.shape[axis]
    low, high = labels.narrow(axis, 0, n - 1), labels.narrow(axis, 1, n - 1)
    at = (low != high).nonzero(as_tuple=True)
    return at, table[low[at].long(), high[at].long()]


def _edges(labels: Tensor, weights: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Flat indices of both ends, and weights, of the edges along an axis that have a weight."""
    (z, y, x), weight = faces(labels, weights, axis)
    _, ny, nx = labels.shape
    weighed = weight > 0
    first = ((z * ny + y) * nx + x)[weighed]
    return first, first + (ny * nx, nx, 1)[axis], weight[weighed]


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
