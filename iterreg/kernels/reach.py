"""What the mapped parts of voxels reach, in plain torch: the definition of the kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SEAM_VOX = 1e-3
"""Overlap of neighbouring parts, in moving voxels, so that rounding opens no seam between them."""

LONGEST_STEP_VOX = 2.0
"""A voxel whose region has no neighbour there borrows a step, but not a jump with it."""

NOWHERE_VOX, LONGEST_REACH_VOX = 1e6, 1e5
"""Stands for a place that is not a number, and what no step to such a place falls below. Compiled
loops are made for numbers alone."""

CHUNK_VOXELS = 1 << 15
"""Fixed voxels mapped at once, few enough for temporaries to stay in the cache."""

DEVICE_CHUNK_VOXELS = 1 << 20
"""On a GPU, where each operation costs the same few microseconds however small it is."""


def mark_reached(
    region: Tensor, mapped: Tensor, goal: Tensor, sources: Tensor, parts: int, reached: Tensor
) -> None:
    """Mark the moving voxels of the same region that lie in a mapped part of a fixed voxel.

    A voxel is cut into parts along each axis, and each part is mapped by the differences to the
    voxel's neighbours of the same region. A part reaches the moving voxel that is nearest to it if
    its bounding box holds that voxel's centre.

    Args:
        region: (Z, Y, X) int64, the fixed regions.
        mapped: (3, Z, Y, X), index in the moving grid that each fixed voxel maps to; a voxel next
            to one that is not finite reaches nothing.
        goal: (moving shape + 2) int64, the moving regions with a border of one voxel.
        sources: (N,) int64, flat indices of the fixed voxels to map.
        parts: along each axis of more than one voxel; along the others a voxel's extent is
            unknown, and it reaches the nearest moving voxel.
        reached: as ``goal``, bool; marked.
    """
    flat = numbers(mapped).reshape(3, -1)
    at_once = CHUNK_VOXELS if sources.device.type == "cpu" else DEVICE_CHUNK_VOXELS
    for chunk in torch.split(sources, at_once):
        _mark(region, flat, goal, chunk, parts, reached)


def numbers(mapped: Tensor) -> Tensor:
    """The same places, float32; what is not finite lies far outside."""
    return torch.nan_to_num(mapped.float(), NOWHERE_VOX, NOWHERE_VOX, -NOWHERE_VOX)


def padded_index(goal: Tensor, position: Tensor) -> Tensor:
    """Flat index, in an array with a border of one voxel, of positions in the array without it.

    Args:
        goal: the array with its border.
        position: (3, N), in voxels of the array without it.

    Returns:
        (N,) int64.
    """
    index = torch.zeros(position.shape[1], dtype=torch.int64, device=position.device)
    for axis, size in enumerate(goal.shape):
        nearest = position[axis].round().clamp_(-1, size - 2)
        index.mul_(size).add_(nearest.to(torch.int64) + 1)
    return index


def _mark(
    region: Tensor, flat: Tensor, goal: Tensor, chunk: Tensor, parts: int, reached: Tensor
) -> None:
    own = region.flatten()[chunk]
    steps = [_steps(region, flat, chunk, own, axis) for axis in range(3)]
    offsets = [(2 * k + 1 - parts) / (2 * parts) for k in range(parts)]
    positions = [flat[:, chunk]]
    for axis, (forward, backward) in enumerate(steps):
        used = offsets if region.shape[axis] > 1 else [0.0]
        shifts = [(forward if o > 0 else backward) * o for o in used]
        positions = [position + shift for position in positions for shift in shifts]
    least = [[0.5 if n == 1 else SEAM_VOX] for n in region.shape]
    reach = torch.tensor(least, dtype=flat.dtype, device=flat.device)
    for forward, backward in steps:
        reach = reach + torch.maximum(forward.abs(), backward.abs()) / (2 * parts)
    within = torch.where(reach.amax(0) > LONGEST_REACH_VOX, -1, reach)
    goal_flat, reached_flat = goal.view(-1), reached.view(-1)
    for position in positions:
        target = padded_index(goal, position)
        hit = (goal_flat[target] == own) & ((position - position.round()).abs() <= within).all(0)
        reached_flat[target[hit]] = True


def _steps(
    region: Tensor, flat: Tensor, chunk: Tensor, own: Tensor, axis: int
) -> tuple[Tensor, Tensor]:
    """The map's forward and backward differences, each (3, n), within the voxel's own region."""
    size = region.shape[axis]
    stride = math.prod(region.shape[axis + 1 :])
    index = chunk.div(stride, rounding_mode="floor").remainder(size)
    region_flat = region.flatten()
    here = flat[:, chunk]
    ahead = torch.where(index < size - 1, chunk + stride, chunk)
    behind = torch.where(index > 0, chunk - stride, chunk)
    has_ahead = (ahead != chunk) & (region_flat[ahead] == own)
    has_behind = (behind != chunk) & (region_flat[behind] == own)
    forward, backward = flat[:, ahead] - here, here - flat[:, behind]
    lone, most = ~has_ahead & ~has_behind, LONGEST_STEP_VOX
    forward, backward = (torch.where(lone, s.clamp(-most, most), s) for s in (forward, backward))
    use_ahead = has_ahead | (lone & (ahead != chunk))
    use_behind = has_behind | (lone & (behind != chunk))
    return (torch.where(use_ahead, forward, backward), torch.where(use_behind, backward, forward))
