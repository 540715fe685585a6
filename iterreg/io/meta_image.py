"""MetaImage files (``.mha``, ``.mhd``), read from their bytes.

ITK's reader trusts a header: more axes than it has room for, or a ``%`` in the name of the data
file, make it write where it must not, and data that cannot be unpacked become an image of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import GeometryError, ImageContentError, ImageReadError
from iterreg.geometry import Grid
from iterreg.io.choices import warn_of
from iterreg.io.image_formats import Stored
from iterreg.io.text_headers import (
    ZLIB,
    DataPart,
    data_file,
    listed_files,
    numbers_as_text,
    read_start,
    real_numbers,
    require_positive,
    require_whole,
    shown,
    unpacked,
    whole_numbers,
)

if TYPE_CHECKING:
    import SimpleITK as sitk

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}

LONGEST_LINE = 4000
"""Letters. A longer line is damage."""

MOST_AXES = 4
MOST_CHANNELS = 1000
LAST_KEY = "ElementDataFile"
MM_PER_UNIT = {"um": 1e-3, "cm": 10.0}
"""Values of DistanceUnits that are not millimetres."""

SPACING = ("ElementSpacing", "ElementSize")
ORIGIN = ("Offset", "Origin", "Position")
DIRECTION = ("TransformMatrix", "Rotation", "Orientation")
TAKEN = ((SPACING, "voxels of 1 mm"), (DIRECTION, "LPS axes"), (ORIGIN, "the origin 0"))
"""Keys of the geometry, and what ITK takes where none of them is there."""

SCALE = {"Slope": ("", "1"), "Offset": ("", "0")}
"""Parts of the scale of intensities, which ITK does not apply, and what changes nothing."""

TRUE, FALSE = ("true", "1"), ("false", "0")


@dataclass(frozen=True)
class MetaHeader:
    """A header whose numbers are known to make sense.

    Args:
        sizes: voxels along each axis, x first.
        channels: numbers per voxel.
        dtype: of a number.
        parts: where the voxels are, as many in each.
        as_text: whether they are written as text.
        spacing, origin: x first, mm.
        direction: (axes, axes), the axes as columns.
        notes: what the user should know.
    """

    sizes: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]
    parts: tuple[DataPart, ...]
    as_text: bool
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: NDArray[np.float64]
    notes: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many numbers are stored."""
        total = self.channels
        for n in self.sizes:
            total *= n
        return total

    @property
    def part_bytes(self) -> int:
        """How many bytes each part holds."""
        return self.count * self.dtype.itemsize // len(self.parts)


def load(path: Path) -> tuple[sitk.Image, Stored]:
    """Read a MetaImage.

    Raises:
        ImageReadError: its header or its data are damaged.
        ImageContentError: a line of numbers, which is no image.
        GeometryError: a spacing that is not positive, or numbers that are not finite.
    """
    import SimpleITK as sitk

    header = parse_meta_image(path)
    shape = tuple(reversed(header.sizes))
    if header.as_text:
        share = header.count // len(header.parts)
        words = [w for part in header.parts for w in numbers_as_text(path, part, share)]
        kind = float if header.dtype.kind == "f" else int
        try:
            values = np.array([kind(word) for word in words], header.dtype)
        except (ValueError, OverflowError) as error:
            raise ImageReadError(f"{path}: expected voxels of {header.dtype.name}") from error
    else:
        content = bytearray()
        for part in header.parts:
            for piece in unpacked(path, part, header.part_bytes):
                content += piece
        values = np.frombuffer(content, header.dtype)
    values = values.astype(header.dtype.newbyteorder("="), copy=False)
    array = values.reshape(shape if header.channels == 1 else (*shape, header.channels))
    image = sitk.GetImageFromArray(array, isVector=header.channels > 1)
    image.SetSpacing(header.spacing)
    image.SetOrigin(header.origin)
    image.SetDirection(header.direction.ravel().tolist())
    return image, Stored(notes=header.notes)


def read_grid(path: Path) -> Grid:
    """Read the grid, from the header alone.

    Raises:
        ImageReadError, ImageContentError, GeometryError: as :func:`load`.
    """
    header = parse_meta_image(path)
    if len(header.sizes) > 3:
        raise ImageContentError(f"{path}: {len(header.sizes)}-D, expected one volume")
    for part in () if header.as_text else header.parts:
        require_whole(path, part, header.part_bytes)
    warn_of(header.notes)
    rows = tuple(tuple(row) for row in header.direction.tolist())
    return Grid(tuple(reversed(header.sizes)), header.spacing, header.origin, rows)


def parse_meta_image(path: Path) -> MetaHeader:
    """Read and check a header.

    Raises:
        ImageReadError, ImageContentError, GeometryError: as :func:`load`.
    """
    fields, end = _fields(path, read_start(path))
    axes = whole_numbers(path, "NDims", fields.get("NDims", ""), 1)[0]
    if axes > MOST_AXES:
        raise ImageReadError(f"{path}: expected NDims from 1 to {MOST_AXES}, got {axes}")
    if axes < 2:
        raise ImageContentError(f"{path}: 1-D, expected a picture or a volume")
    sizes = tuple(whole_numbers(path, "DimSize", fields.get("DimSize", ""), axes))
    kind = fields.get("ElementType", "")
    if kind not in TYPES:
        raise ImageReadError(f"{path}: expected an ElementType of numbers, got {shown(kind)}")
    key = "ElementNumberOfChannels"
    channels = whole_numbers(path, key, fields.get(key, "1"), 1)[0]
    if channels > MOST_CHANNELS:
        raise ImageReadError(f"{path}: expected at most {MOST_CHANNELS} channels, got {channels}")
    flags = {_flag(path, fields, k) for k in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")}
    dtype = np.dtype((">" if True in flags else "<") + TYPES[kind])
    count = channels * dtype.itemsize
    for n in sizes:
        count *= n
    return MetaHeader(
        sizes,
        channels,
        dtype,
        _data_parts(path, fields, end, count),
        _flag(path, fields, "BinaryData", True) is False
        and not _flag(path, fields, "CompressedData"),
        *_geometry(path, fields, axes),
        _notes(path, fields),
    )


def _notes(path: Path, fields: dict[str, str]) -> tuple[str, ...]:
    """What the header leaves open, or says and is not heard."""
    notes = []
    taken = [words for keys, words in TAKEN if not any(key in fields for key in keys)]
    if taken:
        notes.append(
            f"{path}: its header does not say where the voxels are: taken as {', '.join(taken)}"
        )
    unit = fields.get("DistanceUnits", "")
    if unit in MM_PER_UNIT:
        factor = MM_PER_UNIT[unit]
        notes.append(f"{path}: its header gives lengths in {unit}: taken as {factor:g} mm each")
    function = [fields.get(f"ElementToIntensityFunction{part}", "") for part in SCALE]
    if any(told not in usual for told, usual in zip(function, SCALE.values(), strict=True)):
        notes.append(f"{path}: its header has a scale of intensities, which is not applied")
    return tuple(notes)


def _flag(path: Path, fields: dict[str, str], key: str, usual: bool = False) -> bool:
    told = fields.get(key, str(usual)).lower()
    if told not in TRUE + FALSE:
        raise ImageReadError(f"{path}: expected True or False as {key}, got {shown(told)}")
    return told in TRUE


def _geometry(
    path: Path, fields: dict[str, str], axes: int
) -> tuple[tuple[float, ...], tuple[float, ...], NDArray[np.float64]]:
    """Spacing, origin and direction."""

    def numbers(keys: tuple[str, ...], usual: list[float]) -> list[float]:
        for key in keys:
            if key in fields:
                return real_numbers(path, key, fields[key], len(usual))
        return usual

    factor = MM_PER_UNIT.get(fields.get("DistanceUnits", ""), 1.0)
    spacing = [s * factor for s in numbers(SPACING, [1.0] * axes)]
    require_positive(path, "ElementSpacing", spacing)
    origin = [x * factor for x in numbers(ORIGIN, [0.0] * axes)]
    rows = numbers(DIRECTION, np.eye(axes).ravel().tolist())
    direction = np.array(rows).reshape(axes, axes).T
    if not np.allclose(direction.T @ direction, np.eye(axes), atol=1e-3):
        raise GeometryError(f"{path}: expected orthogonal axes of length 1 as TransformMatrix")
    return tuple(spacing), tuple(origin), direction


def _fields(path: Path, start: bytes) -> tuple[dict[str, str], int]:
    """The fields, and the byte behind the header."""
    fields: dict[str, str] = {}
    place = 0
    while LAST_KEY not in fields:
        stop = start.find(b"\n", place)
        line = start[place : stop if stop >= 0 else len(start)]
        key, sign, value = line.decode("latin-1").replace(":", "=", 1).partition("=")
        key = key.strip()
        if len(line) > LONGEST_LINE or not sign or not key:
            raise ImageReadError(f"{path}: expected a MetaImage, but its content is not one")
        if key in fields:
            raise ImageReadError(f"{path}: expected {key} once in its header, got it twice")
        fields[key] = value.strip()
        place = stop + 1 if stop >= 0 else len(start)
        if place >= len(start) and LAST_KEY not in fields:
            raise ImageReadError(f"{path}: expected a MetaImage, but its header has no {LAST_KEY}")
    return fields, place


def _data_parts(path: Path, fields: dict[str, str], end: int, length: int) -> tuple[DataPart, ...]:
    named = fields[LAST_KEY]
    packed = ZLIB if _flag(path, fields, "CompressedData") else ""
    if named.upper().startswith("LIST"):
        sizes = [int(n) for n in fields["DimSize"].split()]
        told = named[4:].strip().upper().removesuffix("D")
        files = listed_files(path, path.read_bytes()[end:], sizes, told)
        share = length // len(files)
        return tuple(DataPart(f, _skipped(path, f, fields, share), packed) for f in files)
    if named.upper() in ("LOCAL", "LOCAL_DATA"):
        return (DataPart(path, end, packed),)
    file = data_file(path, named)
    return (DataPart(file, _skipped(path, file, fields, length), packed),)


def _skipped(path: Path, file: Path, fields: dict[str, str], length: int) -> int:
    """Bytes of the data file before its voxels; -1 means that the voxels end the file."""
    told = fields.get("HeaderSize", "0")
    if told == "-1":
        return max(0, file.stat().st_size - length)
    if not (told.isascii() and told.isdigit() and len(told) < 12):
        raise ImageReadError(f"{path}: expected a HeaderSize of 0 or more, got {shown(told)}")
    return int(told)
