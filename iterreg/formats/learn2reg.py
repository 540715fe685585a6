"""The Learn2Reg convention: the array ``displacement_l2r``, to and from transforms.

The array has shape (I, J, K, 3) in nibabel's axis order. At each fixed voxel i it holds the moving
index minus the fixed index, in voxels: d(i) = inv(M_moving) T(M_fixed i) - i, where M maps the
indices of an image to LPS mm. The array is not a reordered internal field, because the two images
may have different grids.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.displacement import DisplacementField, Transform
from iterreg.errors import GeometryError, TransformError
from iterreg.formats.headers import nifti_head, shape_text
from iterreg.formats.learn2reg_files import FIELD_EXTENSIONS, Field, read_field, write_field
from iterreg.formats.loaded import Loaded
from iterreg.formats.types import Sides, TransformFormat
from iterreg.formats.vectors import own_positions, require_volume
from iterreg.geometry import Grid, apply_linear, fixed_to_moving_index

MEANING = "Learn2Reg field, moving index minus fixed index in voxels, nibabel's order"


def transform_to_l2r(transform: Transform, moving: Grid) -> NDArray[np.float32]:
    """Return a transform as a Learn2Reg field on its fixed grid.

    Args:
        transform: fixed to moving, of rank 3.
        moving: the moving image's grid.

    Returns:
        (I, J, K, 3) float32, moving index minus fixed index, voxels.

    Raises:
        GeometryError: the rank is not 3.

    Example:
        >>> grid = Grid((4, 5, 6), (1.0, 1.0, 2.0), (0.0,) * 3, ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
        >>> four_mm_along_z = np.eye(4)
        >>> four_mm_along_z[2, 3] = 4.0
        >>> transform = Transform(four_mm_along_z, DisplacementField.zero(grid))
        >>> transform_to_l2r(transform, grid)[0, 0, 0].tolist()
        [0.0, 0.0, 2.0]
    """
    fixed = transform.grid
    if fixed.rank != 3 or moving.rank != 3:
        raise GeometryError(
            f"Learn2Reg field: expected 3-D images, got {fixed.rank}-D and {moving.rank}-D"
        )
    matrix = fixed_to_moving_index(fixed, transform.affine_lps, moving)
    vox = transform.field.vox.detach().cpu().numpy()
    # z planes are last in memory: this is nibabel's order on disk, and no write is strided.
    displacement = np.empty((3, *fixed.shape_zyx), np.float32)
    for z, index in _planes(fixed):
        # (M - 1) i + L u subtracts no large numbers, so small displacements keep their digits.
        moved = apply_linear(matrix - np.eye(4), index) + matrix[:3, 3:, None]
        moved += apply_linear(matrix, vox[:, z].astype(np.float64))
        displacement[:, z] = moved[::-1]
    return displacement.transpose(3, 2, 1, 0)


def l2r_to_transform(displacement_l2r: Field, fixed: Grid, moving: Grid) -> Transform:
    """Return a Learn2Reg field as a transform: the inverse of :func:`transform_to_l2r`.

    Args:
        displacement_l2r: (I, J, K, 3), moving index minus fixed index, voxels.
        fixed, moving: the images' grids.

    Returns:
        Fixed to moving, all of it in the field. Outside the fixed grid it is the identity, as in
        ITK.

    Raises:
        GeometryError: the field does not fill the fixed grid.
    """
    expected = (*reversed(fixed.shape_zyx), 3)
    if displacement_l2r.shape != expected:
        raise GeometryError(
            f"displacement_l2r: expected {shape_text(expected)} as the fixed image has, got "
            f"{shape_text(displacement_l2r.shape)}"
        )
    matrix = fixed_to_moving_index(moving, np.eye(4), fixed)
    vox = np.empty((3, *fixed.shape_zyx), np.float32)
    for z, index in _planes(fixed):
        moved = displacement_l2r[:, :, z].transpose(2, 1, 0)[::-1].astype(np.float64)
        u = apply_linear(matrix - np.eye(4), index) + matrix[:3, 3:, None]
        vox[:, z] = u + apply_linear(matrix, moved)
    return Transform(np.eye(4), DisplacementField(torch.from_numpy(vox), fixed))


def _planes(grid: Grid) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield each z and the indices of its plane, (3, Y, X), components (z, y, x)."""
    index = np.empty((3, *grid.shape_zyx[1:]))
    index[1:] = np.indices(grid.shape_zyx[1:])
    for z in range(grid.shape_zyx[0]):
        index[0] = z
        yield z, index


def _recognises(path: Path) -> bool:
    head = nifti_head(path)
    if head is None:
        return True
    is_field = len(head.shape) == 4 and head.shape[-1] == 3
    return is_field and head.intent_code in (0, 1007) and not head.intent_name and not head.is_afni


def _load(path: Path, sides: Sides) -> Loaded:
    fixed, moving = sides.both(path, "Learn2Reg", "the moving image", "the fixed image")
    k, j, i = fixed.shape_zyx
    field = read_field(path, (i, j, k))
    close_to = own_positions(fixed, field.transpose(3, 2, 1, 0))
    if close_to:
        raise TransformError(
            f"{path}: expected displacements in voxels, got vectors close to the voxels' own "
            f"{close_to}"
        )
    transform = l2r_to_transform(field, fixed, moving)
    return Loaded(str(path), 3, transform.affine_lps, transform.field)


def _write(transform: Transform, path: Path, moving: Grid) -> str:
    require_volume(path, transform.grid)
    write_field(transform_to_l2r(transform, moving), path, transform.grid.ijk_to_ras)
    return MEANING


LEARN2REG = TransformFormat(
    meaning=MEANING,
    read_suffixes=FIELD_EXTENSIONS,
    write_suffixes=FIELD_EXTENSIONS,
    recognises=_recognises,
    load=_load,
    write=_write,
    needs_moving=True,
)
