"""Voxel indices of a grid, a slab at a time, and affine maps of them in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from iterreg.geometry import Grid, Matrix

SLAB_VOXELS = 1 << 19
"""Voxels whose float64 coordinates are in memory together."""


def index_slabs(grid: Grid) -> Iterator[tuple[slice, torch.Tensor]]:
    """Runs of flat voxels with their indices (rank, n) in float64."""
    row = grid.voxel_count // grid.shape_zyx[0]
    rows = max(1, SLAB_VOXELS // row)
    for start in range(0, grid.shape_zyx[0], rows):
        stop = min(start + rows, grid.shape_zyx[0])
        axes = [torch.arange(start, stop, dtype=torch.float64)]
        axes += [torch.arange(n, dtype=torch.float64) for n in grid.shape_zyx[1:]]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(grid.rank, -1)
        yield slice(start * row, stop * row), index


def apply_to_index(matrix: Matrix, index: torch.Tensor) -> torch.Tensor:
    """Apply a homogeneous matrix to (rank, n) indices, in float64; the result is float32."""
    rank = index.shape[0]
    linear = torch.from_numpy(np.ascontiguousarray(matrix[:rank, :rank]))
    shift = torch.from_numpy(np.ascontiguousarray(matrix[:rank, rank])).unsqueeze(1)
    return (linear @ index.double() + shift).float()
