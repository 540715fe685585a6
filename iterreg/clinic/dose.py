"""RTDOSE: read, warped onto the fixed image, and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from iterreg.clinic.objects import Series, decimals, new_object
from iterreg.errors import GeometryError, ImageContentError, ImageReadError
from iterreg.geometry import Grid, apply_affine, canonical
from iterreg.image import Image
from iterreg.io.dicom.files import read_header

RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"

EVEN_MM = 0.01
"""Frames whose steps differ by less are even."""

MOST = (1 << 32) - 1


def read_dose(path: str | Path) -> Image:
    """Read the dose of an RTDOSE file.

    Args:
        path: the file.

    Returns:
        The dose on its own grid, in Gy (relative doses in their own unit).

    Raises:
        ImageReadError: no RTDOSE, or damaged.
        GeometryError: frames that are not evenly spaced.
    """
    import pydicom

    path = Path(path)
    if str(read_header(path).get("Modality")) != "RTDOSE":
        raise ImageReadError(f"{path}: expected an RTDOSE file, got another object")
    try:
        dataset = pydicom.dcmread(path)
        stored = np.atleast_3d(dataset.pixel_array).astype(np.float64)
        offsets = np.asarray(dataset.GridFrameOffsetVector, np.float64).ravel()
        axes = np.asarray(dataset.ImageOrientationPatient, np.float64)
        origin = np.asarray(dataset.ImagePositionPatient, np.float64)
        rows_mm, columns_mm = map(float, dataset.PixelSpacing)
        scaling = float(dataset.DoseGridScaling)
    except Exception as error:  # pydicom has many ways to say so
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ImageReadError(f"{path}: expected an RTDOSE file: {words}") from error
    if len(offsets) != len(stored) or len(offsets) < 2:
        raise ImageContentError(
            f"{path}: expected at least 2 frames with an offset each, got {len(stored)} frames and "
            f"{len(offsets)} offsets"
        )
    steps = np.diff(offsets)
    if np.ptp(steps) > EVEN_MM or steps[0] == 0:
        raise GeometryError(f"{path}: expected frames at even distances, got {steps.tolist()[:5]}")
    normal = np.cross(axes[:3], axes[3:]) * np.sign(steps[0])
    grid = Grid(
        stored.shape,
        (columns_mm, rows_mm, float(abs(steps[0]))),
        tuple(origin.tolist()),
        tuple(map(tuple, np.column_stack((axes[:3], axes[3:], normal)).tolist())),
    )
    data = torch.from_numpy((stored * scaling).astype(np.float32))[None]
    return Image(data, grid, name=str(path))


def dose_object(dose: Image, fixed: Series, source: Any, key: str) -> Any:
    """Make the RTDOSE of a warped dose.

    Args:
        dose: on the fixed grid, Gy.
        fixed: the series whose space it lies in.
        source: header of the dose that was warped; its units and kind are kept.
        key: what it is made from.

    Returns:
        A pydicom data set; each dose is exact to its highest value times 2^-32.
    """
    grid, order = canonical(dose.grid)
    values = order.apply(dose.data[0]).double().clamp(min=0).numpy()
    made = new_object(fixed, RT_DOSE, "RTDOSE", "iterreg: warped dose", key)
    direction = np.asarray(grid.direction_lps)
    made.ImagePositionPatient = decimals(apply_affine(grid.index_to_lps, np.zeros(3)))
    made.ImageOrientationPatient = decimals([*direction[:, 0], *direction[:, 1]])
    made.PixelSpacing = decimals(grid.spacing_xyz_mm[1::-1])
    made.SliceThickness = decimals([grid.spacing_xyz_mm[2]])[0]
    made.NumberOfFrames = len(values)
    made.FrameIncrementPointer = 0x3004000C
    made.GridFrameOffsetVector = decimals(np.arange(len(values)) * grid.spacing_xyz_mm[2])
    made.DoseUnits = source.get("DoseUnits", "GY")
    made.DoseType = source.get("DoseType", "PHYSICAL")
    made.DoseSummationType = source.get("DoseSummationType", "PLAN")
    if "ReferencedRTPlanSequence" in source:
        made.ReferencedRTPlanSequence = source.ReferencedRTPlanSequence
    made.DoseComment = "warped by a deformable registration"
    text = decimals([max(float(values.max()), 1e-6) / MOST * (1 + 1e-6)])[0]
    made.DoseGridScaling = text
    made.Rows, made.Columns = values.shape[1:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 32, 32, 31, 0
    made.PixelData = np.rint(values / float(text)).clip(0, MOST).astype("<u4").tobytes()
    return made
