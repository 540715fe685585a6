"""Facts that are read from a file's header alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from iterreg.errors import ImageReadError
from iterreg.io import extension_of

if TYPE_CHECKING:
    pass

NIFTI_SUFFIXES = (".nii", ".nii.gz")


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
    """Return a shape in words.

    Example:
        >>> shape_text((390, 280, 300, 3))
        '390 x 280 x 300 x 3'
    """
    return " x ".join(map(str, shape)) or "a single number"
