"""Find and change the numbers of a label map."""

from __future__ import annotations

from iterreg.errors import ImageContentError
from iterreg.image import LabelMap

MOST_LISTED = 12


def present_labels(labels: LabelMap) -> list[int]:
    """The labels that occur, ascending.

    Raises:
        ImageContentError: every voxel is background.
    """
    if not labels.values:
        raise ImageContentError(f"{labels.name}: expected labels, but every voxel is background")
    return labels.values


def listed(labels: LabelMap, names: dict[int, str]) -> str:
    """The labels that occur, with their names, cut short for a message."""
    present = present_labels(labels)
    some = ", ".join(with_name(value, names) for value in present[:MOST_LISTED])
    rest = len(present) - MOST_LISTED
    return some + (f" and {rest} more" if rest > 0 else "")


def with_name(value: int, names: dict[int, str]) -> str:
    """``7 (aorta)``, or ``7`` without a name."""
    return f"{value} ({names[value]})" if value in names else str(value)
