"""Overlap of label maps."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from iterreg.labels import compact_labels
from iterreg.metrics._shared import require_shape


def dice(fixed: Tensor, warped: Tensor, values: Iterable[int]) -> dict[int, float]:
    """Compute the Dice overlap of each label.

    Args:
        fixed: (*shape) integer labels of the fixed image.
        warped: (*shape) integer labels of the moving image, warped to the fixed grid.
        values: the labels to score.

    Returns:
        2 |F and W| / (|F| + |W|) for each label, 0 to 1; NaN if the label is empty in ``fixed``.

    Raises:
        GeometryError: the shapes differ.

    Example:
        >>> dice(torch.tensor([[1, 1, 2]]), torch.tensor([[1, 2, 2]]), [1])
        {1: 0.6666666666666666}
    """
    require_shape("dice", "warped", warped, fixed.shape)
    wanted = sorted(set(values))
    in_fixed, in_warped = compact_labels(fixed, wanted), compact_labels(warped, wanted)
    both = torch.where(in_fixed == in_warped, in_fixed, 0)
    size_fixed, size_warped, size_both = (
        torch.bincount(part.flatten(), minlength=len(wanted) + 1).tolist()
        for part in (in_fixed, in_warped, both)
    )
    return {
        value: 2 * size_both[k] / (size_fixed[k] + size_warped[k])
        if size_fixed[k]
        else float("nan")
        for k, value in enumerate(wanted, start=1)
    }
