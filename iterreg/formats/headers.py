"""Facts that are read from a file's header alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from iterreg.errors import ImageReadError
from iterreg.geometry import Grid
from iterreg.io import extension_of, grid_of

if TYPE_CHECKING:
    import SimpleITK as sitk

NIFTI_SUFFIXES = (".nii", ".nii.gz")


def grid_of_file(path: str | Path) -> Grid:
    """Return the grid of an image file.

    Raises:
        ImageReadError, GeometryError: the file cannot be read, or its grid cannot be used.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        return grid_of(cast("sitk.Image", reader))
    except RuntimeError as error:
        raise ImageReadError(f"{path}: expected an image that can be read") from error


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
