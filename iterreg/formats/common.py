"""What the transform formats share."""

from __future__ import annotations

from pathlib import Path

from iterreg.errors import ImageReadError

COMPOSITE_EXTENSIONS = (".h5", ".hdf5", ".tfm", ".txt")
"""Files of an ITK composite; .h5 is the smallest."""


def nifti_shape(path: Path) -> tuple[int, ...]:
    """The shape that a NIfTI header gives.

    Raises:
        ImageReadError: the file is missing or unreadable.
    """
    import nibabel

    try:
        shape: tuple[int, ...] = getattr(nibabel.load(path), "shape", ())
    except (OSError, nibabel.filebasedimages.ImageFileError) as error:
        raise ImageReadError(f"{path}: cannot be read: {error}") from error
    return shape
