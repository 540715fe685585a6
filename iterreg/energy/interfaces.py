"""The cost of gaps and overlaps between regions that slide along each other.

A jump of the displacement across an interface is split along the interface's normal n. The
tangential part is sliding, which :mod:`iterreg.energy.smoothness` lets pass. The normal part opens
a gap or makes tissue overlap, and costs::

    E(u) = sum over faces of w[a, b] (n . (u_high - u_low))^2 / spacing^2
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.kernels import NormalJump, region_slope
from iterreg.neighbourhood import face_pairs

NORMAL_SIGMA_VOXELS = 1.2
"""Regions are smoothed by a Gaussian of this width before their normals are taken, because a label
map is a staircase."""

NORMAL_REACH_VOXELS = 2
"""The Gaussian is cut off beyond this distance."""


def normal_jump(
    labels: Tensor, weights: Tensor, spacing_zyx_mm: tuple[float, ...]
) -> NormalJump | None:
    """The faces on which gap and overlap are measured.

    Args:
        labels: (Z, Y, X) int32 compact labels of the partition.
        weights: (labels, labels) symmetric, the weight of the normal part of a jump; 0 where it
            is free.
        spacing_zyx_mm: of the grid.

    Returns:
        The faces, or None if no interface has a weight.

    Example:
        >>> labels = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.int32)
        >>> jump = normal_jump(labels, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), (1.0, 1.0, 1.0))
        >>> [len(low) for low in jump.low], jump.across[2].flatten().tolist()
        ([0, 0, 1], [0.0, 0.0, 1.0])
    """
    edges = [_edges(labels, weights, axis) for axis in range(3)]
    ends = [end for low, high, _ in edges for end in (low, high)]
    voxels, place = torch.unique(torch.cat(ends), return_inverse=True)
    if len(voxels) == 0:
        return None
    reach, sigma = NORMAL_REACH_VOXELS, NORMAL_SIGMA_VOXELS
    inward = region_slope(labels, voxels, reach, sigma, spacing_zyx_mm)
    sides = place.split([len(end) for end in ends])
    across = []
    for axis, (_, _, weight) in enumerate(edges):
        normal = inward[:, sides[2 * axis + 1]] - inward[:, sides[2 * axis]]
        root = weight.sqrt() / spacing_zyx_mm[axis]
        across.append(normal / normal.norm(dim=0).clamp(min=1e-6) * root)
    return NormalJump(tuple(ends[::2]), tuple(ends[1::2]), tuple(across))


def faces(labels: Tensor, table: Tensor, axis: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """The faces along an axis at which two labels meet.

    Args:
        labels: (Z, Y, X) compact labels.
        table: (labels, labels).
        axis: 0, 1 or 2.

    Returns:
        The indices (z, y, x) of the lower voxels, and the table's entry for each, (n,).
    """
    low, high = face_pairs(labels, axis)
    at = (low != high).nonzero(as_tuple=True)
    return at, table[low[at].long(), high[at].long()]


def _edges(labels: Tensor, weights: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Flat indices of both ends, and weights, of the faces along an axis that have a weight."""
    (z, y, x), weight = faces(labels, weights, axis)
    _, ny, nx = labels.shape
    is_weighted = weight > 0
    first = ((z * ny + y) * nx + x)[is_weighted]
    return first, first + (ny * nx, nx, 1)[axis], weight[is_weighted]
