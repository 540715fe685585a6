"""Central differences of x + d(x) and their determinant, slab by slab."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from iterreg.kernels.simplices import determinant, slab_bounds
from iterreg.neighbourhood import face_pairs

Differences = list[tuple[Tensor, Tensor]]
"""For each axis the forward and the backward difference of x + d(x), each (axes, *slab)."""


def slabs(field: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, int, Differences]]:
    """Cut a field into slabs along its first axis: (start, stop, differences in the slab).

    A difference that would leave the grid is replaced by the opposite one, which makes the central
    difference one-sided at the border. Differences are of the given type.
    """
    if field.shape[0] == 0:
        yield 0, 1, []
        return
    length = field.shape[1]
    for start, stop in slab_bounds(field):
        first, last = max(start - 1, 0), min(stop + 1, length)
        wide = field[:, first:last].to(dtype)
        own = wide[:, start - first : stop - first]
        ends = start == 0, stop == length
        differences = [_differences(wide, 0, ends)]
        differences += [_differences(own, axis, (True, True)) for axis in range(1, len(field))]
        yield start, stop, differences


def _differences(part: Tensor, axis: int, ends: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    """Forward and backward differences of x + d(x) along one axis; ``ends``: which are borders."""
    dim = axis + 1
    behind, ahead = face_pairs(part, dim)
    steps = ahead - behind
    steps[axis] += 1
    parts = [steps]
    if ends[0]:
        parts.insert(0, steps.narrow(dim, 0, 1))
    if ends[1]:
        parts.append(steps.narrow(dim, steps.shape[dim] - 1, 1))
    padded = torch.cat(parts, dim) if len(parts) > 1 else steps
    backward, forward = face_pairs(padded, dim)
    return forward, backward


def central_determinants(
    field: Tensor, partitions: Sequence[Tensor | None], dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Determinants by central differences, one array for each partition.

    Args:
        field: (axes, *shape), displacement in voxels.
        partitions: (*shape) labels: only differences within a region count; None: all do.
        dtype: to compute in; None takes the field's.

    Returns:
        (*shape) each.
    """
    dtype = dtype or field.dtype
    results = [torch.empty(field.shape[1:], dtype=dtype, device=field.device) for _ in partitions]
    for start, stop, whole in slabs(field, dtype):
        for labels, result in zip(partitions, results, strict=True):
            differences = whole
            if labels is not None:
                differences = [
                    _within_region(labels, axis, start, stop, *pair)
                    for axis, pair in enumerate(whole)
                ]
            columns = [(ahead + behind) / 2 for ahead, behind in differences]
            result[start:stop] = determinant(columns)
    return results


def _within_region(
    labels: Tensor, axis: int, start: int, stop: int, forward: Tensor, backward: Tensor
) -> tuple[Tensor, Tensor]:
    """Replace a difference that crosses a region's surface by the opposite one, if that does not.

    Both are kept if both cross it.
    """
    length = labels.shape[0]
    first, last = (max(start - 1, 0), min(stop + 1, length)) if axis == 0 else (start, stop)
    one, other = face_pairs(labels[first:last], axis)
    same = one == other
    edge = torch.zeros_like(same.narrow(axis, 0, 1))
    low = [edge] if axis > 0 or start == 0 else []
    high = [edge] if axis > 0 or stop == length else []
    behind, ahead = face_pairs(torch.cat([*low, same, *high], axis), axis)
    return (
        torch.where(ahead | ~behind, forward, backward),
        torch.where(behind | ~ahead, backward, forward),
    )
