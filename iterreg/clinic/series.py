"""The warped image as a series on the fixed grid, one file a slice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from iterreg.clinic.objects import Series, decimals, item, new_object, references, uid_of
from iterreg.geometry import apply_affine, canonical
from iterreg.image import Image

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ACQUIRED = ("CT", "MR", "PT")
OF_KIND = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
"""Classes of single slices, by modality."""

COPIED = (
    "KVP",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "EchoTrainLength",
    "PatientPosition",
    "RescaleType",
)
"""Of the moving series: how its intensities came about."""

MOST = 65535


def warped_series(image: Image, fixed: Series, moving: Series, key: str) -> Iterator[Any]:
    """Make the slices of a warped image.

    Intensities are stored in 16 bits with one scale for all slices: whole numbers that fit stay
    exact, others are rounded to 1/65535 of their range.

    Args:
        image: on the fixed grid, one channel.
        fixed, moving: the series.
        key: what it is made from.

    Yields:
        A pydicom data set for each slice, from the feet to the head.
    """
    grid, order = canonical(image.grid)
    values = order.apply(image.data[0]).double().numpy()
    slope, intercept = _scale(values)
    modality = str(moving.header.get("Modality", "OT"))
    kind = OF_KIND.get(modality, SECONDARY_CAPTURE)
    direction = np.asarray(grid.direction_lps)
    for number, plane in enumerate(values):
        made = new_object(fixed, kind, modality, "iterreg: warped onto the fixed image", key)
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid_of(key, f"{number}")
        made.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"]
        made.InstanceNumber, made.AcquisitionNumber = number + 1, None
        for name in COPIED:
            if name in moving.header:
                setattr(made, name, moving.header[name].value)
        made.PatientPosition = made.get("PatientPosition", "")
        made.DerivationDescription = "warped by a deformable registration, linear interpolation"
        made.SourceImageSequence = _sources(moving)
        made.ImagePositionPatient = decimals(
            apply_affine(grid.index_to_lps, np.array([number, 0.0, 0.0]))
        )
        made.ImageOrientationPatient = decimals([*direction[:, 0], *direction[:, 1]])
        made.PixelSpacing = decimals(grid.spacing_xyz_mm[1::-1])
        made.SliceThickness = decimals([grid.spacing_xyz_mm[2]])[0]
        _put_pixels(made, plane, slope, intercept)
        yield made


def _sources(moving: Series) -> Any:
    from iterreg.clinic.objects import items

    code = item(
        CodeValue="121322",
        CodingSchemeDesignator="DCM",
        CodeMeaning="Source image for image processing operation",
    )
    found = references(moving)[:1]
    for one in found:
        one.PurposeOfReferenceCodeSequence = items(code)
    return items(*found)


def _scale(values: Any) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    whole = np.abs(values - np.rint(values)).max() < 1e-6
    if whole and low >= -32768 and high - min(low, 0.0) <= MOST:
        return 1.0, float(min(low, 0.0))
    if high - low <= MOST and high - low > 4096:
        return 1.0, float(np.floor(low))
    return max(high - low, 1e-6) / MOST, low


def _put_pixels(made: Any, plane: Any, slope: float, intercept: float) -> None:
    text_slope, text_intercept = decimals([slope, intercept])
    stored = np.rint((plane - float(text_intercept)) / float(text_slope)).clip(0, MOST)
    made.RescaleSlope, made.RescaleIntercept = text_slope, text_intercept
    made.Rows, made.Columns = plane.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
    made.PixelData = stored.astype("<u2").tobytes()
