"""Coverage: how much of each moving region the mapped fixed region reaches.

A fixed voxel is a small box. It is cut into parts, and each part is mapped by the differences to
the voxel's neighbours of the same label, so nothing is drawn across an interface. A moving voxel is
reached if its centre lies in the bounding box of a mapped part.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from iterreg.kernels import mark_reached, padded_index
from iterreg.labels import compact_labels, label_counts
from iterreg.metrics._shared import ratio, require_shape
from iterreg.neighbourhood import dilate

PARTS_PER_AXIS = (2, 4)
"""Parts of a fixed voxel along each axis: first for all voxels, then for those that map next to
moving voxels not reached so far."""


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
    # Every array has rank 3. A border of background stands for everything outside the moving image.
    more = 3 - fixed_labels.ndim
    moving, region = (
        compact_labels(data, wanted)[(None,) * more] for data in (moving_labels, fixed_labels)
    )
    goal = torch.nn.functional.pad(moving, (1, 1) * 3)
    along_more = mapped_index.new_zeros(more, *fixed_labels.shape)
    mapped = torch.cat((along_more, mapped_index)).view(3, *region.shape)
    reached = torch.zeros_like(goal, dtype=torch.bool)
    sources = region.flatten().nonzero().squeeze(1)
    for attempt, parts in enumerate(PARTS_PER_AXIS):
        if attempt > 0:
            sources = _near_unreached(goal, reached, mapped, sources)
        mark_reached(region, mapped, goal, sources, parts, reached)
    size = torch.bincount(goal.flatten(), minlength=len(wanted) + 1).tolist()
    hit = torch.bincount(goal[reached], minlength=len(wanted) + 1).tolist()
    return {value: ratio(hit[k], size[k]) for k, value in enumerate(wanted, start=1)}


def _near_unreached(goal: Tensor, reached: Tensor, mapped: Tensor, sources: Tensor) -> Tensor:
    """Select the sources (flat indices) that map next to a moving voxel not reached so far.

    Stretched twofold, a fixed voxel reaches sqrt(3) from its centre: two voxels, once rounded.
    """
    near = dilate((goal > 0) & ~reached, 2).view(-1)
    return sources[near[padded_index(goal, mapped.view(3, -1)[:, sources].nan_to_num())]]
