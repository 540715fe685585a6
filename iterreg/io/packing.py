"""Compression of what is written, by ISA-L: five times as fast as zlib at the same size.

No time stamp is stored, so that equal results are equal files.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 1 << 22
LEVEL = 1
GZIP_BITS = 31
"""Window bits that ask for the header and the checksum of gzip."""


def gzip_file(source: Path, target: Path) -> None:
    """Compress a file.

    Raises:
        OSError: the target cannot be written.

    Example:
        >>> import gzip
        >>> written = Path("numbers.txt").write_text("1 2 3")
        >>> gzip_file(Path("numbers.txt"), Path("numbers.txt.gz"))
        >>> gzip.decompress(Path("numbers.txt.gz").read_bytes())
        b'1 2 3'
    """
    from isal import isal_zlib

    deflate = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, GZIP_BITS)
    with source.open("rb") as plain, target.open("wb") as packed:
        while chunk := plain.read(CHUNK_BYTES):
            packed.write(deflate.compress(chunk))
        packed.write(deflate.flush())


def shuffled_and_deflated(numbers: NDArray[np.float32]) -> bytes:
    """The bytes of a chunk behind HDF5's filters shuffle and deflate.

    The first bytes of all numbers come first, then the second ones, ...: neighbours share their
    sign and exponent.

    Args:
        numbers: any shape.

    Example:
        >>> import zlib
        >>> zlib.decompress(shuffled_and_deflated(np.array([1, -1], np.float32)))
        b'\\x00\\x00\\x00\\x00\\x80\\x80?\\xbf'
    """
    from isal import isal_zlib

    planes = np.ascontiguousarray(numbers, "<f4").view(np.uint8).reshape(-1, 4).T
    packed: bytes = isal_zlib.compress(np.ascontiguousarray(planes), LEVEL)
    return packed


def in_steps(numbers: NDArray[np.floating[Any]], most_step: float) -> NDArray[np.float32]:
    """Numbers as float32, rounded to multiples of a step.

    Args:
        numbers: any shape.
        most_step: the step is the largest power of two that is not above it, so that multiples are
            exact and their last bits are zero; 0 for no rounding.

    Example:
        >>> in_steps(np.array([0.3, -0.3]), 0.4).tolist()
        [0.25, -0.25]
    """
    if most_step == 0:
        return numbers.astype(np.float32, copy=False)
    step = 2.0 ** math.floor(math.log2(most_step))
    rounded: NDArray[np.float32] = (np.rint(numbers / step) * step).astype(np.float32)
    return rounded
