"""Coverage: how much of each moving region the mapped fixed region reaches.

A fixed voxel is a small box. It is cut into parts, and each part is mapped by the differences to
the voxel's neighbours of the same label, so nothing is drawn across an interface. A moving voxel is
reached if its centre lies in the bounding box of a mapped part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from iterreg.labels import compact_labels, label_counts
from iterreg.metrics._shared import ratio, require_shape
from iterreg.neighbourhood import dilate

PARTS_PER_AXIS = (2, 4)
"""Parts of a fixed voxel along each axis: first for all voxels, then for those that map next to
moving voxels not reached so far."""

SEAM_VOX = 1e-3
"""Overlap of neighbouring parts, in moving voxels, so that rounding opens no seam between them."""

CHUNK_VOXELS = 1 << 15
"""Fixed voxels mapped at once, few enough for temporaries to stay in the cache."""


def coverage(
    moving_labels: Tensor,
    fixed_labels: Tensor,
    mapped_index: Tensor,
    values: Iterable[int] | None = None,
) -> dict[int, float]:
    """Compute the share of each moving region that the fixed region of the same label reaches.

    Dice of warped labels forgives a region that collapses onto a corner of its partner; coverage
    does not. No holes are left where the map stretches by less than 2 in every direction (in voxels
    of the two grids); a region that is stretched more scores too low. Where the map turns, the
    bounding boxes enlarge the region by up to a fifth of a voxel.

    Args:
        moving_labels: (*moving shape) integer labels.
        fixed_labels: (*shape) integer labels.
        mapped_index: (rank, *shape), index in the moving grid that each fixed voxel maps to.
        values: the labels to score; None takes those of the moving image, without background.

    Returns:
        0 to 1 for each label; NaN if it is empty in the moving image.

    Raises:
        GeometryError: the shapes disagree.

    Example:
        >>> labels = torch.ones(1, 4, dtype=torch.int32)
        >>> index = torch.stack([torch.zeros(1, 4), torch.arange(4.0).view(1, 4)])
        >>> coverage(labels, labels, index), coverage(labels, labels, index + 1)
        ({1: 1.0}, {1: 0.0})
        >>> coverage(labels, labels, index + torch.tensor([0.0, 1.0]).view(2, 1, 1))
        {1: 0.75}
    """
    require_shape("coverage", "mapped_index", mapped_index[0], fixed_labels.shape)
    found = [v for v in label_counts(moving_labels) if v != 0]
    wanted = sorted(set(found if values is None else values))
    # A border of background stands for everything outside the moving image.
    goal = torch.nn.functional.pad(
        compact_labels(moving_labels, wanted), (1, 1) * moving_labels.ndim
    )
    region = compact_labels(fixed_labels, wanted)
    reached = torch.zeros_like(goal, dtype=torch.bool)
    sources = region.flatten().nonzero().squeeze(1)
    for attempt, parts in enumerate(PARTS_PER_AXIS):
        if attempt > 0:
            sources = _near_unreached(goal, reached, mapped_index, sources)
        for chunk in torch.split(sources, CHUNK_VOXELS):
            _mark_reached(goal, reached, region, mapped_index, chunk, parts)
    size = torch.bincount(goal.flatten(), minlength=len(wanted) + 1).tolist()
    hit = torch.bincount(goal[reached], minlength=len(wanted) + 1).tolist()
    return {value: ratio(hit[k], size[k]) for k, value in enumerate(wanted, start=1)}


def _mark_reached(
    goal: Tensor, reached: Tensor, region: Tensor, mapped: Tensor, chunk: Tensor, parts: int
) -> None:
    """Mark the moving voxels that some fixed voxels (flat indices) reach."""
    rank = mapped.shape[0]
    flat = mapped.reshape(rank, -1)
    own = region.flatten()[chunk]
    steps = [_steps(region, flat, chunk, own, axis) for axis in range(rank)]
    offsets = [(2 * k + 1 - parts) / (2 * parts) for k in range(parts)]
    positions = [flat[:, chunk]]
    for axis, (forward, backward) in enumerate(steps):
        used = offsets if region.shape[axis] > 1 else [0.0]
        shifts = [(forward if o > 0 else backward) * o for o in used]
        positions = [position + shift for position in positions for shift in shifts]
    # Along an axis of length 1 a voxel's extent is unknown: it reaches the nearest moving voxel.
    least = [[0.5 if n == 1 else SEAM_VOX] for n in region.shape]
    reach = torch.tensor(least, dtype=flat.dtype, device=flat.device)
    for forward, backward in steps:
        reach = reach + torch.maximum(forward.abs(), backward.abs()) / (2 * parts)
    goal_flat, reached_flat = goal.view(-1), reached.view(-1)
    for position in positions:
        target = _padded_index(goal, position)
        hit = (goal_flat[target] == own) & ((position - position.round()).abs() <= reach).all(0)
        reached_flat[target[hit]] = True


def _steps(
    region: Tensor, flat: Tensor, chunk: Tensor, own: Tensor, axis: int
) -> tuple[Tensor, Tensor]:
    """The map's forward and backward differences, each (rank, n), within the voxel's own region."""
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
    # A voxel without such a neighbour borrows the step to any neighbour, but not a jump with it.
    lone = ~has_ahead & ~has_behind
    forward, backward = (torch.where(lone, s.clamp(-2, 2), s) for s in (forward, backward))
    use_ahead = has_ahead | (lone & (ahead != chunk))
    use_behind = has_behind | (lone & (behind != chunk))
    return (torch.where(use_ahead, forward, backward), torch.where(use_behind, backward, forward))


def _near_unreached(goal: Tensor, reached: Tensor, mapped: Tensor, sources: Tensor) -> Tensor:
    """Select the sources (flat indices) that map next to a moving voxel not reached so far.

    Stretched twofold, a fixed voxel reaches sqrt(3) from its centre: two voxels, once rounded.
    """
    near = dilate((goal > 0) & ~reached, 2).view(-1)
    flat = mapped.reshape(goal.ndim, -1)
    chunks = torch.split(sources, CHUNK_VOXELS)
    return torch.cat([chunk[near[_padded_index(goal, flat[:, chunk])]] for chunk in chunks])


def _padded_index(goal: Tensor, position: Tensor) -> Tensor:
    """Flat index, in an array with a border of one voxel, of positions in the array without it."""
    index = torch.zeros(position.shape[1], dtype=torch.int64, device=position.device)
    for axis, size in enumerate(goal.shape):
        nearest = torch.nan_to_num(position[axis], nan=-1.0).round_().clamp_(-1, size - 2)
        index.mul_(size).add_(nearest.to(torch.int64) + 1)
    return index
