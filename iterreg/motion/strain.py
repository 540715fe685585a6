"""Strain of a heart's wall: how it thickens, shortens around the cavity, and along the axis.

Source:
    The Green-Lagrange strain E = (F^T F - 1) / 2 with F = dT/dx: G. A. Holzapfel, "Nonlinear Solid
    Mechanics", 2000, eq. 2.69. A strain of -0.2 is a shortening by about 22 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iterreg.displacement import Transform, total_displacement_mm
from iterreg.errors import ImageContentError
from iterreg.geometry import apply_affine
from iterreg.image import LabelMap

Vectors = NDArray[np.float64]

THICK = 1.8
"""Slices that are thicker than their pixels by this factor were cut across the long axis."""

NAMES = ("radial", "circumferential", "longitudinal")


@dataclass(frozen=True)
class Wall:
    """The voxels of a wall, with the three directions at each.

    Args:
        index: (n, 3), voxels (z, y, x).
        directions: (3, n, 3): radial (outwards), circumferential, longitudinal; unit vectors, LPS.
    """

    index: NDArray[np.int64]
    directions: Vectors


def wall_of(labels: LabelMap, wall: int, cavity: int) -> Wall:
    """Find the directions of a wall around its cavity.

    The long axis is the slices' normal if they are thick, else the cavity's longest axis. Radial is
    away from the cavity's centre on the plane across it.

    Args:
        labels: of the reference.
        wall, cavity: numbers of the labels.

    Returns:
        The wall.

    Raises:
        ImageContentError: a label is empty, or fills no volume.
    """
    data, grid = labels.data.numpy(), labels.grid
    for what, value in (("wall", wall), ("cavity", cavity)):
        if int((data == value).sum()) < 8:
            raise ImageContentError(f"{labels.name}: {what}: the label {value} is empty")
    index = np.argwhere(data == wall)
    points = apply_affine(grid.index_to_lps, index.astype(float))
    inside = apply_affine(grid.index_to_lps, np.argwhere(data == cavity).astype(float))
    axis = _long_axis(labels, inside)
    height, heights = inside @ axis, points @ axis
    centre = _centres(inside, height, heights, grid.spacing_zyx_mm)
    radial = points - centre
    radial -= np.outer(radial @ axis, axis)
    length = np.linalg.norm(radial, axis=1, keepdims=True)
    keep = length[:, 0] > 1e-6
    radial = radial[keep] / length[keep]
    along = np.broadcast_to(axis, radial.shape)
    return Wall(index[keep], np.stack([radial, np.cross(along, radial), along]))


def _long_axis(labels: LabelMap, inside: Vectors) -> Vectors:
    spacing = labels.grid.spacing_zyx_mm
    thick = int(np.argmax(spacing))
    if spacing[thick] > THICK * min(spacing):
        axis: Vectors = labels.grid.index_to_lps[:3, thick] / spacing[thick]
        return axis
    _, _, rows = np.linalg.svd(inside - inside.mean(0), full_matrices=False)
    longest: Vectors = rows[0]
    return longest


def _centres(inside: Vectors, height: Vectors, at: Vectors, spacing: tuple[float, ...]) -> Vectors:
    """The cavity's centre at the height of each point; beyond its ends that of the end."""
    step = max(spacing)
    bins = np.round(height / step).astype(int)
    known = np.unique(bins)
    means = np.stack([inside[bins == b].mean(0) for b in known])
    nearest = np.abs(np.round(at / step).astype(int)[:, None] - known).argmin(1)
    centres: Vectors = means[nearest]
    return centres


def strains(transform: Transform, wall: Wall) -> Vectors:
    """Compute the strain of a wall along its directions.

    Args:
        transform: reference to phase, on the reference's grid.
        wall: from :func:`wall_of`.

    Returns:
        (3, n): radial, circumferential and longitudinal at each voxel of the wall.
    """
    grid = transform.grid
    total = total_displacement_mm(transform).double().numpy()
    slopes = np.stack(np.gradient(total, axis=(1, 2, 3)), 1)
    at = slopes[:, :, wall.index[:, 0], wall.index[:, 1], wall.index[:, 2]]
    # From a change per voxel (z, y, x) to a change per mm along x, y, z.
    to_index = grid.lps_to_index[:3, :3]
    gradient = np.einsum("ukn,kj->nuj", at, to_index) + np.eye(3)
    green = (np.einsum("nki,nkj->nij", gradient, gradient) - np.eye(3)) / 2
    along: Vectors = np.einsum("dni,nij,dnj->dn", wall.directions, green, wall.directions)
    return along
