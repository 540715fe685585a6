"""Find and change the numbers of a label map."""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.errors import ImageContentError
from iterreg.image import LabelMap

TABLE_RANGE = 1 << 20
"""Labels that span more than this are found by binary search instead of a lookup table."""

MOST_LISTED = 12


def present_labels(labels: LabelMap) -> list[int]:
    """The labels that occur, ascending.

    Raises:
        ImageContentError: every voxel is background.
    """
    data = labels.data.flatten()
    low, high = int(data.min()), int(data.max())
    if high - low < TABLE_RANGE:
        count = torch.bincount(data - low, minlength=1)
        values = [low + k for k in count.nonzero().flatten().tolist() if low + k != 0]
    else:
        values = labels.values
    if not values:
        raise ImageContentError(f"{labels.name}: expected labels, but every voxel is background")
    return values


def relabel(data: Tensor, numbers: dict[int, int]) -> Tensor:
    """Renumber labels; those without a new number become background.

    Args:
        data: (*shape) int32.
        numbers: the new number of each label.

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


def listed(labels: LabelMap, names: dict[int, str]) -> str:
    """The labels that occur, with their names, cut short for a message."""
    present = present_labels(labels)
    some = ", ".join(with_name(value, names) for value in present[:MOST_LISTED])
    rest = len(present) - MOST_LISTED
    return some + (f" and {rest} more" if rest > 0 else "")


def with_name(value: int, names: dict[int, str]) -> str:
    """``7 (aorta)``, or ``7`` without a name."""
    return f"{value} ({names[value]})" if value in names else str(value)
