"""Grids, axis orders and points.

Array indices run (z, y, x) (rank 3) or (y, x) (rank 2). Physical points run (x, y, z) or (x, y), in
LPS mm. The matrices of a :class:`Grid` convert between the two.

Longer than 300 lines because no other module may reorder axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from iterreg.errors import GeometryError
from iterreg.to_device import on_device

Matrix = NDArray[np.float64]

SPACE_TOLERANCE = 1e-3
"""Two grids are the same space if their corners agree within this share of a voxel. Rounding of
float32 headers, as in label maps that other programs save, stays below it."""

SNAPPED_VOXELS = 0.005
"""A snapped grid moves no voxel by more than this along one of its numbers. The rounding of a
float32 header is far smaller, so two headers that differ by it snap to one grid."""


@dataclass(frozen=True)
class Grid:
    """A regular lattice of voxel centres in physical space.

    Args:
        shape_zyx: voxels along each array axis, slowest first; 2 or 3 numbers.
        spacing_xyz_mm: distance between neighbouring voxel centres, x first.
        origin_lps_mm: centre of the voxel with index 0.
        direction_lps: rows of the direction matrix; column k is the axis of index k (x first).
            These four may be arrays; the grid keeps plain numbers.

    Raises:
        GeometryError: no numbers, the ranks disagree, the spacing is not positive and finite, or
            the direction is not a rotation or reflection.

    Example:
        >>> identity = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((40, 64, 64), (1.5, 1.5, 3.0), (0.0, 0.0, 0.0), identity)
        >>> grid
        Grid(64 x 64 x 40 voxels (x first) of 1.5 x 1.5 x 3 mm, axes LPS)
        >>> (grid.index_to_lps @ [1.0, 0.0, 2.0, 1.0]).tolist()  # index z, y, x and 1
        [3.0, 0.0, 3.0, 1.0]
    """

    shape_zyx: tuple[int, ...]
    spacing_xyz_mm: tuple[float, ...]
    origin_lps_mm: tuple[float, ...]
    direction_lps: tuple[tuple[float, ...], ...] = field(repr=False)

    def __post_init__(self) -> None:
        shape = _whole_numbers(self.shape_zyx, "grid: shape_zyx")
        spacing = as_numbers(self.spacing_xyz_mm, "grid: spacing_xyz_mm")
        origin = as_numbers(self.origin_lps_mm, "grid: origin_lps_mm")
        direction = as_numbers(self.direction_lps, "grid: direction_lps")
        rank = len(shape)
        if rank not in (2, 3):
            raise GeometryError(f"grid: expected 2 or 3 axes, got {rank} ({shape})")
        if not (spacing.shape == origin.shape == (rank,)):
            raise GeometryError(
                f"grid: expected {rank} numbers of spacing and of origin, as the shape has, got "
                f"{spacing.tolist()} and {origin.tolist()}"
            )
        if min(shape) < 1:
            raise GeometryError(f"grid: every axis needs a voxel, got shape {shape}")
        if not np.all(np.isfinite(spacing)) or np.any(spacing <= 0):
            raise GeometryError(f"grid: spacing must be positive, got {tuple(spacing.tolist())} mm")
        if not np.all(np.isfinite(origin)):
            raise GeometryError(f"grid: origin must be finite, got {tuple(origin.tolist())} mm")
        if direction.shape != (rank, rank) or not np.allclose(
            direction @ direction.T, np.eye(rank), atol=1e-3
        ):
            raise GeometryError(
                f"grid: direction must be an orthonormal {rank} x {rank} matrix, "
                f"got {np.round(direction, 4).tolist()}"
            )
        object.__setattr__(self, "shape_zyx", shape)
        object.__setattr__(self, "spacing_xyz_mm", tuple(spacing.tolist()))
        object.__setattr__(self, "origin_lps_mm", tuple(origin.tolist()))
        object.__setattr__(self, "direction_lps", tuple(map(tuple, direction.tolist())))

    def __repr__(self) -> str:
        size = " x ".join(str(n) for n in reversed(self.shape_zyx))
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing_xyz_mm)
        return f"Grid({size} voxels (x first) of {spacing} mm, axes {self.orientation})"

    @classmethod
    def from_affine_ras(cls, shape_zyx: Sequence[int], affine_ras: ArrayLike) -> Grid:
        """Make the grid that nibabel's matrix describes: the way back from ``ijk_to_ras``.

        Args:
            shape_zyx: voxels along z, y and x; nibabel's shape reversed.
            affine_ras: (4, 4), or (3, 3) for a picture: from an index (i, j, k), x first, to a
                point in RAS mm.

        Raises:
            GeometryError: another shape, numbers that are not finite, an axis of length 0, or axes
                that are not perpendicular.

        Example:
            >>> Grid.from_affine_ras((2, 3, 4), np.diag([-1.0, -1.0, 3.0, 1.0]))
            Grid(4 x 3 x 2 voxels (x first) of 1 x 1 x 3 mm, axes LPS)
        """
        rank = len(shape_zyx)
        matrix = as_affine(affine_ras, rank, "affine")
        lps = np.diag([*(-1.0, -1.0, 1.0)[:rank], 1.0]) @ matrix
        spacing = np.linalg.norm(lps[:rank, :rank], axis=0)
        if not bool((spacing > 0).all()):
            raise GeometryError(f"affine: expected axes with a length, got {matrix.tolist()}")
        direction = lps[:rank, :rank] / spacing
        if not np.allclose(direction.T @ direction, np.eye(rank), atol=1e-3):
            raise GeometryError(
                f"affine: expected perpendicular axes, got a sheared matrix "
                f"{np.round(matrix, 4).tolist()}"
            )
        return cls(
            tuple(int(n) for n in shape_zyx),
            tuple(spacing.tolist()),
            tuple(lps[:rank, rank].tolist()),
            tuple(tuple(row) for row in direction.tolist()),
        )

    @property
    def rank(self) -> int:
        """Number of axes: 2 for a picture, 3 for a volume."""
        return len(self.shape_zyx)

    @property
    def spacing_zyx_mm(self) -> tuple[float, ...]:
        """Spacing in array order."""
        return tuple(reversed(self.spacing_xyz_mm))

    @property
    def voxel_count(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape_zyx))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of a voxel (mm^2 for a picture)."""
        return float(np.prod(self.spacing_xyz_mm))

    @property
    def orientation(self) -> str:
        """Direction of each index axis as a letter, x first: LPS for an axial CT."""
        letters = ("RL", "AP", "IS")
        direction = np.asarray(self.direction_lps)
        word = ""
        for axis in range(self.rank):
            row = int(np.argmax(np.abs(direction[:, axis])))
            word += letters[row][int(direction[row, axis] > 0)]
        return word

    @cached_property
    def index_to_lps(self) -> Matrix:
        """Homogeneous matrix from an index (z, y, x, 1) to a point (x, y, z, 1) in LPS mm."""
        rank = self.rank
        matrix = np.eye(rank + 1)
        scaled = np.asarray(self.direction_lps) * np.asarray(self.spacing_xyz_mm)[None, :]
        matrix[:rank, :rank] = scaled[:, ::-1]
        matrix[:rank, rank] = self.origin_lps_mm
        return matrix

    @cached_property
    def lps_to_index(self) -> Matrix:
        """Homogeneous matrix from a point (x, y, z, 1) in LPS mm to an index (z, y, x, 1)."""
        return np.asarray(np.linalg.inv(self.index_to_lps), np.float64)

    @cached_property
    def ijk_to_ras(self) -> Matrix:
        """nibabel's homogeneous matrix, from an index with x first to a point in RAS mm."""
        rank = self.rank
        flip = np.diag([*(-1.0, -1.0, 1.0)[:rank], 1.0])
        matrix: Matrix = flip @ self.index_to_lps[:, [*reversed(range(rank)), rank]]
        return matrix

    @cached_property
    def corners_lps_mm(self) -> Matrix:
        """Centres of the corner voxels, (2 ** rank, rank)."""
        last = np.asarray(self.shape_zyx) - 1
        index = np.stack(np.meshgrid(*[(0, n) for n in last], indexing="ij"), -1)
        return apply_affine(self.index_to_lps, index.reshape(-1, self.rank))

    @property
    def centre_lps_mm(self) -> Matrix:
        """Centre of the grid."""
        return np.asarray(self.corners_lps_mm.mean(0), np.float64)

    def same_space(self, other: Grid) -> bool:
        """Whether both grids have the same voxel centres, up to rounding."""
        if self.shape_zyx != other.shape_zyx:
            return False
        index = apply_affine(self.lps_to_index, other.corners_lps_mm)
        mine = apply_affine(self.lps_to_index, self.corners_lps_mm)
        allowed = SPACE_TOLERANCE * max(1.0, float(max(self.shape_zyx)) / 10)
        return bool(np.abs(index - mine).max() <= allowed)

    def pooled(self, factor_zyx: Sequence[float]) -> Grid:
        """Return the grid whose voxels are blocks of ``factor_zyx`` voxels, rounded up."""
        blocks = zip(self.shape_zyx, factor_zyx, strict=True)
        shape = tuple(block_count(n, f) for n, f in blocks)
        first = apply_affine(self.index_to_lps, (np.asarray(factor_zyx) - 1) / 2)
        spacing = tuple(
            s * f for s, f in zip(self.spacing_xyz_mm, reversed(factor_zyx), strict=True)
        )
        return Grid(shape, spacing, tuple(first.tolist()), self.direction_lps)

    def snapped(self) -> Grid:
        """Return this grid with its numbers on a mesh of binary fractions.

        A registration takes many yes-or-no decisions, and a header that differs in the seventh
        digit, as two readers of one file give it, can turn one of them. On the mesh both are the
        same grid. The centre is snapped, not a corner: so a flipped copy of an image keeps its
        place.

        Example:
            >>> axes = ((1.0, 0.0), (0.0, 1.0))
            >>> a = Grid((40, 50), (0.7, 0.7), (0.0, 0.0), axes).snapped()
            >>> b = Grid((40, 50), (0.70000002, 0.69999998), (1e-7, 0.0), axes).snapped()
            >>> a == b
            True
        """
        voxel, longest = min(self.spacing_xyz_mm), max(self.shape_zyx)
        extent = longest * max(self.spacing_xyz_mm)
        spacing = np.array(
            [
                _on_mesh(s, 2 * SNAPPED_VOXELS * s / n)
                for s, n in zip(self.spacing_xyz_mm, reversed(self.shape_zyx), strict=True)
            ]
        )
        direction = _on_mesh(self.direction_lps, 2 * SNAPPED_VOXELS * voxel / extent)
        centre = _on_mesh(self.centre_lps_mm, 2 * SNAPPED_VOXELS * voxel)
        half = (np.array(self.shape_zyx[::-1]) - 1) / 2
        origin = centre - direction @ (spacing * half)
        return Grid(self.shape_zyx, tuple(spacing), tuple(origin), tuple(map(tuple, direction)))


def _on_mesh(values: ArrayLike, most_step: float) -> NDArray[np.float64]:
    """Numbers rounded to multiples of the largest power of two that is at most ``most_step``."""
    step = 2.0 ** math.floor(math.log2(most_step))
    return np.asarray(np.round(np.asarray(values, np.float64) / step) * step)


TOUCHING = 1e-6
"""Voxels. A block that overlaps the image by less than this only touches it."""


def _whole_numbers(given: Any, name: str) -> tuple[int, ...]:
    """Numbers of any kind of array as Python's, which compare and print well."""
    try:
        return tuple(index(n) for n in given)
    except TypeError as error:
        raise GeometryError(f"{name}: expected whole numbers, got {given!r:.80}") from error


def as_numbers(given: Any, name: str) -> NDArray[np.float64]:
    """Numbers of any kind of array or list as an array.

    Raises:
        GeometryError: they are none.
    """
    try:
        return np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise GeometryError(f"{name}: expected numbers, got {given!r:.80}") from error


def thinnest_mm(spacing_mm: Sequence[float], shape: Sequence[int]) -> float:
    """The least spacing over the axes that are longer than one voxel; of all axes if none is.

    Args:
        spacing_mm, shape: in the same order of axes.

    Example:
        >>> thinnest_mm((0.5, 2.0, 3.0), (1, 40, 50))
        2.0
    """
    longer = [s for s, n in zip(spacing_mm, shape, strict=True) if n > 1]
    return min(longer or spacing_mm)


def as_affine(given: Any, rank: int, name: str) -> Matrix:
    """A homogeneous matrix of any kind of array or list as an array.

    Raises:
        GeometryError: it is not finite, or of another rank.
    """
    matrix = as_numbers(given, name)
    if matrix.shape != (rank + 1, rank + 1) or not np.isfinite(matrix).all():
        raise GeometryError(
            f"{name}: expected a finite matrix of shape ({rank + 1}, {rank + 1}), got "
            f"{np.round(matrix, 4).tolist()}"
        )
    return matrix


def block_count(length: float, factor: float) -> int:
    """Return how many blocks of ``factor`` voxels cover ``length`` voxels."""
    return math.ceil(length / factor - TOUCHING)


@dataclass(frozen=True)
class AxisOrder:
    """The permutation and flips that turn a stored array into a canonical one.

    ``axes[k]`` is the stored axis that becomes canonical axis k. It is reversed if ``flipped[k]``.
    """

    axes: tuple[int, ...]
    flipped: tuple[bool, ...]

    def apply(self, array: torch.Tensor) -> torch.Tensor:
        """Reorder the last ``rank`` axes of a tensor of scalars; the same one if it is in order."""
        lead = array.ndim - len(self.axes)
        array = array.permute(*range(lead), *[lead + a for a in self.axes])
        return self._turned(array).contiguous()

    def undo(self, array: torch.Tensor) -> torch.Tensor:
        """Invert :meth:`apply`."""
        lead = array.ndim - len(self.axes)
        return (
            self._turned(array).permute(*range(lead), *[lead + a for a in self._back]).contiguous()
        )

    @property
    def _back(self) -> list[int]:
        """The canonical axis that becomes each stored one."""
        return [self.axes.index(k) for k in range(len(self.axes))]

    def _turned(self, array: torch.Tensor) -> torch.Tensor:
        """Reverse axes; flipping none would copy the array."""
        lead = array.ndim - len(self.axes)
        reverse = [lead + k for k, f in enumerate(self.flipped) if f]
        return array.flip(reverse) if reverse else array

    def _signed(self, vox: torch.Tensor) -> torch.Tensor:
        """Reverse the components along reversed axes."""
        if not any(self.flipped):
            return vox
        signs = on_device([-1.0 if f else 1.0 for f in self.flipped], vox.device, vox.dtype)
        return vox * signs.view(-1, *[1] * len(self.axes))

    def undo_vectors(self, vox: torch.Tensor) -> torch.Tensor:
        """Invert :meth:`apply_vectors`."""
        return _components(self.undo(self._signed(vox)), self._back)

    def apply_vectors(self, vox: torch.Tensor) -> torch.Tensor:
        """Reorder a vector field, (rank, *shape), with its components in axis order."""
        return self._signed(_components(self.apply(vox), self.axes))


def _components(vox: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """The components of a field in another order."""
    return vox if list(order) == sorted(order) else vox[list(order)]


def canonical(grid: Grid) -> tuple[Grid, AxisOrder]:
    """Return the same lattice with array axes closest to (S, P, L), and the axis order.

    An image and its flipped copy become the same array, so both give the same physical result.

    Args:
        grid: any grid.

    Returns:
        The reordered grid, and the axis order that turns arrays of ``grid`` into arrays of it.
    """
    rank = grid.rank
    direction = np.asarray(grid.direction_lps)
    weight = np.abs(direction)
    column_of_row = [-1] * rank
    for _ in range(rank):
        row, column = np.unravel_index(int(np.argmax(weight)), weight.shape)
        column_of_row[int(row)] = int(column)
        weight[row, :] = -1
        weight[:, column] = -1
    axes = tuple(rank - 1 - column_of_row[rank - 1 - k] for k in range(rank))
    flipped = tuple(
        bool(direction[rank - 1 - k, column_of_row[rank - 1 - k]] < 0) for k in range(rank)
    )
    turned = zip(axes, flipped, strict=True)
    first = np.array([grid.shape_zyx[a] - 1 if flip else 0 for a, flip in turned])
    stored_first = np.empty(rank)
    stored_first[list(axes)] = first
    origin = apply_affine(grid.index_to_lps, stored_first)
    signs = np.array([-1.0 if f else 1.0 for f in reversed(flipped)])
    columns = direction[:, column_of_row] * signs[None, :]
    reordered = Grid(
        shape_zyx=tuple(grid.shape_zyx[a] for a in axes),
        spacing_xyz_mm=tuple(grid.spacing_xyz_mm[c] for c in column_of_row),
        origin_lps_mm=tuple(origin.tolist()),
        direction_lps=tuple(tuple(row) for row in columns.tolist()),
    )
    return reordered, AxisOrder(axes, flipped)


def apply_affine(matrix: Matrix, points: NDArray[np.floating]) -> Matrix:
    """Apply a homogeneous matrix to points.

    Args:
        matrix: (rank + 1, rank + 1).
        points: (..., rank), components in the matrix's input order.

    Returns:
        (..., rank), components in the matrix's output order.
    """
    rank = matrix.shape[0] - 1
    result: Matrix = np.asarray(points, np.float64) @ matrix[:rank, :rank].T + matrix[:rank, rank]
    return result


def apply_linear(matrix: Matrix, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the linear part of a homogeneous matrix to vectors (rank, *shape)."""
    rank = matrix.shape[0] - 1
    linear = matrix[:rank, :rank] @ vectors.reshape(rank, -1)
    return np.asarray(linear.reshape(vectors.shape), np.float64)


def fixed_to_moving_index(fixed: Grid, affine_lps: Matrix, moving: Grid) -> Matrix:
    """Return the matrix from a fixed index (z, y, x, 1) to a moving index, through an affine."""
    matrix: Matrix = moving.lps_to_index @ affine_lps @ fixed.index_to_lps
    return matrix


@dataclass(frozen=True, eq=False)
class Points:
    """Points in physical space.

    Args:
        lps: (n, rank) float64, components (x, y, z), LPS mm.
        name: what messages call them, such as their file.

    Example:
        >>> Points(np.array([[10.0, 20.0, 30.0]]))
        Points(1 points, 3-D, LPS mm)
    """

    lps: Matrix
    name: str = ""

    def __post_init__(self) -> None:
        lps = as_numbers(self.lps, self.name or "points")
        if lps.ndim != 2 or lps.shape[1] not in (2, 3):
            raise GeometryError(
                f"{self.name or 'points'}: expected shape (n, 2) or (n, 3), got {lps.shape}"
            )
        if not np.all(np.isfinite(lps)):
            raise GeometryError(f"{self.name or 'points'}: every coordinate must be finite")
        object.__setattr__(self, "lps", lps)

    @classmethod
    def from_ras(cls, ras: ArrayLike, name: str = "") -> Points:
        """Make points of RAS mm, as nibabel and 3D Slicer's numbers are.

        Args:
            ras: (n, rank), components (x, y, z), RAS mm.
            name: what messages call them.

        Example:
            >>> Points.from_ras([[10.0, 20.0, 30.0]]).lps.tolist()
            [[-10.0, -20.0, 30.0]]
        """
        points = cls(as_numbers(ras, name or "points"), name)
        return cls(points.ras, name)

    @property
    def ras(self) -> Matrix:
        """(n, rank), components (x, y, z), RAS mm."""
        return np.asarray(self.lps * np.array([-1.0, -1.0, 1.0])[: self.lps.shape[1]], np.float64)

    def __len__(self) -> int:
        return len(self.lps)

    def __repr__(self) -> str:
        return f"Points({len(self)} points, {self.lps.shape[1]}-D, LPS mm)"
