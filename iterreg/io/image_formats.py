"""The image formats: one row for each. Reading, writing and messages go by this table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import ImageReadError
from iterreg.tables import load


@dataclass(frozen=True)
class Stored:
    """Facts about a stored image that ITK does not report.

    Args:
        dtype: of the voxels; empty if ITK tells it.
        slope, intercept: the intensity scale.
        bad_index: flat indices of voxels that are NaN or infinite, which ITK's NIfTI reader turns
            into 0.
        bad_values: the values there.
    """

    dtype: str = ""
    slope: float = 1.0
    intercept: float = 0.0
    bad_index: NDArray[np.int64] | None = None
    bad_values: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ImageFormat:
    """A format that is read and written.

    Args:
        name: as its authors call it.
        suffixes: in lower case.
        keeps_geometry: whether it stores spacing, origin and direction; if not, it is a
            picture of rank 2.
        inspector: reference of a function of the path that refuses damaged files which ITK lets
            through, and returns what ITK does not tell; empty if ITK suffices.
    """

    name: str
    suffixes: tuple[str, ...]
    keeps_geometry: bool = False
    inspector: str = ""


IMAGE_FORMATS = (
    ImageFormat("NIfTI", (".nii", ".nii.gz"), True, "iterreg.io.nifti:inspect_nifti"),
    ImageFormat("MetaImage", (".mha", ".mhd"), True, "iterreg.io.integrity:inspect_text_header"),
    ImageFormat("NRRD", (".nrrd", ".nhdr"), True, "iterreg.io.integrity:inspect_text_header"),
    ImageFormat("PNG", (".png",)),
    ImageFormat("JPEG", (".jpg", ".jpeg"), inspector="iterreg.io.integrity:inspect_jpeg"),
    ImageFormat("TIFF", (".tif", ".tiff")),
    ImageFormat("BMP", (".bmp",)),
)

VOLUME_EXTENSIONS = tuple(s for f in IMAGE_FORMATS if f.keeps_geometry for s in f.suffixes)
PICTURE_EXTENSIONS = tuple(s for f in IMAGE_FORMATS if not f.keeps_geometry for s in f.suffixes)


def extension_of(path: str | Path) -> str:
    """The extension in lower case, ``.nii.gz`` counted as one."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def format_of(path: Path) -> ImageFormat:
    """The format of a file, by its extension.

    Raises:
        ImageReadError: no row of the table has this extension.
    """
    extension = extension_of(path)
    for row in IMAGE_FORMATS:
        if extension in row.suffixes:
            return row
    hint = "; for DICOM give the folder of the series" if extension == ".dcm" else ""
    raise ImageReadError(
        f"{path}: expected one of {' '.join(VOLUME_EXTENSIONS + PICTURE_EXTENSIONS)}, "
        f"got {extension or 'no extension'}{hint}"
    )


def inspect(path: Path) -> Stored:
    """Look into a file for damage that ITK lets through, and for what ITK does not tell."""
    row = format_of(path)
    stored: Stored = load(row.inspector)(path) if row.inspector else Stored()
    return stored
