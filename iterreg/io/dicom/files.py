"""DICOM files: found, opened, and what pydicom raises on damage in one line."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iterreg.errors import ImageReadError, IterregError
from iterreg.io.bounded import BoundedFile

MAGIC_AT = 128
MAGIC = b"DICM"
SUFFIXES = ("", ".dcm", ".dicom", ".ima", ".img")
"""Of files that may be DICOM although they lack the preamble."""

DIRECTORY = "DICOMDIR"

MOST_FILES = 100_000
"""In a folder; a study of 4-D images has some ten thousand."""


@contextmanager
def quiet_pydicom(path: Path) -> Iterator[None]:
    """Turn what pydicom raises on damage into one line, and keep its warnings to itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (IterregError, MemoryError):
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
        ImageReadError: a DICOMDIR that cannot be read, or a folder of too many files.
    """
    if not os.path.isdir(place):
        return _listed(place) if place.name.upper().startswith(DIRECTORY) else [place]
    found: list[Path] = []
    for folder, below, names in os.walk(place):
        below.sort()
        paths = (Path(folder) / name for name in sorted(names) if not name.startswith("."))
        found += [path for path in paths if _has_content(path)]
        if len(found) > MOST_FILES:
            raise ImageReadError(
                f"{place}: expected a folder of DICOM files, got one of more than {MOST_FILES} "
                "files of all kinds: name the folder of one study"
            )
    files = [f for f in found if not f.name.upper().startswith(DIRECTORY)]
    return [f for f in files if is_dicom(f) or is_bare(f)]


def _has_content(path: Path) -> bool:
    """Whether a file is a plain one that is not empty; reading a device or a pipe may never end."""
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


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


def is_bare(path: Path) -> bool:
    """Whether a file without the preamble begins with the elements of a DICOM file."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return False
    # The first element of such a file is of group 2 or 8, in either byte order. Element 0 holds the
    # length of its group: four bytes.
    is_length = start[4:] in (b"UL\x04\0", b"UL\0\x04", b"\x04\0\0\0", b"\0\0\0\x04")
    known = start[:2] in (b"\x02\0", b"\x08\0", b"\0\x08")
    return known and (is_length or start[2:4] != b"\0\0")


def read_header(path: Path) -> Any:
    """A file's elements without its pixels.

    Raises:
        ImageReadError: it is damaged.
    """
    return read_dataset(path, stop_before_pixels=True)


def read_dataset(path: Path, stop_before_pixels: bool = False) -> Any:
    """All elements of a file.

    Raises:
        ImageReadError: it is damaged.
    """
    import pydicom

    with quiet_pydicom(path), BoundedFile(path) as file:
        return pydicom.dcmread(
            file, stop_before_pixels=stop_before_pixels, force=not is_dicom(path)
        )
