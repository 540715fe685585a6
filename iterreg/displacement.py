"""Displacement fields and transforms: sampling, conversion and warping.

A :class:`Transform` maps a fixed point x to A(x + u(x)): first the displacement u, defined on the
fixed grid, then the affine A. Outside the fixed grid u is zero, as in ITK. Warping pulls: each
fixed voxel takes the moving value at its mapped point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from iterreg.arguments import require_tensor
from iterreg.errors import GeometryError, TransformError
from iterreg.geometry import (
    Grid,
    Matrix,
    Points,
    apply_affine,
    apply_linear,
    as_affine,
    fixed_to_moving_index,
)
from iterreg.image import Image, LabelMap
from iterreg.index_maps import affine_of_index
from iterreg.sampling import sample, sample_nearest
from iterreg.tables import load

if TYPE_CHECKING:
    from iterreg.image.kinds import GridLike, ImageLike, LabelsLike, PointsLike

SLAB_VOXELS, ROWS_PER_SLAB = 4_000_000, 16
"""Voxels, about, and rows of the first axis at once; they bound the memory for coordinates."""


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """One displacement per voxel of the fixed grid.

    Args:
        vox: (rank, *shape) float32, components in array order (z, y, x), voxels of the fixed grid.
        grid: the fixed grid.

    Example:
        >>> grid = Grid((4, 5), (2.0, 2.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> DisplacementField(torch.ones(2, 4, 5), grid)
        DisplacementField(Grid(5 x 4 voxels (x first) of 2 x 2 mm, axes LP), longest 2.83 mm)
    """

    vox: torch.Tensor
    grid: Grid

    def __post_init__(self) -> None:
        require_tensor(self.vox, "displacement field")
        expected = (self.grid.rank, *self.grid.shape_zyx)
        got = tuple(self.vox.shape)
        if got != expected:
            raise GeometryError(f"displacement field: expected shape {expected}, got {got}")

    def __repr__(self) -> str:
        mm = displacement_vox_to_mm(self.vox, self.grid)
        longest = float(mm.square().sum(0).max().sqrt())
        return f"DisplacementField({self.grid!r}, longest {longest:.3g} mm)"

    @classmethod
    def zero(cls, grid: Grid) -> DisplacementField:
        """Return the field of zero displacements."""
        return cls(torch.zeros(grid.rank, *grid.shape_zyx), grid)


@dataclass(frozen=True, eq=False)
class Transform:
    """The map of a fixed point x to the moving point A(x + u(x)), in LPS mm.

    Args:
        affine_lps: A, a finite homogeneous matrix (rank + 1, rank + 1) on (x, y, z, 1), LPS mm.
        field: the residual u, on the fixed grid.

    Example:
        >>> grid = Grid((4, 5), (2.0, 2.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> one_voxel_in_x = torch.stack([torch.zeros(4, 5), torch.ones(4, 5)])
        >>> transform = Transform(np.eye(3), DisplacementField(one_voxel_in_x, grid))
        >>> transform.map_points(Points(np.array([[4.0, 2.0]]))).lps.tolist()
        [[6.0, 2.0]]
    """

    affine_lps: Matrix
    field: DisplacementField

    def __post_init__(self) -> None:
        affine = as_affine(self.affine_lps, self.grid.rank, "transform: affine")
        object.__setattr__(self, "affine_lps", affine)

    @property
    def grid(self) -> Grid:
        """The fixed grid."""
        return self.field.grid

    def map_points(self, points: PointsLike) -> Points:
        """Map points of the FIXED image to the moving one.

        Args:
            points: :class:`iterreg.Points`, LPS mm, or a file that :func:`iterreg.read_points`
                reads.

        Returns:
            The same number of points in moving space.

        Raises:
            IterregError: the points cannot be used, or have another rank.
        """
        if not isinstance(points, Points):
            points = cast(Points, load("iterreg.io:as_points")(points, "points"))
        if points.lps.shape[1] != self.grid.rank:
            raise GeometryError(
                f"{points.name or 'points'}: expected {self.grid.rank}-D points as the transform, "
                f"got {points!r}"
            )
        index = torch.from_numpy(apply_affine(self.grid.lps_to_index, points.lps).T)
        u = sample(self.field.vox, index.float(), outside=0.0).double()
        displaced = apply_affine(self.grid.index_to_lps, (index + u).T.numpy())
        return Points(apply_affine(self.affine_lps, displaced))

    def warp(
        self, image: ImageLike, *, onto: GridLike | None = None, fill: float | None = None
    ) -> Image:
        """Warp an image of the MOVING space onto the fixed grid, with linear interpolation.

        Args:
            image: any kind that :func:`iterreg.optimize_pair` takes.
            onto: a grid, or anything that has one, for the result; None takes the fixed grid.
            fill: intensity outside the image; None takes its minimum.

        Raises:
            IterregError: the image cannot be used, or has another rank.

        Example:
            >>> grid = Grid((1, 3), (2.0, 2.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
            >>> one_voxel_in_x = torch.stack([torch.zeros(1, 3), torch.ones(1, 3)])
            >>> shift = Transform(np.eye(3), DisplacementField(one_voxel_in_x, grid))
            >>> shift.warp(Image(torch.tensor([[[5.0, 6.0, 7.0]]]), grid)).data.tolist()
            [[[6.0, 7.0, 5.0]]]
        """
        # Named, not imported, as below: what it calls stands above this module.
        warped: Image = load("iterreg.applying:warp")(self, image, onto, fill)
        return warped

    def warp_labels(self, labels: LabelsLike, *, onto: GridLike | None = None) -> LabelMap:
        """Warp a label map of the MOVING space onto the fixed grid: the nearest voxel's label.

        Args:
            labels: any kind that :func:`iterreg.optimize_pair` takes; names are kept.
            onto: as in :meth:`warp`.

        Raises:
            IterregError: the labels cannot be used, or have another rank.
        """
        warped: LabelMap = load("iterreg.applying:warp_label_map")(self, labels, onto)
        return warped

    def inverse(
        self,
        moving_grid: Grid,
        fixed_labels: LabelMap | None = None,
        moving_labels: LabelMap | None = None,
    ) -> tuple[Transform, torch.Tensor]:
        """Invert on every voxel of the moving grid: :func:`iterreg.inverse.invert_to_grid`.

        Where regions slide, give both label maps, or use :meth:`iterreg.Registration.inverse`.

        Returns:
            The inverse, moving to fixed, and (*moving shape) int8, the
            :class:`iterreg.inverse.InverseStatus` of each voxel.

        Example:
            >>> grid = Grid((4, 5), (2.0, 2.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
            >>> still, status = Transform(np.eye(3), DisplacementField.zero(grid)).inverse(grid)
            >>> int(status.max())  # 0 is InverseStatus.OK
            0
        """
        invert = load("iterreg.inverse:invert_to_grid")
        inverse, status = invert(self, moving_grid, fixed_labels, moving_labels)
        return inverse, status


def displacement_vox_to_mm(vox: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Convert displacements from voxels of a grid to LPS mm.

    Args:
        vox: (rank, ...), components (z, y, x), voxels.
        grid: the grid that defines the voxels.

    Returns:
        (rank, ...), components (x, y, z), LPS mm.
    """
    linear = vox.new_tensor(grid.index_to_lps[: grid.rank, : grid.rank].tolist())
    return torch.einsum("ij,j...->i...", linear, vox)


def total_displacement_vox(transform: Transform) -> torch.Tensor:
    """Return the total displacement on the fixed grid, A(x + u(x)) - x.

    Returns:
        (rank, *shape) float32, components (z, y, x), voxels of the fixed grid.
    """
    grid = transform.grid
    matrix = fixed_to_moving_index(grid, transform.affine_lps, grid)
    if np.allclose(matrix, np.eye(grid.rank + 1), atol=1e-12):
        return transform.field.vox.clone()
    # A(i + u) - i = (A - 1) i + A u: the numbers stay small, so float32 is exact enough.
    return affine_of_index(matrix - np.eye(grid.rank + 1), matrix, transform.field.vox)


def total_displacement_mm(transform: Transform) -> torch.Tensor:
    """As :func:`total_displacement_vox`, with components (x, y, z) in LPS mm, as in ITK."""
    return displacement_vox_to_mm(total_displacement_vox(transform), transform.grid)


def moving_index(transform: Transform, moving: Grid) -> torch.Tensor:
    """Map each fixed voxel to a voxel index of the moving grid.

    Returns:
        (rank, *fixed shape) float32, components (z, y, x).
    """
    matrix = fixed_to_moving_index(transform.grid, transform.affine_lps, moving)
    return affine_of_index(matrix, matrix, transform.field.vox)


def resample_transform(transform: Transform, reference: Grid) -> Transform:
    """Return the same transform with its field on another grid.

    The affine stays. The residual is interpolated linearly and is zero outside the old grid. If the
    motion jumps at an interface, both sides blend within one voxel of the old grid.

    Args:
        transform: fixed to moving.
        reference: the new fixed grid, of the same rank.

    Raises:
        TransformError: the ranks differ.
    """
    old = transform.grid
    if reference.rank != old.rank:
        raise TransformError(
            f"transform: expected a {old.rank}-D reference grid, got {reference.rank}-D"
        )
    if reference.same_space(old):
        return Transform(transform.affine_lps, DisplacementField(transform.field.vox, reference))
    rank = old.rank
    to_old = old.lps_to_index @ reference.index_to_lps
    turn = (reference.lps_to_index @ old.index_to_lps)[:rank, :rank]
    shift = to_old[:rank, rank].reshape(-1, *[1] * rank)
    vox = transform.field.vox.new_empty(rank, *reference.shape_zyx)
    for start in range(0, reference.shape_zyx[0], ROWS_PER_SLAB):
        rows = slice(start, min(start + ROWS_PER_SLAB, reference.shape_zyx[0]))
        index = np.indices((rows.stop - start, *reference.shape_zyx[1:]), np.float64)
        index[0] += start
        at = torch.from_numpy(apply_linear(to_old, index) + shift).float()
        u = sample(transform.field.vox, at.to(vox.device), outside=0.0)
        vox[:, rows] = torch.einsum("ij,j...->i...", u.new_tensor(turn.tolist()), u)
    return Transform(transform.affine_lps, DisplacementField(vox, reference))


def warp_image(image: Image, transform: Transform, fill: float) -> Image:
    """Warp a moving image onto the fixed grid with linear interpolation.

    Args:
        image: in moving space.
        transform: fixed to moving.
        fill: intensity of fixed voxels that map outside the moving image.

    Returns:
        The image on the fixed grid, with the same stored type and intensity scale.
    """
    data = image.data.new_empty(image.data.shape[0], *transform.grid.shape_zyx)
    for rows, index in _moving_index_slabs(transform, image.grid):
        data[:, rows] = sample(image.data, index.to(data.device), outside=fill)
    return Image(data, transform.grid, image.dtype, image.slope, image.intercept, image.name)


def warp_labels(labels: LabelMap, transform: Transform) -> LabelMap:
    """Warp a label map onto the fixed grid: the nearest voxel's label, 0 outside."""
    data = labels.data.new_empty(transform.grid.shape_zyx)
    for rows, index in _moving_index_slabs(transform, labels.grid):
        data[rows] = sample_nearest(labels.data, index.to(data.device))
    return LabelMap(data, transform.grid, labels.names, labels.name)


def _moving_index_slabs(transform: Transform, moving: Grid) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield slices of the first axis with the moving indices (rank, rows, ...) of their voxels."""
    grid, vox = transform.grid, transform.field.vox
    matrix = fixed_to_moving_index(grid, transform.affine_lps, moving)
    rows_per_slab = max(1, SLAB_VOXELS * grid.shape_zyx[0] // grid.voxel_count)
    for first in range(0, grid.shape_zyx[0], rows_per_slab):
        rows = slice(first, min(first + rows_per_slab, grid.shape_zyx[0]))
        yield rows, affine_of_index(matrix, matrix, vox[:, rows], first)
