"""Boundaries that the image does not show.

A segmenter has to draw a boundary even where there is nothing to see, as across the vessels of a
lung's hilum. Two neighbouring voxels show the boundary between their regions if their intensities
lie on different sides of the middle::

    (I_low < m) != (I_high < m)        m = (median of one region + median of the other) / 2
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iterreg.neighbourhood import box_mean, face_pairs

HIDDEN_SHARE = 0.25
"""A boundary is left out if the image hides more than this share of it nearby."""

BOX_RADIUS_MM = 4.0
"""The share is taken over a box of this half-width, so that no single noisy voxel decides."""

MEDIAN_STRIDE = 7
"""The median of a region is that of every seventh voxel, unless none of them lies in the region."""


def hidden_boundaries(
    image: Tensor, labels: Tensor, label_count: int, spacing_mm: Sequence[float]
) -> Tensor:
    """Voxels near boundaries that the image does not show.

    Args:
        image: (C, Z, Y, X) intensities.
        labels: (Z, Y, X) compact labels.
        label_count: how many labels there are, background included.
        spacing_mm: (z, y, x).

    Returns:
        (Z, Y, X) bool.

    Example:
        >>> labels = (torch.arange(8) > 3).int().expand(3, 3, 8)
        >>> flat, step = torch.zeros(1, 3, 3, 8), labels.float().unsqueeze(0)
        >>> [bool(hidden_boundaries(i, labels, 2, (2.0, 2.0, 2.0)).any()) for i in (flat, step)]
        [True, False]
    """
    values = image.mean(0)
    medians = _medians(values, labels, label_count)
    boundary, hidden = torch.zeros_like(values), torch.zeros_like(values)
    for axis in range(3):
        first, second = (side.long() for side in face_pairs(labels, axis))
        low, high = face_pairs(values, axis)
        middle = 0.5 * (medians[first] + medians[second])
        differ, same_side = first != second, (low < middle) == (high < middle)
        for of_low, of_high, here in (
            (*face_pairs(boundary, axis), differ),
            (*face_pairs(hidden, axis), differ & same_side),
        ):
            of_low.add_(here)
            of_high.add_(here)
    radius = [
        min(max(1, round(BOX_RADIUS_MM / s)), (n - 1) // 2)
        for n, s in zip(values.shape, spacing_mm, strict=True)
    ]
    share = box_mean(hidden, radius, "zero")
    return (share > 0) & (share > HIDDEN_SHARE * box_mean(boundary, radius, "zero"))


def _medians(values: Tensor, labels: Tensor, label_count: int) -> Tensor:
    """(labels,), the median intensity of each region, NaN if the region is empty."""
    flat, marks = values.flatten(), labels.flatten()
    medians = _medians_of(flat[::MEDIAN_STRIDE], marks[::MEDIAN_STRIDE], label_count)
    if bool(medians.isnan().any()):
        medians = torch.where(medians.isnan(), _medians_of(flat, marks, label_count), medians)
    return medians


def _medians_of(values: Tensor, labels: Tensor, label_count: int) -> Tensor:
    """The same of a list: sorted by value, then by label, the middle of each label's part."""
    values, order = values.sort()
    labels, place = labels[order].sort(stable=True)
    sizes = torch.bincount(labels, minlength=label_count)
    middle = sizes.cumsum(0) - sizes + (sizes - 1).clamp(min=0) // 2
    found = values[place][middle.clamp(max=len(values) - 1)]
    return torch.where(sizes > 0, found, torch.nan)
