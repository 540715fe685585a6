"""The matrices of NIfTI headers, index (i, j, k) to RAS mm, and what they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

SHEAR = 1e-3
"""Two axes whose cosine is larger are not perpendicular. :class:`Grid` allows as much."""


def unit_axes(matrix: Matrix) -> Matrix:
    """The axes with length 1, as columns; zero where an axis has no length."""
    length = spacing_of(matrix)
    axes: Matrix = matrix[:3, :3] / np.where(length > 0, length, np.inf)
    return axes


def spacing_of(matrix: Matrix) -> Matrix:
    """The lengths of the axes: the sizes of a voxel, mm."""
    length: Matrix = np.linalg.norm(matrix[:3, :3], axis=0)
    return length


def is_sheared(matrix: Matrix) -> bool:
    """Whether two axes are not perpendicular."""
    axes = unit_axes(matrix)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR)


def nearest_axes(matrix: Matrix) -> Matrix:
    """The perpendicular axes that are nearest to those of a matrix."""
    left, _, right = np.linalg.svd(unit_axes(matrix))
    nearest: Matrix = left @ right
    return nearest


def in_mm(sizes: Matrix) -> str:
    """Sizes of a voxel as messages show them."""
    return " x ".join(f"{s:.4g}" for s in sizes)


def qform_matrix(fields: Any, spacing: list[float]) -> Matrix | None:
    """The matrix of the quaternion and the spacing; None if it is not a rotation."""
    b, c, d = (float(fields[f"quatern_{k}"]) for k in "bcd")
    rest = 1 - (b * b + c * c + d * d)
    offset = [float(fields[f"qoffset_{k}"]) for k in "xyz"]
    if not np.isfinite([rest, *offset]).all() or rest < -1e-4:
        return None
    a = np.sqrt(max(0.0, rest))
    b, c, d, a = np.array([b, c, d, a]) / np.sqrt(a * a + b * b + c * c + d * d)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sizes = np.array([*spacing, 1.0, 1.0, 1.0][:3])
    if float(fields["pixdim"][0]) < 0:
        sizes[2] = -sizes[2]
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * sizes
    matrix[:3, 3] = offset
    return matrix if len(spacing) == 3 else of_picture(matrix)


def of_picture(matrix: Matrix) -> Matrix:
    """A matrix whose third axis, which a picture lacks, is perpendicular and of length 1."""
    flat = matrix.copy()
    flat[:3, 2] = np.cross(*unit_axes(matrix).T[:2])
    return flat
