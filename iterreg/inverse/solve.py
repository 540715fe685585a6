"""Solving the inverse of a transform, at points or on a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.displacement import DisplacementField, Transform
from iterreg.errors import GeometryError
from iterreg.geometry import Grid, Matrix, Points, apply_affine
from iterreg.image import LabelMap
from iterreg.inverse._indices import apply_to_index, index_slabs
from iterreg.inverse.branches import InverseStatus, solve_branches
from iterreg.sampling import is_inside, sample_nearest

UNKNOWN = torch.iinfo(torch.int32).min
"""Label of a point outside the moving label map."""

ROUNDING_VOX = 1e-4
"""A smaller inverse displacement is the rounding of float32, and is set to zero."""


@dataclass(frozen=True, eq=False)
class InversePoints:
    """Moving points taken back into the fixed image.

    Args:
        points: in fixed space, as many as were given.
        status: of each point.
        residual_mm: (n,) distance between the given point and where the whole transform takes the
            answer. It is large at gaps and within one voxel of a sliding interface.

    Example:
        >>> from iterreg.inverse import invert_linear
        >>> found = invert_linear(np.eye(3), Points(np.array([[5.0, 4.0]])))
        >>> found
        InversePoints(1 ok; residual up to 0 mm)
        >>> found.points.lps.tolist(), found.status[0].name
        ([[5.0, 4.0]], 'OK')
    """

    points: Points
    status: tuple[InverseStatus, ...]
    residual_mm: NDArray[np.float64]

    def __repr__(self) -> str:
        counts = [(s.name.lower(), self.status.count(s)) for s in InverseStatus]
        summary = ", ".join(f"{n} {name}" for name, n in counts if n)
        worst = float(self.residual_mm.max()) if len(self.residual_mm) else 0.0
        return f"InversePoints({summary or 'none'}; residual up to {worst:.2g} mm)"


def invert_points(
    transform: Transform,
    points: Points,
    fixed_labels: LabelMap | None = None,
    moving_labels: LabelMap | None = None,
) -> InversePoints:
    """Find where in the fixed image points of the moving image come from.

    Args:
        transform: fixed to moving.
        points: in moving space.
        fixed_labels: the regions between which the field may jump, on the transform's grid. None:
            one region, and ``moving_labels`` is not used.
        moving_labels: the same labels in moving space, on any grid; they choose the branch.

    Returns:
        A fixed point for each moving one, with its status and residual.

    Raises:
        GeometryError: ``fixed_labels`` lies on another grid, or the ranks differ.

    Example:
        >>> grid = Grid((8, 8), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> shift = Transform(np.eye(3), DisplacementField(torch.full((2, 8, 8), 2.0), grid))
        >>> invert_points(shift, Points(np.array([[5.0, 4.0]]))).points.lps
        array([[3., 2.]])
    """
    grid = transform.grid
    if points.lps.shape[1] != grid.rank:
        raise GeometryError(
            f"inverse: expected {grid.rank}-D points, got {points.lps.shape[1]}-D ones"
        )
    back = grid.lps_to_index @ np.linalg.inv(transform.affine_lps)
    z = torch.from_numpy(np.ascontiguousarray(apply_affine(back, points.lps).T)).float()
    own = None
    if fixed_labels is not None and moving_labels is not None:
        own = _labels_at_points(moving_labels, points)
    x, status = solve_branches(transform, z, fixed_labels, own)
    answer = Points(apply_affine(grid.index_to_lps, x.T.double().numpy()))
    landed = transform.map_points(answer).lps
    return InversePoints(
        answer,
        tuple(InverseStatus(s) for s in status.tolist()),
        np.linalg.norm(landed - points.lps, axis=1),
    )


def invert_linear(affine_lps: Matrix, points: Points) -> InversePoints:
    """Take points back through an affine alone, which has no grid and an answer everywhere.

    Args:
        affine_lps: homogeneous, fixed to moving, LPS mm.
        points: in moving space.

    Example:
        >>> shift = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> invert_linear(shift, Points(np.array([[5.0, 4.0]]))).points.lps
        array([[3., 4.]])
    """
    back = np.asarray(np.linalg.inv(affine_lps), np.float64)
    answer = Points(apply_affine(back, points.lps))
    residual = np.linalg.norm(apply_affine(affine_lps, answer.lps) - points.lps, axis=1)
    return InversePoints(answer, (InverseStatus.OK,) * len(points), residual)


def invert_to_grid(
    transform: Transform,
    moving_grid: Grid,
    fixed_labels: LabelMap | None = None,
    moving_labels: LabelMap | None = None,
) -> tuple[Transform, torch.Tensor]:
    """Compute the inverse on every voxel of the moving grid, as a transform from moving to fixed.

    ``warp_image(fixed_image, inverse, fill)`` then pulls the fixed image onto the moving grid.

    Args:
        transform: fixed to moving.
        moving_grid: grid of the inverse.
        fixed_labels, moving_labels: as in :func:`invert_points`.

    Returns:
        The inverse A^-1(y + w(y)), with w on ``moving_grid``, and (*moving shape) int8 with the
        :class:`InverseStatus` of each voxel.

    Raises:
        GeometryError: as :func:`invert_points`.

    Example:
        >>> grid = Grid((8, 8), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> shift = Transform(np.eye(3), DisplacementField(torch.full((2, 8, 8), 2.0), grid))
        >>> inverse, status = invert_to_grid(shift, grid)
        >>> inverse.field.vox[:, 4, 4], InverseStatus(int(status[4, 4])).name
        (tensor([-2., -2.]), 'OK')
    """
    grid, rank = transform.grid, transform.grid.rank
    if moving_grid.rank != rank:
        raise GeometryError(f"inverse: expected a {rank}-D moving grid, got {moving_grid.rank}-D")
    forward = moving_grid.lps_to_index @ transform.affine_lps @ grid.index_to_lps
    backward = np.asarray(np.linalg.inv(forward), np.float64)
    z = torch.cat([apply_to_index(backward, index) for _, index in index_slabs(moving_grid)], dim=1)
    own = None
    if fixed_labels is not None and moving_labels is not None:
        own = _labels_on_grid(moving_labels, moving_grid)
    x, status = solve_branches(transform, z, fixed_labels, own)
    w = torch.empty(rank, moving_grid.voxel_count)
    for part, index in index_slabs(moving_grid):
        w[:, part] = apply_to_index(forward, x[:, part]) - index
    w[w.abs() < ROUNDING_VOX] = 0.0
    field = DisplacementField(w.view(rank, *moving_grid.shape_zyx), moving_grid)
    back = np.asarray(np.linalg.inv(transform.affine_lps), np.float64)
    return Transform(back, field), status.view(moving_grid.shape_zyx)


def _labels_at_points(labels: LabelMap, points: Points) -> torch.Tensor:
    """(n,) int32 label of the nearest voxel, :data:`UNKNOWN` outside."""
    index = apply_affine(labels.grid.lps_to_index, points.lps).T.copy()
    return _labels_at_index(labels, torch.from_numpy(index))


def _labels_on_grid(labels: LabelMap, grid: Grid) -> torch.Tensor:
    """(n,) int32 label at each voxel of a grid, flat."""
    if labels.grid.same_space(grid):
        return labels.data.detach().cpu().reshape(-1)
    matrix = labels.grid.lps_to_index @ grid.index_to_lps
    parts = [
        _labels_at_index(labels, apply_to_index(matrix, index)) for _, index in index_slabs(grid)
    ]
    return torch.cat(parts)


def _labels_at_index(labels: LabelMap, index: torch.Tensor) -> torch.Tensor:
    nearest = sample_nearest(labels.data.detach().cpu(), index)
    return torch.where(is_inside(index, labels.data.shape), nearest, UNKNOWN).int()
