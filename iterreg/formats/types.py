"""The parts of a transform format, and the helper that tells NIfTI files apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from iterreg.displacement import Transform
from iterreg.errors import ImageReadError
from iterreg.geometry import Grid
from iterreg.io import extension_of

NIFTI_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class TransformFormat:
    """One convention for storing a transform.

    Args:
        meaning: direction-free description for messages: content, units and space.
        read_suffixes: file name endings that can hold this format.
        write_suffixes: file name endings that iterreg writes.
        recognises: whether an existing file with one of ``read_suffixes`` holds this format.
            Decides by the header where several formats share a suffix.
        read: takes the path and the grids of the images that the transform maps from and to.
        write: takes a transform from fixed to moving, the path and the moving image's grid.
            Returns a description of what it wrote.
        needs_moving: whether the numbers depend on the moving image's grid.
    """

    meaning: str
    read_suffixes: tuple[str, ...]
    write_suffixes: tuple[str, ...]
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Grid, Grid], Transform]
    write: Callable[[Transform, Path, Grid], str]
    needs_moving: bool


def nifti_shape(path: Path) -> tuple[int, ...] | None:
    """Return the shape in a NIfTI file's header, or None if the suffix is not NIfTI's.

    Raises:
        ImageReadError: the file is missing or unreadable.
    """
    if extension_of(path) not in NIFTI_SUFFIXES:
        return None
    import nibabel

    try:
        shape: tuple[int, ...] = getattr(nibabel.load(path), "shape", ())
    except (OSError, nibabel.filebasedimages.ImageFileError) as error:
        raise ImageReadError(f"{path}: cannot be read: {error}") from error
    return shape


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape in words, such as 390 x 280 x 300 x 3."""
    return " x ".join(map(str, shape)) or "a single number"
