"""What mapped voxels reach, in plain torch: the definition of the kernel."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SEAM = 0.01
"""A voxel is so much larger on each side, as a share of its length. Where the map bends, the faces
of neighbours would leave a gap of some thousandths."""

LONGEST_STEP_VOX = 2.0
"""A voxel whose region has no neighbour there borrows a step, but not a jump with it."""

LARGEST_HALF_VOX = 32.0
"""Half the extent, in moving voxels, of what one fixed voxel reaches. More is torn, not
stretched."""

LEAST_VOLUME = 1e-6
"""Moving voxels. What is mapped onto less is flat and holds no centre."""

NOWHERE_VOX = 1e6
"""Stands for a place that is not a number. Compiled loops are made for numbers alone."""

CHUNK_VOXELS = 1 << 15
"""Fixed voxels mapped at once, few enough for temporaries to stay in the cache."""

DEVICE_CHUNK_VOXELS = 1 << 20
"""On a GPU, where each operation costs the same few microseconds however small it is."""


def mark_reached(region: Tensor, mapped: Tensor, goal: Tensor, reached: Tensor) -> None:
    """Mark the moving voxels whose centre lies in a mapped fixed voxel of the same region.

    A fixed voxel is a box of eight octants. Each is mapped by the differences to the neighbours of
    the same region on its three sides. A centre is first drawn back by the mean differences, which
    tells its octant, and then by that octant's own.

    Args:
        region: (Z, Y, X) int32, the fixed regions; 0 is none. Along an axis of one voxel the extent
            is unknown, and a voxel reaches the nearest moving one.
        mapped: (3, Z, Y, X), index in the moving grid that each fixed voxel maps to; a voxel next
            to one that is not finite reaches nothing.
        goal: (*moving shape) int32, the moving regions.
        reached: as ``goal``, bool; marked.
    """
    flat = numbers(mapped).reshape(3, -1)
    sources = region.flatten().nonzero().squeeze(1)
    at_once = CHUNK_VOXELS if sources.device.type == "cpu" else DEVICE_CHUNK_VOXELS
    for chunk in torch.split(sources, at_once):
        _mark(region, flat, goal, chunk, reached)


def numbers(mapped: Tensor) -> Tensor:
    """The same places, float32; what is not finite lies far outside."""
    mapped = mapped.float()
    if bool(mapped.sum().isfinite()):
        return mapped
    return torch.nan_to_num(mapped, NOWHERE_VOX, NOWHERE_VOX, -NOWHERE_VOX)


class _Columns(NamedTuple):
    """(3, n) each: how far the map goes per voxel along z, y and x."""

    z: Tensor
    y: Tensor
    x: Tensor


def _mark(region: Tensor, flat: Tensor, goal: Tensor, chunk: Tensor, reached: Tensor) -> None:
    own = region.flatten()[chunk]
    steps = [_steps(region, flat, chunk, own, axis) for axis in range(3)]
    longest = torch.stack([torch.maximum(f.abs(), b.abs()) for f, b in steps])
    half = (0.5 + SEAM) * longest.sum(0)
    size = torch.tensor(goal.shape, device=flat.device).unsqueeze(1)
    centre = flat[:, chunk]
    low = (centre - half).ceil().long().clamp(min=0)
    high = torch.minimum((centre + half).floor().long(), size - 1)
    counts = (high - low + 1).clamp_(min=0)
    counts[:, half.amax(0) > LARGEST_HALF_VOX] = 0
    number = counts.prod(0)
    # One candidate a row: the voxels of the bounding box of each mapped fixed voxel.
    source = torch.repeat_interleave(number)
    rest = torch.arange(len(source), device=flat.device) - (number.cumsum(0) - number)[source]
    _, ny, nx = counts[:, source]
    candidate = low[:, source] + torch.stack((rest // (ny * nx), rest // nx % ny, rest % nx))
    target = (candidate[0] * goal.shape[1] + candidate[1]) * goal.shape[2] + candidate[2]
    same = goal.flatten()[target] == own[source]
    source, target = source[same], target[same]
    apart = candidate[:, same] - centre[:, source]
    mean = _Columns(*[((f + b) / 2)[:, source] for f, b in steps])
    ahead = _drawn_back(mean, apart) > 0
    octant = _Columns(
        *[
            torch.where(ahead[axis], forward[:, source], backward[:, source])
            for axis, (forward, backward) in enumerate(steps)
        ]
    )
    inside = (_drawn_back(octant, apart).abs() <= 0.5 + SEAM).all(0)
    reached.view(-1)[target[inside]] = True


def _drawn_back(columns: _Columns, apart: Tensor) -> Tensor:
    """(3, n), the fixed voxels whose steps add up to a vector; infinite where the map is flat."""
    z, y, x = columns
    across = [torch.linalg.cross(a, b, dim=0) for a, b in ((y, x), (x, z), (z, y))]
    volume = (z * across[0]).sum(0)
    solved = torch.stack([(apart * normal).sum(0) for normal in across]) / volume
    return torch.where(volume.abs() < LEAST_VOLUME, torch.inf, solved)


def _steps(
    region: Tensor, flat: Tensor, chunk: Tensor, own: Tensor, axis: int
) -> tuple[Tensor, Tensor]:
    """The map's forward and backward differences, each (3, n), within the voxel's own region."""
    size = region.shape[axis]
    if size == 1:
        along = torch.zeros(3, len(chunk), device=flat.device)
        along[axis] = 1
        return along, along
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
