"""Central differences of x + d(x) and their determinant, slab by slab."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from iterreg.kernels.simplices import determinant, slab_bounds
from iterreg.neighbourhood import face_pairs

Differences = list[tuple[Tensor, Tensor]]
"""For each axis the forward and the backward difference of x + d(x), each (axes, *slab)."""


def slabs(field: Tensor) -> Iterator[tuple[int, int, Differences]]:
    """Cut a field into slabs along its first axis: (start, stop, differences in the slab).

    A difference that would leave the grid is replaced by the opposite one, which makes the central
    difference one-sided at the border.
    """
    if field.shape[0] == 0:
        yield 0, 1, []
        return
    for start, stop in slab_bounds(field):
        yield start, stop, [_differences(field, axis, start, stop) for axis in range(len(field))]


def _differences(field: Tensor, axis: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Forward and backward differences of x + d(x) along one axis of a slab."""
    dim = axis + 1
    length = field.shape[1]
    first, last = (max(start - 1, 0), min(stop + 1, length)) if axis == 0 else (start, stop)
    behind, ahead = face_pairs(field[:, first:last], dim)
    steps = ahead - behind
    steps[axis] += 1
    parts = [steps]
    if axis > 0 or start == 0:
        parts.insert(0, steps.narrow(dim, 0, 1))
    if axis > 0 or stop == length:
        parts.append(steps.narrow(dim, steps.shape[dim] - 1, 1))
    padded = torch.cat(parts, dim) if len(parts) > 1 else steps
    backward, forward = face_pairs(padded, dim)
    return forward, backward


def central_determinant(field: Tensor, labels: Tensor | None) -> Tensor:
    """Determinant by central differences; with labels, only by differences within a region."""
    result = torch.empty(field.shape[1:], dtype=field.dtype, device=field.device)
    for start, stop, differences in slabs(field):
        if labels is not None:
            differences = [
                _within_region(labels, axis, start, stop, *pair)
                for axis, pair in enumerate(differences)
            ]
        result[start:stop] = determinant([(ahead + behind) / 2 for ahead, behind in differences])
    return result


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
