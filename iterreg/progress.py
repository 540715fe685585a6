"""Progress: the one type in which everything that takes long says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    Args:
        stage: a short, stable name, such as ``read``, ``regions``, ``start``, ``level 2``.
        fraction: share of the work that is done, 0 to 1.
        message: one line for a person.

    Example:
        >>> Progress("level 2", 0.5, "level 2: 4 mm")
        Progress(stage='level 2', fraction=0.5, message='level 2: 4 mm')
    """

    stage: str
    fraction: float
    message: str


ProgressCallback = Callable[[Progress], None]


def ignore_progress(event: Progress) -> None:
    """The callback for callers that do not want to know."""
