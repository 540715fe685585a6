"""Count labels and change their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

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
        return table.to(data.device)[data.clamp(low - 1, high + 1) - (low - 1)]
    keys = torch.tensor(known, dtype=torch.int32, device=data.device)
    targets = torch.tensor([numbers[k] for k in known], dtype=torch.int32, device=data.device)
    position = torch.searchsorted(keys, data).clamp_(max=len(known) - 1)
    return torch.where(keys[position] == data, targets[position], 0).to(torch.int32)


def compact_labels(data: Tensor, values: Sequence[int]) -> Tensor:
    """Number labels 1, 2, ... in the order of ``values``; all others become background.

    Example:
        >>> compact_labels(torch.tensor([7, 3, 5]), [3, 7]).tolist()
        [2, 1, 0]
    """
    return relabel(data, {value: number for number, value in enumerate(values, 1)})
