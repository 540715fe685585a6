"""Helpers that several metrics share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iterreg.errors import GeometryError

TABLE_RANGE = 1 << 20
"""Labels that span more than this are found by binary search instead of a lookup table."""


def compact_labels(labels: Tensor, sorted_values: Sequence[int]) -> Tensor:
    """Number the labels 1, 2, ... in the order of ``sorted_values``; all others become 0.

    Args:
        labels: (*shape) integers.
        sorted_values: the labels to keep, ascending.

    Returns:
        (*shape) int64.

    Example:
        >>> compact_labels(torch.tensor([7, 3, 5]), [3, 7])
        tensor([2, 1, 0])
    """
    if not sorted_values:
        return torch.zeros_like(labels, dtype=torch.int64)
    low, high = sorted_values[0], sorted_values[-1]
    if high - low < TABLE_RANGE:
        table = torch.zeros(high - low + 3, dtype=torch.int64)
        for number, value in enumerate(sorted_values, start=1):
            table[value - low + 1] = number
        position = labels.to(torch.int64).clamp_(low - 1, high + 1).sub_(low - 1)
        return table.to(labels.device)[position]
    keys = torch.tensor(sorted_values, dtype=torch.int64, device=labels.device)
    position = torch.searchsorted(keys, labels.to(torch.int64)).clamp_(max=len(keys) - 1)
    return torch.where(keys[position] == labels, position + 1, 0)


def ratio(part: float, whole: float) -> float:
    """``part / whole``, or NaN if the whole is 0."""
    return part / whole if whole else float("nan")


def require_shape(function: str, argument: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """Refuse an argument of another shape, naming the function and the argument.

    Raises:
        GeometryError: the shapes differ.
    """
    if tuple(tensor.shape) != tuple(shape):
        raise GeometryError(
            f"{function}: {argument}: expected shape {tuple(shape)}, got {tuple(tensor.shape)}"
        )
