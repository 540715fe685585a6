"""Learn2Reg's displacement fields, to and from transforms.

``displacement_l2r`` is an array (I, J, K, 3) in nibabel's order, voxels: at each fixed voxel i the
moving index minus the fixed index, d(i) = inv(M_moving) T(M_fixed i) - i. Both matrices matter: the
grids may differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.displacement import DisplacementField, Transform
from iterreg.errors import GeometryError, TransformError
from iterreg.formats.common import nifti_shape
from iterreg.formats.learn2reg_files import Field, read_field, times, write_field
from iterreg.geometry import Grid, Matrix, fixed_to_moving_index
from iterreg.io import extension_of


def transform_to_l2r(transform: Transform, moving: Grid) -> NDArray[np.float32]:
    """A transform as Learn2Reg's field on its fixed grid.

    Args:
        transform: fixed to moving, of rank 3.
        moving: the moving image's grid.

    Returns:
        (I, J, K, 3) float32, moving index minus fixed index, voxels.

    Raises:
        GeometryError: not of rank 3.
    """
    fixed = transform.grid
    if fixed.rank != 3 or moving.rank != 3:
        raise GeometryError(f"transform_to_l2r: expected rank 3, got {fixed.rank}, {moving.rank}")
    matrix = fixed_to_moving_index(fixed, transform.affine_lps, moving)
    vox = transform.field.vox.detach().cpu().numpy()
    # Planes of z last in memory: nibabel's order on disk, and no strided writes.
    lattice = np.empty((3, *fixed.shape_zyx), np.float32)
    for z, index in _planes(fixed):
        # (M - 1) i + L u subtracts no large numbers: small displacements keep their digits.
        moved = _linear(matrix - np.eye(4), index) + matrix[:3, 3:, None]
        moved += _linear(matrix, vox[:, z].astype(np.float64))
        lattice[:, z] = moved[::-1]
    return lattice.transpose(3, 2, 1, 0)


def l2r_to_transform(displacement_l2r: Field, fixed: Grid, moving: Grid) -> Transform:
    """Learn2Reg's field as a transform: the inverse of :func:`transform_to_l2r` on the grid.

    Args:
        displacement_l2r: (I, J, K, 3), moving index minus fixed index, voxels.
        fixed, moving: the images' grids.

    Returns:
        Fixed to moving, all of it in the field; outside the fixed grid the identity, as in ITK.

    Raises:
        GeometryError: the field does not fill the fixed grid.
    """
    expected = (*reversed(fixed.shape_zyx), 3)
    if displacement_l2r.shape != expected:
        raise GeometryError(
            f"displacement_l2r: expected {times(expected)} as the fixed image has, got "
            f"{times(displacement_l2r.shape)}"
        )
    matrix = fixed_to_moving_index(moving, np.eye(4), fixed)
    vox = np.empty((3, *fixed.shape_zyx), np.float32)
    for z, index in _planes(fixed):
        moved = displacement_l2r[:, :, z].transpose(2, 1, 0)[::-1].astype(np.float64)
        u = _linear(matrix - np.eye(4), index) + matrix[:3, 3:, None]
        vox[:, z] = u + _linear(matrix, moved)
    return Transform(np.eye(4), DisplacementField(torch.from_numpy(vox), fixed))


def _planes(grid: Grid) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Each plane of the first axis with its indices (3, Y, X), components (z, y, x)."""
    index = np.empty((3, *grid.shape_zyx[1:]))
    index[1:] = np.indices(grid.shape_zyx[1:])
    for z in range(grid.shape_zyx[0]):
        index[0] = z
        yield z, index


def _linear(matrix: Matrix, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    turned = matrix[:3, :3] @ vectors.reshape(3, -1)
    return np.asarray(turned.reshape(vectors.shape), np.float64)


def is_learn2reg_file(path: Path) -> bool:
    """Whether a file may hold a Learn2Reg field, by its extension and shape."""
    if extension_of(path) == ".npz":
        return True
    if not extension_of(path).startswith(".nii"):
        return False
    shape = nifti_shape(path)
    return len(shape) == 4 and shape[-1] == 3


def read_for(source: Path, start: Grid, end: Grid) -> Transform:
    """Read a transform that maps points of one grid's image to another's."""
    if start.rank != 3:
        raise TransformError(f"{source}: Learn2Reg's fields are 3-D, the images are 2-D")
    k, j, i = start.shape_zyx
    return l2r_to_transform(read_field(source, (i, j, k)), start, end)


def write_for(transform: Transform, out: Path, moving: Grid) -> str:
    """Write a transform as a field, and return in words what was written."""
    write_field(transform_to_l2r(transform, moving), out, transform.grid.ijk_to_ras)
    return "Learn2Reg field, moving index minus fixed index in voxels, nibabel's order"
