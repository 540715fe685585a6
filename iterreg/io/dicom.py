"""DICOM: a folder that holds one series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iterreg.errors import GeometryError, ImageReadError
from iterreg.io.itk import quiet_itk

if TYPE_CHECKING:
    import SimpleITK as sitk


def load_dicom(folder: Path) -> sitk.Image:
    """Read the one series that a folder holds.

    Raises:
        ImageReadError: no series, or several.
        GeometryError: slices are missing or doubled.
    """
    import SimpleITK as sitk

    with quiet_itk(folder):
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if not series:
            raise ImageReadError(f"{folder}: expected a folder with one DICOM series, found none")
        if len(series) > 1:
            raise ImageReadError(
                f"{folder}: expected one DICOM series, found {len(series)}: {', '.join(series)}"
            )
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
        _require_even_slices(folder, files)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
        loaded: sitk.Image = reader.Execute()
    return loaded


def _require_even_slices(folder: Path, files: Sequence[str]) -> None:
    """Refuse a missing slice: ITK would print a warning and squeeze the volume."""
    import SimpleITK as sitk

    origins = []
    for file in files:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(file)
        reader.ReadImageInformation()
        origins.append(reader.GetOrigin())
    if len(origins) < 3:
        return
    steps = np.linalg.norm(np.diff(np.asarray(origins, np.float64), axis=0), axis=1)
    usual = float(np.median(steps))
    if usual == 0 or np.abs(steps - usual).max() > max(0.01, 0.01 * usual):
        raise GeometryError(
            f"{folder}: expected evenly spaced slices, got steps of {steps.min():.4g} to "
            f"{steps.max():.4g} mm: slices are missing or doubled"
        )
