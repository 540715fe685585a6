"""Helpers that several metrics share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from iterreg.errors import GeometryError


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
