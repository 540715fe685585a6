"""The parts that every transform format provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from iterreg.displacement import Transform
from iterreg.errors import TransformError
from iterreg.formats.loaded import Loaded
from iterreg.geometry import Grid


@dataclass(frozen=True)
class Sides:
    """The grids of the two images that a transform lies between, where they are known.

    Args:
        fixed: of the image that the transform maps from: a program's reference.
        moving: of the image that it maps to: a program's source, which it moved.
    """

    fixed: Grid | None = None
    moving: Grid | None = None

    def both(self, path: Path, program: str, source: str, reference: str) -> tuple[Grid, Grid]:
        """Return both grids, of rank 3.

        Args:
            path: the transform's file.
            program: whose it is.
            source, reference: what the program calls its images.

        Raises:
            TransformError: one is not known, or an image is a picture.
        """
        if self.fixed is None or self.moving is None:
            raise TransformError(
                f"{path}: a transform of {program} depends on both of its images: in iterreg apply "
                f"and iterreg convert add --source ({source}) and --reference ({reference}); "
                "elsewhere convert it first"
            )
        if self.fixed.rank != 3 or self.moving.rank != 3:
            raise TransformError(f"{path}: expected 3-D images for {program}, got 2-D ones")
        return self.fixed, self.moving


@dataclass(frozen=True)
class TransformFormat:
    """One convention for storing a transform.

    Args:
        meaning: content, units and space in words, for messages.
        read_suffixes: suffixes of files that can hold this format.
        write_suffixes: suffixes that iterreg writes; none if it only reads the format.
        recognises: whether a file with one of ``read_suffixes`` holds this format. If several
            formats share a suffix, it looks into the header.
        load: reads a path, given the grids of the images that the transform maps from and to.
        write: writes a transform (fixed to moving) to a path, given the moving image's grid.
            Returns the content, units and space of the file in words.
        needs_moving: whether what is written depends on the moving image's grid.
        needs_source: whether it is read with the two images of the program that made it.

    Example:
        >>> text = TransformFormat(
        ...     meaning="my program's affine (mm, LPS)",
        ...     read_suffixes=(".mine",),
        ...     write_suffixes=(),
        ...     recognises=lambda path: path.read_text().startswith("mine"),
        ...     load=lambda path, sides: Loaded.identity(3),
        ... )
        >>> text.write is None
        True
    """

    meaning: str
    read_suffixes: tuple[str, ...]
    write_suffixes: tuple[str, ...]
    recognises: Callable[[Path], bool]
    load: Callable[[Path, Sides], Loaded]
    write: Callable[[Transform, Path, Grid], str] | None = None
    needs_moving: bool = False
    needs_source: bool = False
