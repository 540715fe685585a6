"""Affine maps of voxel indices and of fields of displacements in voxels, without the indices."""

from __future__ import annotations

import numpy as np
import torch

from iterreg.geometry import Matrix


def affine_of_index(
    of_index: Matrix, of_vox: Matrix, vox: torch.Tensor, first_row: int = 0
) -> torch.Tensor:
    """Return ``of_index`` applied to voxel indices plus the linear part of ``of_vox`` to a field.

    Args:
        of_index, of_vox: homogeneous, (rank + 1, rank + 1).
        vox: (rank, *shape), a slab of a field.
        first_row: index of the slab's first row.

    Returns:
        (rank, *shape) float32.

    Example:
        >>> shift = np.array([[1.0, 0.0, 5.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> affine_of_index(shift, shift, torch.zeros(2, 3, 1))[0].flatten().tolist()
        [5.0, 6.0, 7.0]
    """
    rank = vox.shape[0]
    out = torch.empty_like(vox)
    for k in range(rank):
        torch.mul(vox[0], float(of_vox[k, 0]), out=out[k])
        for axis in range(1, rank):
            out[k].add_(vox[axis], alpha=float(of_vox[k, axis]))
        for axis in range(rank):
            index = np.arange(vox.shape[axis + 1]) + (first_row if axis == 0 else 0)
            ramp = index * of_index[k, axis] + (of_index[k, rank] if axis == 0 else 0)
            along = torch.from_numpy(ramp).float().to(vox.device)
            out[k] += along.view(-1, *[1] * (rank - 1 - axis))
    return out
