"""Text headers of MetaImage and NRRD files: split into fields, and checked against their data.

ITK takes some wrong headers for a whole image, and crashes on others, so nothing reaches it before
every number that decides about memory is known to make sense.
"""

from __future__ import annotations

import bz2
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from iterreg.errors import GeometryError, ImageReadError
from iterreg.io.bounded import require_explained
from iterreg.io.nifti_header import MOST_AXIS

LONGEST_HEADER = 1 << 22
"""Bytes; segmentations list hundreds of segments in theirs."""

PIECE_BYTES = 1 << 20

ZLIB, BZIP2 = "zlib", "bzip2"


@dataclass(frozen=True)
class DataPart:
    """Where the voxels of a header are.

    Args:
        file: that holds them.
        start: byte where they begin.
        packed: ``zlib`` (also gzip), ``bzip2``, or empty.
    """

    file: Path
    start: int = 0
    packed: str = ""


def read_start(path: Path) -> bytes:
    """The first bytes of a file, enough for any header."""
    with path.open("rb") as file:
        return file.read(LONGEST_HEADER)


def whole_numbers(path: Path, key: str, value: str, count: int | None = None) -> list[int]:
    """The numbers of a field, each at least 1.

    Raises:
        ImageReadError: they are not, or not so many.
    """
    words = value.split()
    if not all(w.isascii() and w.isdigit() and len(w) < 12 for w in words) or (
        count not in (None, len(words))
    ):
        many = "whole numbers" if count is None else f"{count} whole number(s)"
        raise ImageReadError(f"{path}: expected {many} as {key}, got {shown(value)}")
    numbers = [int(w) for w in words]
    if not all(0 < n < MOST_AXIS for n in numbers):
        raise ImageReadError(f"{path}: expected numbers above 0 as {key}, got {shown(value)}")
    return numbers


def real_numbers(path: Path, key: str, value: str, count: int | None = None) -> list[float]:
    """The numbers of a field, all finite.

    Raises:
        GeometryError: they are not, or not so many.
    """
    try:
        numbers = [float(w) for w in value.split()]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)) or count not in (None, len(numbers)):
        many = "finite numbers" if count is None else f"{count} finite number(s)"
        raise GeometryError(f"{path}: expected {many} as {key}, got {shown(value)}")
    return numbers


def require_positive(path: Path, key: str, numbers: Iterable[float]) -> None:
    """Refuse a spacing that is not positive: ITK would turn it into a flip of the axis."""
    if any(n <= 0 for n in numbers):
        told = " ".join(f"{n:g}" for n in numbers)
        raise GeometryError(f"{path}: expected a positive spacing, got {key} {told}")


def data_file(path: Path, name: str) -> Path:
    """The file of the voxels that a header names.

    Raises:
        ImageReadError: it is missing, or named by a pattern.
    """
    if "%" in name:
        raise ImageReadError(
            f"{path}: expected the name of a data file, got the pattern {shown(name)}: such files "
            "are not read; write the image into one file"
        )
    file = path.parent / name
    if not name or not os.path.isfile(file):
        raise ImageReadError(f"{path}: expected the data file {shown(name)} beside it")
    return file


def listed_files(path: Path, lines: bytes, sizes: Sequence[int], told: str) -> list[Path]:
    """The data files that follow ``LIST`` in a header, one a line.

    Args:
        path: of the header.
        lines: what follows.
        sizes: voxels along each axis, the fastest first.
        told: what follows the word LIST: how many axes each file holds, or nothing.

    Raises:
        ImageReadError: they are missing, or not as many as the image has slices.
    """
    names = [line.strip() for line in lines.decode("latin-1").split("\n") if line.strip()]
    held = int(told) if told.isascii() and told.isdigit() and len(told) < 2 else len(sizes) - 1
    if not 0 < held <= len(sizes) or told.strip("0123456789"):
        raise ImageReadError(f"{path}: expected LIST and a number of axes, got {shown(told)}")
    count = 1
    for n in sizes[held:]:
        count *= n
    if len(names) != count:
        raise ImageReadError(
            f"{path}: expected a LIST of {count} data files by its size, got {len(names)}"
        )
    return [data_file(path, name) for name in names]


def require_whole(path: Path, part: DataPart, count: int) -> None:
    """Refuse data that are cut, damaged, or not packed although the header says so.

    Args:
        path: of the header, for messages.
        part: where the voxels are.
        count: bytes that they take when unpacked.

    Raises:
        ImageReadError: in these cases.
    """
    if part.packed:
        for _ in unpacked(path, part, count):
            pass
        return
    stored = part.file.stat().st_size - part.start
    if stored < count:
        raise _truncated(path, count, max(0, stored))


def unpacked(path: Path, part: DataPart, count: int) -> Iterator[bytes]:
    """The bytes of the voxels, so many and no more.

    Raises:
        ImageReadError: as :func:`require_whole`.
    """
    if part.packed:
        require_explained(path, count, part.file.stat().st_size)
    got = 0
    try:
        with part.file.open("rb") as file:
            file.seek(part.start)
            for piece in _expanded(file, part.packed):
                yield piece[: count - got]
                got += len(piece)
                if got >= count:
                    return
    except (zlib.error, OSError, ValueError, EOFError) as error:
        raise ImageReadError(
            f"{path}: expected {part.packed} data by its header, but they are not: {error}"
        ) from error
    raise _truncated(path, count, got)


def _expanded(file: IO[bytes], packed: str) -> Iterator[bytes]:
    """Pieces of a file, unpacked; never more than a piece at a time."""
    if not packed:
        while piece := file.read(PIECE_BYTES):
            yield piece
        return
    if packed == BZIP2:
        bunzip = bz2.BZ2Decompressor()
        while not bunzip.eof and (bunzip.needs_input is False or (piece := file.read(PIECE_BYTES))):
            yield bunzip.decompress(piece if bunzip.needs_input else b"", PIECE_BYTES)
        return
    inflate = zlib.decompressobj(47)
    while not inflate.eof and (piece := inflate.unconsumed_tail or file.read(PIECE_BYTES)):
        yield inflate.decompress(piece, PIECE_BYTES)


def _truncated(path: Path, count: int, got: int) -> ImageReadError:
    return ImageReadError(
        f"{path}: truncated: expected {count} bytes of voxels by its header, got {got}"
    )


def numbers_as_text(path: Path, part: DataPart, count: int) -> list[str]:
    """Voxels that are written as text.

    Raises:
        ImageReadError: they are too few or no numbers.
    """
    found: list[str] = []
    with part.file.open("rb") as file:
        file.seek(part.start)
        while len(found) < count and (line := file.readline(PIECE_BYTES)):
            words = line.decode("latin-1").split()
            try:
                [float(word) for word in words]
            except ValueError as error:
                raise ImageReadError(
                    f"{path}: expected voxels as numbers, got {shown(line.decode('latin-1'))}"
                ) from error
            found += words
    if len(found) < count:
        raise ImageReadError(
            f"{path}: truncated: expected {count} voxels as text, got {len(found)}"
        )
    return found[:count]


def shown(text: str) -> str:
    """A text of a file as a message may show it."""
    short = text.strip()[:60]
    return ascii(short) if not short.isprintable() or not short else short
