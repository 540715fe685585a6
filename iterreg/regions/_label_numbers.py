"""Find and change the numbers of a label map."""

from __future__ import annotations

import torch

from iterreg.errors import ImageContentError
from iterreg.image import LabelMap
from iterreg.labels import TABLE_RANGE

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


def listed(labels: LabelMap, names: dict[int, str]) -> str:
    """The labels that occur, with their names, cut short for a message."""
    present = present_labels(labels)
    some = ", ".join(with_name(value, names) for value in present[:MOST_LISTED])
    rest = len(present) - MOST_LISTED
    return some + (f" and {rest} more" if rest > 0 else "")


def with_name(value: int, names: dict[int, str]) -> str:
    """``7 (aorta)``, or ``7`` without a name."""
    return f"{value} ({names[value]})" if value in names else str(value)
