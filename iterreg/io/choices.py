"""What the user decides about reading, where a file leaves a doubt."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

GEOMETRIES = ("auto", "sform", "qform", "pixdim")
"""Which part of a NIfTI header decides where the voxels are."""


class GeometryWarning(UserWarning):
    """A file was read, but it leaves a doubt, such as where its voxels are."""


def warn_of(notes: Iterable[str]) -> None:
    """Tell the user how a file was read."""
    for note in notes:
        warnings.warn(GeometryWarning(note), stacklevel=4)


@dataclass(frozen=True)
class ReadingChoices:
    """How doubtful files are read.

    Args:
        geometry: one of :data:`GEOMETRIES`; ``auto`` takes what is beyond doubt and refuses the
            rest.
        pixel_mm: size of a picture's pixels; None takes 1, whatever the file says about printing.
        series: for each role of an image, such as ``fixed``, which series of a DICOM folder it is.
        series_options: the options of a command that pick them, for messages.
        structures: patterns of the names that are read of label maps with names; all if empty.

    Example:
        >>> ReadingChoices().geometry
        'auto'
    """

    geometry: str = "auto"
    pixel_mm: float | None = None
    series: Mapping[str, str] = field(default_factory=dict)
    series_options: str = "--fixed-series or --moving-series"
    structures: tuple[str, ...] = ()


DEFAULT = ReadingChoices()

_current: ContextVar[ReadingChoices] = ContextVar("reading_choices", default=DEFAULT)


def reading_choices() -> ReadingChoices:
    """The choices that hold now."""
    return _current.get()


def series_of(role: str) -> str | None:
    """The DICOM series that the user picked for an image; None if none was picked."""
    return _current.get().series.get(role)


def read_with(choices: ReadingChoices) -> None:
    """Read with these choices from now on, in this process or thread.

    Example:
        >>> read_with(reading_choices())
    """
    _current.set(choices)


@contextmanager
def reading_with(**changes: Any) -> Iterator[None]:
    """Read with other choices inside a ``with`` block.

    Args:
        changes: fields of :class:`ReadingChoices`.

    Example:
        >>> with reading_with(geometry="qform"):
        ...     reading_choices().geometry
        'qform'
    """
    token = _current.set(replace(_current.get(), **changes))
    try:
        yield
    finally:
        _current.reset(token)
