"""Count labels and change their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from iterreg.neighbourhood import bounding_box, grow_box, label_profiles
from iterreg.to_device import on_device

TABLE_RANGE = 1 << 20
"""Labels that span more than this are found by binary search instead of a lookup table."""


def label_counts(data: Tensor) -> dict[int, int]:
    """The voxels of each label that occurs, ascending by label.

    Args:
        data: (*shape) integers.

    Example:
        >>> label_counts(torch.tensor([7, 3, 7], dtype=torch.int32))
        {3: 1, 7: 2}
    """
    if data.numel() == 0:
        return {}
    low, high = torch.stack(torch.aminmax(data)).tolist()
    if high - low < TABLE_RANGE:
        # Sorting or hashing a volume takes twenty times as long as counting.
        first = 0 if low >= 0 and high < TABLE_RANGE else low  # without a shift, without a copy
        counts = torch.bincount((data - first if first else data).flatten()).tolist()
        return {first + k: count for k, count in enumerate(counts) if count}
    found, sizes = torch.unique(data, return_counts=True)
    return dict(zip(found.tolist(), sizes.tolist(), strict=True))


def centroids(labels: Tensor, count: int) -> Tensor:
    """Mean index of the voxels of each label, (count, rank) float64; NaN for one without voxels.

    Args:
        labels: (*shape), from 0 to count - 1.
        count: how many labels there are.

    Example:
        >>> centroids(torch.tensor([[0, 2, 2], [0, 2, 2]]), 3).tolist()
        [[0.5, 0.0], [nan, nan], [0.5, 1.5]]
    """
    means = []
    for profile in label_profiles(labels, count):
        place = torch.arange(profile.shape[1], device=labels.device)
        means.append((profile * place).sum(1).double() / profile.sum(1))
    return torch.stack(means, 1)


def relabel(data: Tensor, numbers: Mapping[int, int]) -> Tensor:
    """Renumber labels; those without a new number become background.

    Args:
        data: (*shape) integers.
        numbers: the new number of each label.

    Returns:
        (*shape) int32.

    Example:
        >>> relabel(torch.tensor([7, 3, 5], dtype=torch.int32), {3: 1, 7: 9}).tolist()
        [9, 1, 0]
    """
    known = sorted(numbers)
    if not known:
        return torch.zeros_like(data)
    low, high = known[0], known[-1]
    if high - low < TABLE_RANGE:
        table = torch.zeros(high - low + 3, dtype=torch.int32)
        for value, number in numbers.items():
            table[value - low + 1] = number
        # index_select takes 32-bit places as they are; indexing would make them 64-bit first.
        whole = data if data.dtype in (torch.int32, torch.int64) else data.int()
        places = whole.flatten().clamp(low - 1, high + 1)
        if low != 1:
            places.sub_(low - 1)
        return on_device(table, data.device).index_select(0, places).view(data.shape)
    keys = on_device(known, data.device, torch.int32)
    targets = on_device([numbers[k] for k in known], data.device, torch.int32)
    position = torch.searchsorted(keys, data).clamp_(max=len(known) - 1)
    return torch.where(keys[position] == data, targets[position], 0).to(torch.int32)


def compact_labels(data: Tensor, values: Sequence[int]) -> Tensor:
    """Number labels 1, 2, ... in the order of ``values``; all others become background.

    Example:
        >>> compact_labels(torch.tensor([7, 3, 5]), [3, 7]).tolist()
        [2, 1, 0]
    """
    return relabel(data, {value: number for number, value in enumerate(values, 1)})


def dissolve(data: Tensor, values: Sequence[int]) -> Tensor:
    """Give each voxel of some labels the label that lies nearest, voxel by voxel.

    Args:
        data: (*shape) integers.
        values: the labels that go.

    Returns:
        (*shape), with 0 if there is no other label.

    Example:
        >>> dissolve(torch.tensor([1, 7, 7, 2]), [7]).tolist()
        [1, 1, 2, 2]
    """
    gone = torch.isin(data, data.new_tensor(list(values)))
    tight = bounding_box(gone)
    if tight is None:
        return data
    box = grow_box(tight, 1, data.shape)
    result, hole = data.clone(), gone[box].clone()
    part = result[box]
    part[hole] = 0
    while bool(hole.any()):
        filled = _grown(part, hole)
        if not bool((filled & hole).any()):
            break
        hole &= ~filled
    return result


def _grown(part: Tensor, hole: Tensor) -> Tensor:
    """Fill the voxels of a hole that have a face neighbour outside it; (*shape) bool of those."""
    filled, before = torch.zeros_like(hole), part.clone()
    for axis in reversed(range(part.ndim)):
        n = part.shape[axis]
        for to, source in ((0, 1), (1, 0)):
            here, there = (axis, to, n - 1), (axis, source, n - 1)
            take = hole.narrow(*here) & ~hole.narrow(*there) & ~filled.narrow(*here)
            part.narrow(*here)[take] = before.narrow(*there)[take]
            filled.narrow(*here).logical_or_(take)
    return filled
