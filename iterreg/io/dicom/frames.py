"""DICOM files and their frames: what each says about itself, without its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from iterreg.errors import ImageReadError
from iterreg.io.dicom.files import quiet_pydicom
from iterreg.texts import without_controls

NO_IMAGES = ("SEG", "RTSTRUCT", "PR")
"""Modalities of files that have no intensities."""

PHASE_KEYS = (
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NominalPercentageOfCardiacPhase",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "EchoNumbers",
    "EchoTime",
    "DiffusionBValue",
    "AcquisitionNumber",
    "AcquisitionTime",
    "ContentTime",
    "ImageType",
)
"""What may tell the images at one place apart, the most telling first."""


@dataclass(frozen=True)
class About:
    """What all images of a series share.

    Args:
        uid, study: its unique identifiers.
        number: as the scanner counts, or empty.
        description, date, modality: as in its files, or empty.
    """

    uid: str
    study: str = ""
    number: str = ""
    description: str = ""
    date: str = ""
    modality: str = ""


@dataclass(frozen=True)
class Frame:
    """One slice.

    Args:
        file: that holds it.
        index: of the frame in its file.
        count: frames in that file.
        rows, columns: its size.
        position: LPS mm, of its first pixel's centre; None if it is not told.
        axes: direction of its rows, then of its columns; None if it is not told.
        spacing: mm between rows, then between columns; None if it is not told.
        scale: slope and intercept.
        kind: the values of ImageType.
        instance: its number in the series.
        uid: of the file's object.
        thickness: mm, or 0.
        phase: what may tell it from others at its place.
    """

    file: Path
    index: int
    count: int
    rows: int
    columns: int
    position: tuple[float, ...] | None
    axes: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    scale: tuple[float, float] = (1.0, 0.0)
    kind: str = ""
    instance: int = 0
    uid: str = ""
    thickness: float = 0.0
    phase: dict[str, str] = field(default_factory=dict)

    @property
    def plane(self) -> str:
        """Its plane in words."""
        if self.axes is None:
            return "no plane"
        normal = np.cross(self.axes[:3], self.axes[3:])
        return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal)))]


def about(path: Path, dataset: Any) -> About:
    """What a file says about its series.

    Raises:
        ImageReadError: its elements are damaged.
    """

    def text(name: str) -> str:
        with quiet_pydicom(path):
            return without_controls(str(dataset.get(name, "") or ""))

    date = text("SeriesDate") or text("AcquisitionDate") or text("StudyDate")
    if len(date) == 8 and date.isdigit():
        date = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    description = text("SeriesDescription") or text("ProtocolName")
    return About(
        text("SeriesInstanceUID"),
        text("StudyInstanceUID"),
        text("SeriesNumber"),
        description,
        date,
        text("Modality"),
    )


def frames_of(path: Path, dataset: Any) -> list[Frame]:
    """The slices of a file; none if it holds no image.

    Raises:
        ImageReadError: its numbers make no sense.
    """
    return [] if modality(path, dataset) in NO_IMAGES else read_frames(path, dataset)


def modality(path: Path, dataset: Any) -> str:
    """What kind of object a file holds: ``CT``, ``MR``, ``SEG``, ``RTSTRUCT``, ...

    Raises:
        ImageReadError: the file is damaged.
    """
    with quiet_pydicom(path):
        return without_controls(str(dataset.get("Modality", "") or ""))[:16]


def read_frames(path: Path, dataset: Any) -> list[Frame]:
    """The slices of a file, of a segmentation too.

    Raises:
        ImageReadError: its numbers make no sense.
    """
    with quiet_pydicom(path):
        rows, columns = int(dataset.get("Rows", 0) or 0), int(dataset.get("Columns", 0) or 0)
        if not rows or not columns:
            return []
        count = int(dataset.get("NumberOfFrames", 1) or 1)
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
        if groups and len(groups) != count:
            raise ImageReadError(
                f"{path}: expected {count} frames, got the places of {len(groups)}"
            )
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
        own = [[g, shared, dataset] for g in groups] or [[dataset]] * count
        return [_frame(path, k, (rows, columns, count), sources) for k, sources in enumerate(own)]


def _frame(path: Path, index: int, size: tuple[int, int, int], sources: list[Any]) -> Frame:
    rows, columns, count = size
    dataset = sources[-1]

    def numbers(name: str, sequence: str, many: int) -> tuple[float, ...] | None:
        value = _find(sources, name, sequence)
        if value is None:
            return None
        found = tuple(float(v) for v in (value if hasattr(value, "__iter__") else [value]))
        if len(found) != many or not all(map(math.isfinite, found)):
            raise ImageReadError(f"{path}: expected {many} finite numbers as {name}, got {value}")
        return found

    slope = numbers("RescaleSlope", "PixelValueTransformationSequence", 1) or (1.0,)
    intercept = numbers("RescaleIntercept", "PixelValueTransformationSequence", 1) or (0.0,)
    thickness = numbers("SliceThickness", "PixelMeasuresSequence", 1) or (0.0,)
    position = numbers("ImagePositionPatient", "PlanePositionSequence", 3)
    if count > 1 and len(sources) == 1:
        position = None  # Such a file tells the place of its first frame alone.
    phase = {}
    for key in PHASE_KEYS:
        value = _find(sources, key, _PHASE_SEQUENCES.get(key, "FrameContentSequence"))
        if value not in (None, ""):
            phase[key] = without_controls(str(value))
    return Frame(
        path,
        index,
        count,
        rows,
        columns,
        position,
        numbers("ImageOrientationPatient", "PlaneOrientationSequence", 6),
        numbers("PixelSpacing", "PixelMeasuresSequence", 2),
        (slope[0], intercept[0]),
        " ".join(map(str, dataset.get("ImageType", ()) or ())).upper(),
        int(dataset.get("InstanceNumber", 0) or 0),
        str(dataset.get("SOPInstanceUID", "")),
        thickness[0],
        phase,
    )


_PHASE_SEQUENCES = {
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "EchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
}


def _find(sources: list[Any], name: str, sequence: str) -> Any:
    """An element of a frame: in its own group, in the shared one, or in the file."""
    for source in sources:
        if source is None:
            continue
        if sequence in source and len(source[sequence].value):
            value = source[sequence].value[0].get(name)
            if value not in (None, ""):
                return value
        value = source.get(name)
        if value not in (None, ""):
            return value
    return None
