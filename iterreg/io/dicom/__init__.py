"""DICOM: a folder, a DICOMDIR or a file of many frames as one volume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iterreg.io.dicom.files import DIRECTORY, SUFFIXES, is_bare, is_dicom
from iterreg.io.dicom.series import Volume, list_volumes, pick
from iterreg.io.dicom.stack import stack
from iterreg.io.image_formats import Stored
from iterreg.io.itk import to_itk

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["Volume", "holds_dicom", "list_volumes", "load_dicom", "pick"]


def holds_dicom(path: Path) -> bool:
    """Whether a path is to be read as DICOM: a folder, a DICOMDIR, or a DICOM file."""
    if os.path.isdir(path) or path.name.upper().startswith(DIRECTORY):
        return True
    return path.suffix.lower() in SUFFIXES and (is_dicom(path) or is_bare(path))


def load_dicom(path: Path, series: str | None = None) -> tuple[sitk.Image, Stored]:
    """Read one volume.

    Args:
        path: a folder, searched with all below it; a DICOMDIR; or a file of many frames.
        series: which one: its number, its UID, or a part of its description.

    Raises:
        ImageReadError: no series, or several to choose from, or a damaged file.
        ImageContentError: colours.
        GeometryError: slices are missing, doubled or without a place.
    """
    volume = pick(path, list_volumes(path), series)
    stacked = stack(path, volume)
    values = stacked.values
    rounded = np.rint(values)
    if np.abs(values - rounded).max() < 1e-6:
        low, high = rounded.min(), rounded.max()
        fits = [k for k in ("int16", "int32") if np.iinfo(k).min <= low and high <= np.iinfo(k).max]
        values = rounded.astype(fits[0] if fits else "float64")
    else:
        values = values.astype(np.float32)
    return to_itk(values, stacked.grid), Stored(notes=stacked.notes, series=volume.selector)
