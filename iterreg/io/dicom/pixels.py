"""The intensities of a slice: pydicom reads what is plain, GDCM what is compressed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iterreg.atomic import STAGING_PREFIX
from iterreg.errors import ImageContentError, ImageReadError
from iterreg.io.dicom.files import quiet_pydicom, read_dataset
from iterreg.io.dicom.frames import Frame
from iterreg.io.itk import quiet_itk

MOST_RATIO = 2000
"""Bytes of pixels for a byte of a compressed file. More is damage."""

SCALES = (*range(0x1050, 0x1057), 0x3000, 0x3010, 0x9110, 0x9145)
"""Elements of group 0028 that scale or show intensities, or tell sizes in mm."""


def slices(frames: Sequence[Frame]) -> Iterator[NDArray[np.float64]]:
    """The intensities of each slice, (rows, columns), in the order of the frames.

    Raises:
        ImageReadError: a file's pixels do not fit its header.
        ImageContentError: colours.
    """
    opened: tuple[Path, NDArray[Any]] | None = None
    for frame in frames:
        if opened is None or opened[0] != frame.file:
            opened = (frame.file, _stored(frame))
        values = opened[1][frame.index].astype(np.float64)
        yield values * frame.scale[0] + frame.scale[1]


def _stored(frame: Frame) -> NDArray[Any]:
    """All frames of a file, unscaled."""
    import pydicom

    path, shape = frame.file, (frame.count, frame.rows, frame.columns)
    with quiet_pydicom(path):
        dataset = read_dataset(path)
        colours = "PALETTE" in str(dataset.get("PhotometricInterpretation", ""))
        if colours or int(dataset.get("SamplesPerPixel", 1) or 1) != 1:
            raise ImageContentError(f"{path}: expected one value per voxel, got colours")
        syntax = dataset.file_meta.get("TransferSyntaxUID") if "file_meta" in dir(dataset) else None
        packed = bool(syntax is not None and syntax.is_compressed and not syntax.is_deflated)
        if not packed:
            _require_size(path, dataset, shape)
            if syntax is None:
                if not hasattr(dataset, "file_meta"):
                    dataset.file_meta = pydicom.dataset.FileMetaDataset()
                little = dataset.original_encoding[1] is not False
                dataset.file_meta.TransferSyntaxUID = (
                    pydicom.uid.ImplicitVRLittleEndian
                    if little
                    else pydicom.uid.ExplicitVRBigEndian
                )
            return _looked_up(dataset, np.asarray(dataset.pixel_array).reshape(shape))
        _require_plausible(path, shape)
        return _looked_up(dataset, _by_gdcm(path, dataset, shape))


def _looked_up(dataset: Any, stored: NDArray[Any]) -> NDArray[Any]:
    """The intensities of a file that tells them by a table in place of slope and intercept."""
    from pydicom.pixels.processing import apply_modality_lut

    if "ModalityLUTSequence" not in dataset:
        return stored
    return np.asarray(apply_modality_lut(stored, dataset))


def _require_size(path: Path, dataset: Any, shape: tuple[int, int, int]) -> None:
    """Refuse pixels that do not fit the header: a flipped bit would ask for gigabytes."""
    bits = int(dataset.get("BitsAllocated", 0) or 0)
    count = shape[0] * shape[1] * shape[2]
    kinds = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    data = next((dataset[kind].value for kind in kinds if kind in dataset), b"")
    length = len(data) if data is not None else 0
    expected = -(-count * bits // 8)
    if bits not in (1, 8, 16, 32, 64) or length not in (expected, expected + expected % 2):
        size = f"{shape[2]} x {shape[1]}" + (f" x {shape[0]}" if shape[0] > 1 else "")
        raise ImageReadError(
            f"{path}: expected {expected} bytes of pixels by its header ({size}, {bits} bits), got "
            f"{length}"
        )


def _require_plausible(path: Path, shape: tuple[int, int, int]) -> None:
    count = 2 * shape[0] * shape[1] * shape[2]
    length = os.path.getsize(path)
    if count > MOST_RATIO * length:
        raise ImageReadError(
            f"{path}: expected {count} bytes of pixels by its header, got a file of {length} bytes"
        )


def _by_gdcm(path: Path, dataset: Any, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Unpack by GDCM what a copy holds that has neither places nor scales.

    GDCM would apply a scale of its choice, and refuse places that it does not understand.
    """
    import pydicom
    import SimpleITK as sitk

    bare = pydicom.Dataset()
    for element in dataset:
        if element.tag.group in (0x0028, 0x7FE0) and element.tag.element not in SCALES:
            bare.add(element)
    bare.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    bare.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["iterreg"])
    bare.file_meta = pydicom.dataset.FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX) as folder:
        copy = Path(folder) / "slice.dcm"
        bare.save_as(copy, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(copy))
        with quiet_itk(path):
            array = sitk.GetArrayFromImage(reader.Execute())
    if array.size != shape[0] * shape[1] * shape[2]:
        told = " x ".join(map(str, array.shape))
        raise ImageReadError(f"{path}: expected {shape} pixels by its header, got {told}")
    return array.reshape(shape)
