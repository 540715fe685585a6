"""NRRD files (``.nrrd``, ``.nhdr``): the header is checked, then ITK reads the voxels."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from iterreg.errors import GeometryError, ImageReadError
from iterreg.geometry import Grid
from iterreg.io.choices import warn_of
from iterreg.io.image_formats import Layer, Stored
from iterreg.io.itk import header_grid, read_itk
from iterreg.io.text_headers import (
    BZIP2,
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
    whole_numbers,
)
from iterreg.texts import without_controls

if TYPE_CHECKING:
    import SimpleITK as sitk

BYTES = {
    1: "signed char|int8|int8_t|uchar|unsigned char|uint8|uint8_t",
    2: "short|short int|signed short|signed short int|int16|int16_t|ushort|unsigned short|"
    "unsigned short int|uint16|uint16_t",
    4: "int|signed int|int32|int32_t|uint|unsigned int|uint32|uint32_t|float",
    8: "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t|"
    "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t|double",
}
"""Bytes of the number types, by all their names."""

PACKED = {"raw": "", "gzip": ZLIB, "gz": ZLIB, "bzip2": BZIP2, "bz2": BZIP2}
TEXT = ("ascii", "text", "txt")
DATA_FILE = ("data file", "datafile")
MOST_AXES = 5

LONGEST_LINE = 1 << 20
"""Bytes of a skipped line that are read at once."""

LONGEST_FIELD = 500
"""Letters of a field's value. ITK's reader damages its own memory above about 600."""

MM_PER_UNIT = {
    "um": 1e-3,
    "\u00b5m": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "micrometer": 1e-3,
    "micrometers": 1e-3,
    "cm": 10.0,
    "m": 1e3,
    "meter": 1e3,
    "meters": 1e3,
}
"""Units of space that are not millimetres."""

PLAIN_SPACES = ("scanner-xyz", "3d-right-handed", "3d-left-handed")
"""Spaces that do not say what their axes are of a patient."""


@dataclass(frozen=True)
class NrrdHeader:
    """The header of a NRRD file.

    Args:
        fields: by name in lower case, with single blanks.
        pairs: what other programs add as ``key:=value``.
        end: byte behind it.
    """

    fields: dict[str, str]
    pairs: dict[str, str] = field(default_factory=dict)
    end: int = 0


def load(path: Path) -> tuple[sitk.Image, Stored]:
    """Read a NRRD file.

    Raises:
        ImageReadError: its header or its data are damaged.
        GeometryError: a spacing that is not positive, or numbers that are not finite.
    """
    header = check_nrrd(path)
    loaded, stored = read_itk(path), Stored()
    layers = segments_of(header)
    if loaded.GetNumberOfComponentsPerPixel() == 1 and layers:
        names = {layer.value: layer.name for layer in layers if layer.name}
        stored = replace(stored, names=names)
    else:
        stored = replace(stored, layers=layers)
    factor, _ = _unit(header.fields)
    if factor != 1:
        loaded.SetSpacing([s * factor for s in loaded.GetSpacing()])
        loaded.SetOrigin([x * factor for x in loaded.GetOrigin()])
    return loaded, replace(stored, notes=_notes(path, header.fields))


def read_grid(path: Path) -> Grid:
    """Read the grid, from the header alone.

    Raises:
        ImageReadError, GeometryError: as :func:`load`.
    """
    fields = check_nrrd(path).fields
    factor, _ = _unit(fields)
    warn_of(_notes(path, fields))
    grid = header_grid(path)
    return replace(
        grid,
        spacing_xyz_mm=tuple(s * factor for s in grid.spacing_xyz_mm),
        origin_lps_mm=tuple(x * factor for x in grid.origin_lps_mm),
    )


def check_nrrd(path: Path) -> NrrdHeader:
    """Check the header against the data.

    Raises:
        ImageReadError, GeometryError: as :func:`load`.
    """
    header = parse_nrrd(path, read_start(path))
    fields = header.fields
    axes = whole_numbers(path, "dimension", fields.get("dimension", ""), 1)[0]
    if axes > MOST_AXES:
        raise ImageReadError(f"{path}: expected 1 to {MOST_AXES} axes, got {axes}")
    sizes = whole_numbers(path, "sizes", fields.get("sizes", ""), axes)
    kind = fields.get("type", "").lower()
    width = next((n for n, names in BYTES.items() if kind in names.split("|")), 0)
    if not width:
        raise ImageReadError(f"{path}: expected a type of numbers, got {shown(kind)}")
    if "spacings" in fields:
        numbers = [w for w in fields["spacings"].split() if w.lower() != "nan"]
        spacing = real_numbers(path, "spacings", " ".join(numbers))
        require_positive(path, "spacings", spacing)
        if not numbers:
            raise GeometryError(f"{path}: expected a positive spacing, got nan")
    for key in ("space directions", "space origin"):
        for vector in re.findall(r"\(([^()]{0,400})\)", fields.get(key, "")):
            entries = real_numbers(path, key, vector.replace(",", " "))
            # Out of this range ITK silently takes a spacing of 1.
            if key == "space directions" and not 1e-30 < math.hypot(*entries) < 1e30:
                told = f"({vector})"
                raise GeometryError(f"{path}: expected a positive spacing, got {key} {told}")
    count = 1
    for n in sizes:
        count *= n
    _check_data(path, header, count, width)
    return header


def parse_nrrd(path: Path, start: bytes) -> NrrdHeader:
    """Split a header into its fields.

    Raises:
        ImageReadError: it is not one.
    """
    if not start.startswith(b"NRRD000"):
        raise ImageReadError(f"{path}: expected a NRRD file, but its content is not one")
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    place = start.find(b"\n") + 1
    while 0 < place < len(start):
        stop = start.find(b"\n", place)
        line = start[place : stop if stop >= 0 else len(start)].rstrip(b"\r")
        place = stop + 1 if stop >= 0 else len(start)
        if not line:
            break
        text = line.decode("utf-8", "replace")
        if text.startswith("#"):
            continue
        key, sign, value = text.partition(":")
        if not sign:
            raise ImageReadError(f"{path}: expected a NRRD header, got the line {shown(text)}")
        if value.startswith("="):
            pairs[key] = value[1:]
            continue
        key = " ".join(key.lower().split())
        if max(len(key), len(value)) > LONGEST_FIELD:
            raise ImageReadError(
                f"{path}: expected at most {LONGEST_FIELD} letters as {shown(key)}, got "
                f"{len(key) + len(value)}"
            )
        if key in fields:
            raise ImageReadError(f"{path}: expected {shown(key)} once in its header, got it twice")
        fields[key] = value.strip()
        if key in DATA_FILE and value.strip().startswith("LIST"):
            break
    return NrrdHeader(fields, pairs, place)


def _check_data(path: Path, header: NrrdHeader, count: int, width: int) -> None:
    fields = header.fields
    named = next((fields[key] for key in DATA_FILE if key in fields), "")
    encoding = fields.get("encoding", "").lower()
    if encoding not in (*PACKED, *TEXT):
        raise ImageReadError(
            f"{path}: expected an encoding of raw, gzip, bzip2 or text, got {shown(encoding)}"
        )
    if named.startswith("LIST"):
        sizes = [int(n) for n in fields["sizes"].split()]
        files = listed_files(path, path.read_bytes()[header.end :], sizes, named[4:].strip())
        for each in files:
            part = DataPart(each, 0, PACKED.get(encoding, ""))
            if encoding in PACKED and not any(k.endswith("skip") for k in fields):
                require_whole(path, part, count * width // len(files))
        return
    file, start = (data_file(path, named), 0) if named else (path, header.end)
    packed = PACKED.get(encoding, "")
    skipped = 0
    for key in ("line skip", "lineskip", "byte skip", "byteskip"):
        told = fields.get(key, "0")
        if told == "-1" and key.startswith("byte") and encoding == "raw":
            start = max(start, file.stat().st_size - count * width)
        elif not (told.isascii() and told.isdigit() and len(told) < 12):
            raise ImageReadError(f"{path}: expected 0 or more as {key}, got {shown(told)}")
        elif key.startswith("line"):
            start = _behind_lines(path, file, start, int(told))
        elif packed:
            skipped += int(told)  # of the unpacked bytes
        else:
            start += int(told)
    part = DataPart(file, start, packed)
    if encoding in TEXT:
        numbers_as_text(path, part, count)
        return
    require_whole(path, part, skipped + count * width)


def _behind_lines(path: Path, file: Path, start: int, lines: int) -> int:
    """The byte behind so many lines; lines come before the data are unpacked."""
    with file.open("rb") as content:
        content.seek(start)
        for number in range(lines):
            while line := content.readline(LONGEST_LINE):
                if line.endswith(b"\n"):
                    break
            else:
                raise ImageReadError(
                    f"{path}: expected {lines} lines to skip before its data, got {number}"
                )
        return content.tell()


def segments_of(header: NrrdHeader) -> tuple[Layer, ...]:
    """The segments that 3D Slicer lists in a header (``.seg.nrrd``)."""
    found = []
    stacked = header.fields.get("dimension") == "4"
    numbers = [match[1] for key in header.pairs if (match := _SEGMENT.fullmatch(key))]
    for number in dict.fromkeys(numbers):

        def whole(name: str, usual: int, number: str = number) -> int:
            told = header.pairs.get(f"Segment{number}_{name}", "").strip()
            return int(told) if told.isascii() and told.isdigit() and len(told) < 9 else usual

        name = without_controls(header.pairs.get(f"Segment{number}_Name", ""))
        layer = whole("Layer", int(number) if stacked else 0)
        found.append(Layer(layer, whole("LabelValue", 1), name))
    return tuple(found)


_SEGMENT = re.compile(r"Segment([0-9]{1,5})_(?:ID|Name|LabelValue)")


def _notes(path: Path, fields: dict[str, str]) -> tuple[str, ...]:
    """What the header leaves open, and units that were turned into mm."""
    notes = []
    factor, name = _unit(fields)
    if factor != 1:
        notes.append(f"{path}: its header gives lengths in {name}: taken as {factor:g} mm each")
    if not {"spacings", "space directions"} & set(fields):
        notes.append(f"{path}: its header does not say how large its voxels are: taken as 1 mm")
    if fields.get("dimension") != "2" and fields.get("space", "").lower() in ("", *PLAIN_SPACES):
        notes.append(
            f"{path}: its header does not say which way its axes run (space): taken as LPS; left "
            "and right may be exchanged"
        )
    return tuple(notes)


def _unit(fields: dict[str, str]) -> tuple[float, str]:
    """Millimetres of the unit of space, and its name."""
    units = {u.lower() for u in re.findall(r'"([^"]{0,40})"', fields.get("space units", ""))}
    name = next(iter(units), "")
    return (MM_PER_UNIT.get(name, 1.0) if len(units) == 1 else 1.0), name
