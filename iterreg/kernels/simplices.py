"""The simplices of a map x + d(x), and their determinants, slab by slab.

Everything is computed on slabs of the field, small enough for the temporaries to stay in the cache.

The *simplices* of a voxel are the tetrahedra that decide whether the map folds there, ten in 3-D:

- eight corners: the voxel and one face neighbour along each axis, behind or ahead;
- two inner tetrahedra: the voxel v with v + (0, 1, 1), v + (1, 0, 1), v + (1, 1, 0), and with
  v - (0, 1, 1), v - (1, 0, 1), v - (1, 1, 0).

A cell of eight voxels can be cut into five tetrahedra, four corners and an inner one, in two ways;
the two cuts use all ten, each once. In 2-D the two cuts of a cell into two triangles use the four
corners, and in 1-D there are two intervals. Beyond the image the displacement goes on with its
value at the border, so that every voxel has all its simplices. Those that leave the image are for
the repair, which looks at more than it must; what is counted is what lies inside
(:func:`simplices_inside`): in a map that turns by 90 degrees or more, all others are turned over.

Source:
    Liu et al., On finite difference Jacobian computation in deformable image registration,
    International Journal of Computer Vision, 2024.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from iterreg.errors import GeometryError

SLAB_VOXELS = 1 << 15
"""Voxels processed at once. Temporaries of this size stay in the cache, and torch does not split
operations on them among threads, which would wait for each other on a busy machine."""

INNER_DETERMINANT = 2
"""Of an inner tetrahedron in a map that moves nothing; a corner's is 1."""

DEVICE_SLAB_VOXELS = 1 << 22
"""On a GPU, where each operation costs the same few microseconds however small it is."""


def require_field(total_vox: Tensor) -> None:
    """Refuse a displacement of another rank than its components say."""
    if total_vox.ndim != total_vox.shape[0] + 1:
        raise GeometryError(
            f"total_vox: expected shape (rank, *shape), got {tuple(total_vox.shape)}"
        )


def moving_axes(total_vox: Tensor) -> Tensor:
    """Drop the axes of length 1 of a displacement, and the components along them."""
    require_field(total_vox)
    rank = total_vox.shape[0]
    axes = [k for k in range(rank) if total_vox.shape[1 + k] > 1]
    if len(axes) == rank:
        return total_vox
    if not axes:
        return total_vox.new_empty((0, 1))
    return total_vox[axes].reshape(len(axes), *[total_vox.shape[1 + k] for k in axes])


def slab_bounds(field: Tensor) -> Iterator[tuple[int, int]]:
    """The first voxel of each slab along the first axis of a field, and one past its last."""
    length = field.shape[1]
    at_once = SLAB_VOXELS if field.device.type == "cpu" else DEVICE_SLAB_VOXELS
    step = max(1, at_once * length // max(1, field[0].numel()))
    for start in range(0, length, step):
        yield start, min(start + step, length)


def simplex_slabs(field: Tensor) -> Iterator[tuple[int, int, list[Tensor]]]:
    """Cut a field into slabs along its first axis: (start, stop, determinants of the simplices).

    Determinants are those of the edges from the voxel, each (*slab): eight corners, forward first,
    the last axis fastest, and then the inner tetrahedra, whose determinant is 2 in a map that moves
    nothing.
    """
    rank = len(field)
    if rank == 0:
        yield 0, 1, []
        return
    length = field.shape[1]
    for start, stop in slab_bounds(field):
        first, last = max(start - 1, 0), min(stop + 1, length)
        beyond = [1, 1] * (rank - 1) + [int(first == start), int(last == stop)]
        block = pad(field[None, :, first:last], beyond, mode="replicate")[0]
        found = list(_corners(block))
        yield start, stop, found + (list(_inner_tetrahedra(block)) if rank == 3 else [])


def simplices_at(field: Tensor, at: Tensor) -> list[Tensor]:
    """The determinants of the simplices of some voxels, in the order of :func:`simplex_slabs`.

    Args:
        field: (rank, *shape), displacement in voxels.
        at: (n,) int64, flat indices of the voxels.

    Returns:
        As many as a voxel has simplices, each (n,).
    """
    rank, shape = len(field), field.shape[1:]
    places = at
    near: list[list[Tensor]] = []
    for size in reversed(shape):
        own = places % size
        near.insert(0, [(own + step).clamp(0, size - 1) for step in (-1, 0, 1)])
        places = torch.div(places, size, rounding_mode="floor")
    # Each voxel's surroundings are a block of three voxels a side; beyond the image its border
    # goes on.
    flat = field.reshape(rank, -1)
    cells = [flat[:, _flat_index(cell, shape)] for cell in itertools.product(*near)]
    block = torch.stack(cells, 1).view(rank, *[3] * rank, len(at))
    found = [*_corners(block), *(_inner_tetrahedra(block) if rank == 3 else [])]
    return [det.view(-1) for det in found]


def simplices_inside(shape: Sequence[int], at: Tensor) -> list[Tensor]:
    """Which simplices of some voxels lie in the grid with all their vertices.

    Args:
        shape: of the grid.
        at: (n,) int64, flat indices of the voxels.

    Returns:
        In the order of :func:`simplices_at`, each (n,) bool.
    """
    places = at
    sides: list[tuple[Tensor, Tensor]] = []
    for size in reversed(shape):
        own = places % size
        sides.insert(0, (own < size - 1, own > 0))
        places = torch.div(places, size, rounding_mode="floor")
    # An inner tetrahedron reaches one way along all axes.
    reached = [*itertools.product(*sides), *(zip(*sides, strict=True) if len(sides) == 3 else [])]
    return [torch.stack(along).all(0) for along in reached]


def _flat_index(index: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    flat = torch.zeros_like(index[0])
    for along, size in zip(index, shape, strict=True):
        flat = flat * size + along
    return flat


def not_positive(determinants: list[Tensor], field: Tensor) -> Tensor:
    """(*slab) bool, where one of some determinants is <= 0 or NaN."""
    if not determinants:
        return torch.zeros(field.shape[1:], dtype=torch.bool, device=field.device)
    lowest = determinants[0]
    for det in determinants[1:]:
        lowest = torch.minimum(lowest, det)
    return ~(lowest > 0)


def _corners(block: Tensor) -> Iterator[Tensor]:
    """Determinants of the corners of a block's inner voxels."""
    axes = range(len(block))
    differences = [_edges(block, [int(k == axis) for k in axes]) for axis in axes]
    if len(differences) != 3:
        for columns in itertools.product(*differences):
            yield determinant(columns)
        return
    # The cross product of two columns serves both differences along the first axis.
    crosses = [_cross(second, third) for second, third in itertools.product(*differences[1:])]
    for first in differences[0]:
        for cross in crosses:
            yield _dot(first, cross)


def _inner_tetrahedra(block: Tensor) -> Iterator[Tensor]:
    """Determinants of the two inner tetrahedra of a block's inner voxels."""
    edges = [_edges(block, [int(k != axis) for k in range(3)]) for axis in range(3)]
    for columns in zip(*edges, strict=True):
        yield determinant(columns)


def _edges(block: Tensor, offset: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Edges of x + d(x) from a block's inner voxels ahead by an offset of 0 and 1, and behind."""
    behind = ahead = block
    for axis, step in enumerate(offset, 1):
        inner = block.shape[axis] - 2
        behind = behind.narrow(axis, 1 - step, inner + step)
        ahead = ahead.narrow(axis, 1, inner + step)
    edges = ahead - behind
    forward = backward = edges
    for axis, step in enumerate(offset, 1):
        if step:
            edges[axis - 1] += 1
        inner = block.shape[axis] - 2
        forward = forward.narrow(axis, step, inner)
        backward = backward.narrow(axis, 0, inner)
    return forward, backward


def determinant(columns: Sequence[Tensor]) -> Tensor:
    """Determinant of up to three columns, each (m, *shape) for m columns."""
    if not columns:
        return torch.ones(())
    if len(columns) == 1:
        return columns[0][0]
    if len(columns) == 2:
        return (columns[0][0] * columns[1][1]).addcmul_(columns[0][1], columns[1][0], value=-1)
    return _dot(columns[0], _cross(columns[1], columns[2]))


def _cross(a: Tensor, b: Tensor) -> list[Tensor]:
    return [
        (a[1] * b[2]).addcmul_(a[2], b[1], value=-1),
        (a[2] * b[0]).addcmul_(a[0], b[2], value=-1),
        (a[0] * b[1]).addcmul_(a[1], b[0], value=-1),
    ]


def _dot(a: Tensor, b: Sequence[Tensor]) -> Tensor:
    return (a[0] * b[0]).addcmul_(a[1], b[1]).addcmul_(a[2], b[2])
