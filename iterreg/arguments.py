"""Arguments of Python: a value of another type than expected is refused by the argument's name."""

from __future__ import annotations

from numbers import Real
from operator import index
from typing import SupportsIndex


def whole_number(value: SupportsIndex, name: str) -> int:
    """Return a whole number of Python or NumPy as Python's.

    Raises:
        TypeError: it is something else.

    Example:
        >>> whole_number("two", "threads")
        Traceback (most recent call last):
        TypeError: threads: expected a whole number, got 'two'
    """
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r:.80}") from None


def seed_of(value: SupportsIndex) -> int:
    """Return any whole number as a seed of 64 bits without a sign, which NumPy and torch take.

    Raises:
        TypeError: it is no whole number.

    Example:
        >>> seed_of(7), seed_of(-1) == 2**64 - 1
        (7, True)
    """
    return whole_number(value, "seed") % 2**64


def number(value: float, name: str) -> float:
    """Return a number of Python or NumPy as Python's.

    Raises:
        TypeError: it is something else.

    Example:
        >>> number("two", "memory_gb")
        Traceback (most recent call last):
        TypeError: memory_gb: expected a number, got 'two'
    """
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r:.80}")
    return float(value)


def require_tensor(value: object, name: str) -> None:
    """Refuse what is no tensor of torch.

    Raises:
        TypeError: saying what takes arrays.
    """
    import torch

    if not isinstance(value, torch.Tensor):
        kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
        raise TypeError(
            f"{name}: expected a torch tensor, got {kind}: torch.from_numpy makes one of an array, "
            "and Image.from_array and LabelMap.from_array take both"
        )
