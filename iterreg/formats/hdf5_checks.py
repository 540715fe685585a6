"""ITK's HDF5 transforms, checked before ITK reads them: what they ask for, they have to hold."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iterreg.errors import TransformError

if TYPE_CHECKING:
    import h5py

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")

MOST_PARTS = 1000
MOST_FIXED = 1000
"""No transform needs so many fixed parameters."""

LONGEST_NAME = 1000
HEAP_MARK = b"GCOL\x01\0\0\0"
LARGEST_HEAP = 1 << 24

NUMERIC = (OverflowError, struct.error)
"""What numbers out of range raise."""

SMALL_BYTES = 200_000_000
MOST_UNPACKED = 100
"""Parameters above SMALL_BYTES may not be so many times larger than what the file stores."""


@dataclass
class Part:
    """One transform of a file.

    Args:
        kind: ITK's name of it, with the type of its numbers and its rank.
        count: of its parameters; None if it has none.
        fixed: its fixed parameters.
        has_fixed: whether the file gives any.
    """

    kind: str
    count: int | None = None
    fixed: list[float] = field(default_factory=list)
    has_fixed: bool = False


def hdf5_parts(path: Path) -> list[Part]:
    """Return what an HDF5 file says of its transforms, without their parameters.

    Raises:
        TransformError: no file of ITK, damaged, or larger than what it stores.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            group = file.get("TransformGroup")
            if not isinstance(group, h5py.Group) or len(group) > MOST_PARTS:
                raise TransformError(f"{path}: expected an ITK transform (a group TransformGroup)")
            return [_hdf5_part(path, group, name) for name in sorted(group)]
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, *NUMERIC) as error:
        reason = " ".join(str(error).split())[:200]
        raise TransformError(f"{path}: expected an HDF5 file of ITK, got: {reason!a}") from error


def _hdf5_part(path: Path, group: h5py.Group, name: str) -> Part:
    import h5py

    own = _inside(path, group, name, h5py.Group)
    part = Part(_kind(path, _inside(path, own, "TransformType", h5py.Dataset))[:200])
    for key in ("TransformParameters", "TranformParameters"):
        if key in own:
            part.count = _numbers(path, own, key).size
    for key in ("TransformFixedParameters", "TranformFixedParameters"):
        if key in own:
            numbers = _numbers(path, own, key)
            if numbers.size > MOST_FIXED:
                raise TransformError(f"{path}: expected at most {MOST_FIXED} fixed parameters")
            part.fixed, part.has_fixed = np.asarray(numbers[()], np.float64).tolist(), True
    return part


def _kind(path: Path, named: h5py.Dataset) -> str:
    """The name of a transform's kind."""
    if named.size != 1 or named.dtype.kind not in "SO" or named.dtype.itemsize > LONGEST_NAME:
        raise TransformError(f"{path}: expected the name of a transform's kind")
    if named.dtype.kind == "S":
        stored: bytes = np.asarray(named[()]).ravel()[0]
    else:
        stored = _heap_text(path, named)
    return stored.decode("latin-1").strip("\0 ")


def _heap_text(path: Path, named: h5py.Dataset) -> bytes:
    """A text of variable length, read without the HDF5 library.

    A damaged heap makes the library allocate gigabytes, or search for ever. So the heap is walked
    here first: a text is its length, the heap's address and a number in it.
    """
    offset = named.id.get_offset()
    setup = named.file.id.get_create_plist()
    if offset is None or setup.get_sizes() != (8, 8) or setup.get_userblock():
        raise TransformError(f"{path}: expected an HDF5 file in ITK's layout")
    with path.open("rb") as file:
        file.seek(offset)
        length, address, index = struct.unpack("<IQI", file.read(16))
        room = path.stat().st_size - address
        if room < 16:
            raise TransformError(f"{path}: expected the name of a transform's kind; is it cut?")
        file.seek(address)
        mark, size = struct.unpack("<8sQ", file.read(16))
        if mark != HEAP_MARK or not 16 <= size <= min(room, LARGEST_HEAP):
            raise TransformError(f"{path}: expected a heap of names, got a damaged file")
        heap = file.read(size - 16)
    found = b""
    at = 0
    while at + 16 <= len(heap):
        number, _, _, count = struct.unpack_from("<HHIQ", heap, at)
        if count > len(heap) - at - (16 if number else 0) or (not number and count < 16):
            raise TransformError(f"{path}: expected a heap of names, got a damaged file")
        if number and number == index:
            found = heap[at + 16 : at + 16 + count][:length]
        at += (16 + (count + 7) // 8 * 8) if number else count
    if not found or length > LONGEST_NAME:
        raise TransformError(f"{path}: expected the name of a transform's kind, got none")
    return found


def _inside(path: Path, group: h5py.Group, name: str, wanted: type) -> Any:
    """An entry of the file itself: links to other files are never followed."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise TransformError(f"{path}: expected {name[:40]!a} in the file, got none or a link")
    entry = group[name]
    if not isinstance(entry, wanted):
        raise TransformError(f"{path}: expected {name[:40]!a} in ITK's form")
    return entry


def _numbers(path: Path, group: h5py.Group, name: str) -> h5py.Dataset:
    """A list of numbers that the file really stores."""
    import h5py

    numbers = _inside(path, group, name, h5py.Dataset)
    if numbers.ndim != 1 or numbers.dtype.kind != "f" or numbers.external or numbers.is_virtual:
        raise TransformError(f"{path}: expected a list of numbers as {name}")
    size = numbers.size * numbers.dtype.itemsize
    stored = min(int(numbers.id.get_storage_size()), path.stat().st_size)
    if size > SMALL_BYTES and size > MOST_UNPACKED * stored:
        raise TransformError(
            f"{path}: expected parameters that are stored, got {size / 1e9:.1f} GB of them in "
            f"{stored / 1e6:.1f} MB"
        )
    if numbers.chunks is None and stored < size:
        raise TransformError(f"{path}: expected {numbers.size} numbers as {name}, got fewer")
    return numbers
