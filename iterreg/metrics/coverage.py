"""Coverage: how much of each moving region the mapped fixed region reaches.

A fixed voxel is a small box. Each of its octants is mapped by the differences to the voxel's
neighbours of the same label, so nothing is drawn across an interface. A moving voxel is reached if
its centre lies in a mapped octant.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from iterreg.kernels import mark_reached
from iterreg.labels import label_counts
from iterreg.metrics._shared import ratio, require_shape


def coverage(
    moving_labels: Tensor,
    fixed_labels: Tensor,
    mapped_index: Tensor,
    values: Iterable[int] | None = None,
) -> dict[int, float]:
    """Compute the share of each moving region that the fixed region of the same label reaches.

    Dice of warped labels forgives a region that collapses onto a corner of its partner; coverage
    does not. It leaves no holes where the map stretches, and where the grids' voxels differ. Each
    fixed voxel counts a hundredth larger on each side than it is.

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
    size = label_counts(moving_labels)
    wanted = sorted({v for v in size if v != 0} if values is None else set(values))
    more = 3 - fixed_labels.ndim
    moving, region = (data.int()[(None,) * more] for data in (moving_labels, fixed_labels))
    mapped = mapped_index
    if more:
        mapped = torch.cat((mapped.new_zeros(more, *mapped.shape[1:]), mapped))
    reached = torch.zeros_like(moving, dtype=torch.bool)
    mark_reached(region, mapped.view(3, *region.shape), moving, reached)
    hit = label_counts(torch.where(reached, moving, 0))
    return {value: ratio(hit.get(value, 0), size.get(value, 0)) for value in wanted}
