"""What all objects share: patient and study of a reference, identifiers, and how to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iterreg.atomic import write_aside
from iterreg.errors import ImageContentError
from iterreg.io.dicom import Volume
from iterreg.io.dicom.files import read_header
from iterreg.io.dicom.frames import Frame
from iterreg.versions import own_version

COPIED = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Of the fixed series: all objects belong to its patient and study."""

NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")

IN_PLANE_MM = 0.1
"""A contour whose points are nearer to a slice lies in it."""

MANUFACTURER = "iterreg"


@dataclass(frozen=True)
class Slice:
    """A slice of a series, and where it lies.

    Args:
        kind, uid: class and UID of its file.
        frame: its number in the file, from 1; None if the file holds no other.
        position: LPS mm, of its first pixel's centre.
        normal: unit vector across it, LPS.
    """

    kind: str
    uid: str
    frame: int | None
    position: NDArray[np.float64]
    normal: NDArray[np.float64]

    def holds(self, points: NDArray[np.float64]) -> bool:
        """Whether points (n, 3), LPS mm, lie in its plane."""
        return bool(np.abs((points - self.position) @ self.normal).max() < IN_PLANE_MM)


@dataclass(frozen=True)
class Series:
    """A DICOM series that a result was made from.

    Args:
        header: of its first file, without pixels.
        instances: class and UID of each file.
        slices: where each lies.
    """

    header: Any
    instances: tuple[tuple[str, str], ...]
    slices: tuple[Slice, ...] = ()

    @classmethod
    def of(cls, volume: Volume, role: str) -> Series:
        """Read the headers of a volume.

        Raises:
            ImageContentError: it does not say in which space it lies.
        """
        files = list(dict.fromkeys(frame.file for frame in volume.frames))
        headers = [read_header(file) for file in files]
        missing = [name for name in NEEDED if not headers[0].get(name)]
        if missing:
            raise ImageContentError(f"{files[0]}: {role}: expected {missing[0]}, got none")
        names = {
            f: (str(h.SOPClassUID), str(h.SOPInstanceUID))
            for f, h in zip(files, headers, strict=True)
        }
        slices = (_slice(frame, *names[frame.file]) for frame in volume.frames)
        return cls(headers[0], tuple(sorted(names.values())), tuple(s for s in slices if s))

    @property
    def frame_of_reference(self) -> str:
        """The identifier of its space."""
        return str(self.header.FrameOfReferenceUID)


def _slice(frame: Frame, kind: str, uid: str) -> Slice | None:
    if frame.position is None or frame.axes is None:
        return None
    axes = np.asarray(frame.axes, float)
    number = frame.index + 1 if frame.count > 1 else None
    return Slice(kind, uid, number, np.asarray(frame.position), np.cross(axes[:3], axes[3:]))


def new_object(reference: Series, kind: str, modality: str, description: str, key: str) -> Any:
    """Begin an object of the fixed series' patient and study.

    Args:
        reference: the fixed series.
        kind: UID of its class.
        modality: such as ``REG``.
        description: of its series.
        key: what it is made from; the same key gives the same identifiers.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(kind)
    meta.MediaStorageSOPInstanceUID = UID(uid_of(key, "instance"))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made: Any = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for name in COPIED:
        value = reference.header.get(name)
        if value is not None or name not in ("SpecificCharacterSet",):
            setattr(made, name, value if value is not None else "")
    now = datetime.now()
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid_of(key, "instance")
    made.InstanceCreationDate, made.InstanceCreationTime = _date(now)
    made.Modality, made.SeriesInstanceUID = modality, uid_of(key, "series")
    made.SeriesNumber, made.InstanceNumber = 900, 1
    made.SeriesDate, made.SeriesTime = _date(now)
    made.SeriesDescription = description
    made.Manufacturer = made.ManufacturerModelName = MANUFACTURER
    made.DeviceSerialNumber, made.SoftwareVersions = "none", own_version()
    made.OperatorsName = ""
    if not modality.startswith("RT"):  # their series module has none
        made.Laterality = ""
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = reference.frame_of_reference, ""
    return made


def _date(now: datetime) -> tuple[str, str]:
    return now.strftime("%Y%m%d"), now.strftime("%H%M%S")


def uid_of(*keys: str) -> str:
    """Make an identifier of some texts, always the same for the same.

    Example:
        >>> uid_of("a", "b") == uid_of("a", "b"), uid_of("a", "c") == uid_of("a", "b")
        (True, False)
    """
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["iterreg", *keys]))


def item(**values: Any) -> Any:
    """Make an item of a sequence; lists under names of sequences become sequences."""
    from pydicom.dataset import Dataset

    made = Dataset()
    for name, value in values.items():
        setattr(made, name, items(*value) if name.endswith("Sequence") else value)
    return made


def items(*made: Any) -> Any:
    """Make a sequence."""
    from pydicom.sequence import Sequence as Items

    return Items(made)


def references(series: Series) -> list[Any]:
    """Make the items that name all instances of a series."""
    return [
        item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=uid)
        for kind, uid in series.instances
    ]


def decimals(values: Sequence[float] | NDArray[np.floating[Any]]) -> list[str]:
    """Numbers as DICOM's decimal strings, at most 16 letters each.

    Example:
        >>> decimals([1.0, -1234.56789012345678])
        ['1', '-1234.56789012']
    """
    return [_decimal(float(value)) for value in values]


def _decimal(value: float) -> str:
    value = 0.0 if abs(value) < 1e-12 else value
    for digits in range(12, 3, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{value:.4g}"


def save(made: Any, path: Path) -> None:
    """Write an object, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    write_aside(path, lambda target: made.save_as(target, enforce_file_format=True))
