"""The parts that every transform format provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from iterreg.displacement import Transform
from iterreg.geometry import Grid


@dataclass(frozen=True)
class TransformFormat:
    """One convention for storing a transform.

    Args:
        meaning: content, units and space in words, for messages.
        read_suffixes: suffixes of files that can hold this format.
        write_suffixes: suffixes that iterreg writes.
        recognises: whether a file with one of ``read_suffixes`` holds this format. If several
            formats share a suffix, it looks into the header.
        read: reads a path, given the grids of the images that the transform maps from and to.
        write: writes a transform (fixed to moving) to a path, given the moving image's grid.
            Returns the content, units and space of the file in words.
        needs_moving: whether the numbers depend on the moving image's grid.
    """

    meaning: str
    read_suffixes: tuple[str, ...]
    write_suffixes: tuple[str, ...]
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Grid, Grid], Transform]
    write: Callable[[Transform, Path, Grid], str]
    needs_moving: bool
