"""DICOM files made from an image, as scanners write them: by pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import pack_bits
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.2.1125"
INTERCEPT = -1024


def base(uid: str, number: int, sop: str = CTImageStorage, **more: Any) -> FileDataset:
    """A file of a series, without its image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop)
    meta.MediaStorageSOPInstanceUID = UID(f"{uid}.{number}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = UID(sop), UID(f"{uid}.{number}")
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = UID(uid), UID(f"{ROOT}.9")
    dataset.Modality, dataset.PatientName, dataset.PatientID = "CT", "Test", "0"
    dataset.InstanceNumber, dataset.SeriesNumber = number, 1
    for key, value in more.items():
        setattr(dataset, key, value)
    return dataset


def pixels(dataset: Dataset, values: np.ndarray, scale: tuple[float, float]) -> None:
    """Put intensities into a file: 16 bits, unsigned."""
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    stored = np.rint((values - scale[1]) / scale[0])
    dataset.PixelData = np.clip(stored, 0, 65535).astype("<u2").tobytes()


def decimals(values: Any) -> list[str]:
    """Numbers as DICOM's decimal strings."""
    return [f"{v:.8g}" for v in values]


def write_slice(
    path: Path,
    values: np.ndarray,
    position: Any,
    number: int,
    *,
    uid: str = f"{ROOT}.1",
    axes: Any = (1, 0, 0, 0, 1, 0),
    spacing: tuple[float, float] = (4.0, 4.0),
    slope: float = 1.0,
    **more: Any,
) -> FileDataset:
    """Write one slice."""
    dataset = base(uid, number, **more)
    dataset.RescaleSlope, dataset.RescaleIntercept = str(slope), str(INTERCEPT)
    dataset.ImagePositionPatient = decimals(position)
    dataset.ImageOrientationPatient = decimals(axes)
    dataset.PixelSpacing = decimals(spacing)
    if "SliceThickness" not in dataset:
        dataset.SliceThickness = "4"
    pixels(dataset, values, (slope, INTERCEPT))
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def write_series(folder: Path, image: sitk.Image, **more: Any) -> list[Path]:
    """Write every slice of an image whose axes are LPS, or those of ``slices``."""
    values = sitk.GetArrayFromImage(image).astype(float)
    origin, spacing = np.array(image.GetOrigin()), image.GetSpacing()
    prefix, suffix = more.pop("prefix", "IM"), more.pop("suffix", ".dcm")
    first = more.pop("first", 1)
    paths = []
    for n, z in enumerate(more.pop("slices", range(len(values)))):
        paths.append(folder / f"{prefix}{n:04d}{suffix}")
        place = origin + np.array((0, 0, z * spacing[2]))
        write_slice(paths[-1], values[z], place, first + n, spacing=spacing[1::-1], **more)
    return paths


def write_tilted(folder: Path, image: sitk.Image, degrees: float, **more: Any) -> None:
    """Slices as a tilted gantry takes them: each in a plane turned about x, moved along z."""
    size, spacing, origin = image.GetSize(), image.GetSpacing(), np.array(image.GetOrigin())
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    for z in range(size[2]):
        place = origin + np.array((0, 0, z * spacing[2] - size[1] * spacing[1] * s / 2))
        plane = sitk.Image(size[0], size[1], 1, sitk.sitkFloat32)
        plane.SetSpacing(spacing)
        plane.SetOrigin(place.tolist())
        plane.SetDirection((1, 0, 0, 0, c, -s, 0, s, c))
        cut = sitk.Resample(image, plane, sitk.Transform(), sitk.sitkLinear, -1000.0)
        values = sitk.GetArrayFromImage(cut)[0].astype(float)
        write_slice(
            folder / f"IM{z:04d}.dcm",
            values,
            place,
            z + 1,
            axes=(1, 0, 0, 0, c, s),
            spacing=spacing[1::-1],
            **more,
        )


def write_enhanced(
    path: Path, image: sitk.Image, *, phases: int = 1, slopes: Any = None, **more: Any
) -> FileDataset:
    """All slices in one file, last slice first; phase k is the image plus 100 k."""
    values = sitk.GetArrayFromImage(image).astype(float)
    origin, spacing = np.array(image.GetOrigin()), image.GetSpacing()
    dataset = base(f"{ROOT}.7", 1, sop=EnhancedCTImageStorage, **more)
    frames, stored = [], []
    for phase in range(phases):
        for z in reversed(range(len(values))):
            frame, place, content = Dataset(), Dataset(), Dataset()
            place.ImagePositionPatient = decimals(origin + np.array((0, 0, z * spacing[2])))
            frame.PlanePositionSequence = Sequence([place])
            content.TemporalPositionIndex = phase + 1
            frame.FrameContentSequence = Sequence([content])
            slope = 1.0 if slopes is None else slopes[z]
            transformation = Dataset()
            transformation.RescaleSlope = f"{slope:.6g}"
            transformation.RescaleIntercept = str(INTERCEPT)
            frame.PixelValueTransformationSequence = Sequence([transformation])
            frames.append(frame)
            stored.append(np.rint((values[z] + 100 * phase - INTERCEPT) / slope))
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    measures.PixelSpacing = decimals(spacing[1::-1])
    measures.SliceThickness = f"{spacing[2]:g}"
    shared.PlaneOrientationSequence = Sequence([plane])
    shared.PixelMeasuresSequence = Sequence([measures])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    dataset.NumberOfFrames = len(frames)
    pixels(dataset, np.stack(stored), (1.0, 0.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def write_segmentation(path: Path, masks: dict[str, np.ndarray], grid: Any, kind: str) -> None:
    """A segmentation object on a ``Grid``; slices without a voxel are left out, as usual."""
    dataset = base(f"{ROOT}.5", 1, sop="1.2.840.10008.5.1.4.1.1.66.4", Modality="SEG")
    dataset.SegmentationType = kind
    dataset.SegmentSequence, frames, planes = Sequence(), [], []
    for number, (name, mask) in enumerate(masks.items(), 1):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, name
        dataset.SegmentSequence.append(segment)
        for z in np.flatnonzero(mask.any((1, 2))):
            frame, place, identity = Dataset(), Dataset(), Dataset()
            origin = np.array(grid.origin_lps_mm) + np.array((0, 0, z * grid.spacing_xyz_mm[2]))
            place.ImagePositionPatient = decimals(origin)
            identity.ReferencedSegmentNumber = number
            frame.PlanePositionSequence = Sequence([place])
            frame.SegmentIdentificationSequence = Sequence([identity])
            frames.append(frame)
            planes.append(mask[z])
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    measures.PixelSpacing = decimals(grid.spacing_xyz_mm[1::-1])
    measures.SliceThickness = str(grid.spacing_xyz_mm[2])
    shared.PlaneOrientationSequence = Sequence([plane])
    shared.PixelMeasuresSequence = Sequence([measures])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    stack = np.stack(planes).astype(np.uint8)
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = stack.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelRepresentation = 0
    if kind == "BINARY":
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
        dataset.PixelData = pack_bits(stack)
    else:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.MaximumFractionalValue = 200
        content = (stack * 150 + 20).tobytes()
        dataset.PixelData = content + bytes(len(content) % 2)
    dataset.save_as(path, enforce_file_format=True)


def plan_reference() -> Sequence:
    """Names the plan of a dose."""
    plan = Dataset()
    plan.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"
    plan.ReferencedSOPInstanceUID = f"{ROOT}.9"
    return Sequence([plan])


def write_dose(path: Path, dose_gy: sitk.Image, frame: str, scale: float, **more: Any) -> None:
    """A dose of a plan, 32 bits a voxel, on the grid of an image; ``scale`` in Gy a count."""
    columns, rows, planes = dose_gy.GetSize()
    spacing_x, spacing_y, spacing_z = dose_gy.GetSpacing()
    axes = np.array(dose_gy.GetDirection()).reshape(3, 3)
    dataset = base(f"{ROOT}.8", 1, sop="1.2.840.10008.5.1.4.1.1.481.2", **more)
    dataset.Modality, dataset.FrameOfReferenceUID = "RTDOSE", frame
    dataset.ImagePositionPatient = decimals(dose_gy.GetOrigin())
    dataset.ImageOrientationPatient = decimals([*axes[:, 0], *axes[:, 1]])
    dataset.PixelSpacing = decimals((spacing_y, spacing_x))
    dataset.GridFrameOffsetVector = decimals(np.arange(planes) * spacing_z)
    dataset.DoseGridScaling, dataset.DoseUnits, dataset.DoseType = str(scale), "GY", "PHYSICAL"
    dataset.ReferencedRTPlanSequence = plan_reference()
    dataset.DoseSummationType, dataset.NumberOfFrames = "PLAN", planes
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 32, 31
    dataset.PixelRepresentation = 0
    counts = np.rint(sitk.GetArrayFromImage(dose_gy) / scale)
    dataset.PixelData = counts.astype("<u4").tobytes()
    dataset.save_as(path, enforce_file_format=True)


def write_structures(path: Path, contours: dict[str, list[np.ndarray]]) -> None:
    """A structure set; each contour is (points, 3), LPS mm."""
    dataset = base(f"{ROOT}.6", 1, sop="1.2.840.10008.5.1.4.1.1.481.3", Modality="RTSTRUCT")
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Sequence(), Sequence()
    for number, (name, outlines) in enumerate(contours.items(), 1):
        structure, drawn = Dataset(), Dataset()
        structure.ROINumber, structure.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, Sequence()
        for outline in outlines:
            item = Dataset()
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(outline)
            item.ContourData = decimals(np.ravel(outline))
            drawn.ContourSequence.append(item)
        dataset.StructureSetROISequence.append(structure)
        dataset.ROIContourSequence.append(drawn)
    dataset.save_as(path, enforce_file_format=True)
