"""DICOM files and their frames: what each says about itself, without its pixels."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iterreg.errors import ImageReadError
from iterreg.texts import without_controls

MAGIC_AT = 128
MAGIC = b"DICM"
SUFFIXES = ("", ".dcm", ".dicom", ".ima", ".img")
"""Of files that may be DICOM although they lack the preamble."""

DIRECTORY = "DICOMDIR"
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


@contextmanager
def quiet_pydicom(path: Path) -> Iterator[None]:
    """Turn what pydicom raises on damage into one line, and keep its warnings to itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImageReadError, MemoryError):
        raise
    except Exception as error:  # Damaged files make pydicom raise nearly anything.
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageReadError(f"{path}: expected a whole DICOM file, got: {told}") from error


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    try:
        with path.open("rb") as file:
            return file.read(MAGIC_AT + 4)[MAGIC_AT:] == MAGIC
    except OSError:
        return False


def find_files(place: Path) -> list[Path]:
    """All DICOM files of a folder and of those in it, or those that a DICOMDIR names.

    Raises:
        ImageReadError: a DICOMDIR that cannot be read.
    """
    if not os.path.isdir(place):
        return _listed(place) if place.name.upper().startswith(DIRECTORY) else [place]
    found = []
    for folder, below, names in os.walk(place):
        below.sort()
        found += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
    files = [f for f in found if not f.name.upper().startswith(DIRECTORY)]
    return [f for f in files if is_dicom(f) or _is_bare(f)]


def _listed(place: Path) -> list[Path]:
    """The files that a DICOMDIR names."""
    dataset = read_header(place)
    with quiet_pydicom(place):
        names = [
            record.ReferencedFileID
            for record in dataset.get("DirectoryRecordSequence", ())
            if "ReferencedFileID" in record
        ]
    files = [place.parent.joinpath(*([n] if isinstance(n, str) else map(str, n))) for n in names]
    missing = [f for f in files if not os.path.isfile(f)]
    if missing or not files:
        what = f"{len(missing)} of {len(files)} are missing: {missing[0]}" if missing else "none"
        raise ImageReadError(f"{place}: expected the files that it names, but {what}")
    return files


def _is_bare(path: Path) -> bool:
    """Whether a file without the preamble is DICOM nevertheless."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return False
    # The first element of such a file is of group 2 or 8, in either byte order.
    return start[:2] in (b"\x02\0", b"\x08\0", b"\0\x08") and start[2:4] != b"\0\0"


def read_header(path: Path) -> Any:
    """A file's elements without its pixels.

    Raises:
        ImageReadError: it is damaged.
    """
    import pydicom

    with quiet_pydicom(path):
        return pydicom.dcmread(path, stop_before_pixels=True, force=not is_dicom(path))


def about(dataset: Any) -> About:
    """What a file says about its series."""

    def text(name: str) -> str:
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
    return [] if modality(dataset) in NO_IMAGES else read_frames(path, dataset)


def modality(dataset: Any) -> str:
    """What kind of object a file holds: ``CT``, ``MR``, ``SEG``, ``RTSTRUCT``, ..."""
    return str(dataset.get("Modality", "") or "")


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
