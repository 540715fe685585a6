"""Facts that are read from the first bytes of a file alone."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iterreg.errors import ImageReadError, TransformError
from iterreg.io import extension_of

NIFTI_SUFFIXES = (".nii", ".nii.gz")
START_BYTES = 65536
LONGEST_TEXT = 1_000_000
"""Bytes of a text file with the numbers of a linear transform; none needs so many."""


@dataclass(frozen=True)
class NiftiHead:
    """What a NIfTI header says of its content.

    Args:
        shape: of the array, nibabel's order.
        intent_code, intent_name, intent_p1: what the numbers are.
        is_afni: whether AFNI left its marks beside the header.
        data_bytes: of the array, as the header states it.
    """

    shape: tuple[int, ...]
    intent_code: int
    intent_name: str
    intent_p1: float
    is_afni: bool
    data_bytes: int


def nifti_head(path: Path) -> NiftiHead | None:
    """Return what a NIfTI file says of itself, or None if the suffix is not NIfTI's.

    Raises:
        ImageReadError: the file is missing or unreadable.
    """
    if extension_of(path) not in NIFTI_SUFFIXES:
        return None
    import nibabel

    try:
        start = _unpacked_start(path)
        sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
        kinds: dict[int, Any] = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
        size = next((n for n in kinds if n in sizes), 0)
        if not size or len(start) < size:
            raise ImageReadError(f"{path}: expected a NIfTI file, but its content is not one")
        header: Any = kinds[size](start[:size], check=False)
        shape = tuple(int(n) for n in header.get_data_shape())
        return NiftiHead(
            shape,
            int(header["intent_code"]),
            header["intent_name"].item().decode("latin-1").strip("\0 "),
            float(header["intent_p1"]),
            b"<AFNI_attributes" in start,
            math.prod(shape) * int(header["bitpix"]) // 8,
        )
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise ImageReadError(f"{path}: cannot be read: {error}") from error
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise ImageReadError(f"{path}: cannot be read: {error}") from error


def _unpacked_start(path: Path) -> bytes:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed:
        return first_bytes(path)
    with gzip.open(path) as inflated:
        return inflated.read(START_BYTES)


def nifti_shape(path: Path) -> tuple[int, ...] | None:
    """Return the shape in a NIfTI file's header, or None if the suffix is not NIfTI's.

    Raises:
        ImageReadError: the file is missing or unreadable.
    """
    head = nifti_head(path)
    return None if head is None else head.shape


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape in words.

    Example:
        >>> shape_text((390, 280, 300, 3))
        '390 x 280 x 300 x 3'
    """
    return " x ".join(map(str, shape)) or "a single number"


def first_bytes(path: Path) -> bytes:
    """Return the start of a file, as it is stored.

    Raises:
        ImageReadError: the file is missing or unreadable.
    """
    try:
        with path.open("rb") as file:
            return file.read(START_BYTES)
    except OSError as error:
        raise ImageReadError(f"{path}: cannot be read: {error.strerror or error}") from error


def short_text(path: Path) -> str:
    """Return the text of a small file.

    Raises:
        ImageReadError: the file is missing or unreadable.
        TransformError: it is no text, or longer than a linear transform is.
    """
    if path.stat().st_size > LONGEST_TEXT:
        raise TransformError(
            f"{path}: expected a linear transform in text, got {path.stat().st_size} bytes"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageReadError(f"{path}: cannot be read: {error.strerror or error}") from error
    if b"\0" in content:
        raise TransformError(f"{path}: expected a linear transform in text, got a binary file")
    return content.decode("latin-1")
