"""Symmetric 3 x 3 blocks, one per voxel, and the preconditioner that is made of them.

This is plain torch that every backend may share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.kernels.types import LinearSystem

ROUNDING_SHARE = 1e-3
"""This share of its trace is added to a block's diagonal. A block of one strong direction has no
inverse in float32: its determinant has to stay well over 1e-7 of the trace's cube."""


def apply_blocks(blocks: Tensor, v: Tensor) -> Tensor:
    """Symmetric 3 x 3 blocks (6, ...) times vectors (3, ...).

    Example:
        >>> blocks = torch.tensor([2.0, 0.0, 1.0, 3.0, 0.0, 4.0])
        >>> apply_blocks(blocks, torch.tensor([1.0, 1.0, 1.0]))
        tensor([3., 3., 5.])
    """
    zz, zy, zx, yy, yx, xx = blocks
    z, y, x = v
    rows = ((zz, zy, zx), (zy, yy, yx), (zx, yx, xx))
    return torch.stack([a * z + b * y + c * x for a, b, c in rows])


def invert_blocks(blocks: Tensor, diagonal: Tensor) -> Tensor:
    """``(blocks + diagonal I)^-1`` per voxel, (6, ...)."""
    zz, zy, zx, yy, yx, xx = blocks
    zz, yy, xx = zz + diagonal, yy + diagonal, xx + diagonal
    a, b, c = yy * xx - yx * yx, zx * yx - zy * xx, zy * yx - zx * yy
    scale = 1 / (zz * a + zy * b + zx * c)
    rest = torch.stack((zz * xx - zx * zx, zy * zx - zz * yx, zz * yy - zy * zy))
    inverse: Tensor = torch.cat((torch.stack((a, b, c)), rest)) * scale
    return inverse


def edge_degree(edges: Tensor) -> Tensor:
    """Diagonal of the Laplacian, (Z, Y, X): the sum of the weights of a voxel's edges."""
    degree = edges.sum(0)
    for axis in range(3):
        n = edges.shape[axis + 1]
        if n > 1:
            degree.narrow(axis, 1, n - 1).add_(edges[axis].narrow(axis, 0, n - 1))
    return degree


def preconditioner_diagonal(system: LinearSystem, damping: float) -> Tensor:
    """(Z, Y, X), what the preconditioner adds to the diagonal of each voxel's curvature."""
    curvature = system.curvature
    trace = curvature[0] + curvature[3] + curvature[5]
    return edge_degree(system.edges).add_(damping).add_(trace, alpha=ROUNDING_SHARE)


def correct_at_interfaces(system: LinearSystem, diagonal: Tensor, inverse: Tensor) -> None:
    """Put the penalty of normal jumps into the inverse blocks of the preconditioner, in place.

    Args:
        system: with or without such a penalty.
        diagonal: (Z, Y, X), what the preconditioner adds to each block.
        inverse: (6, Z, Y, X), changed at interfaces.
    """
    if system.normal_jump is None:
        return
    voxels, blocks = system.normal_jump.diagonal_blocks
    own = system.curvature.view(6, -1)[:, voxels] + blocks
    inverse.view(6, -1)[:, voxels] = invert_blocks(own, diagonal.flatten()[voxels])
