"""Files that never make room for more bytes than they have, or than they explain."""

from __future__ import annotations

import io
import os
from pathlib import Path

from iterreg.errors import ImageReadError

SMALL_BYTES = 400_000_000
MOST_RATIO = 900
"""Voxels of more than SMALL_BYTES may not be so many times larger than the packed file. gzip
reaches 1030, for one value everywhere."""


def require_explained(path: Path, count: int, stored: int) -> None:
    """Refuse a small file that unpacks to gigabytes of nothing.

    Args:
        path: for the message.
        count: bytes of the voxels.
        stored: bytes of the packed file.

    Raises:
        ImageReadError: it does.
    """
    if count > SMALL_BYTES and count > MOST_RATIO * stored:
        raise ImageReadError(
            f"{path}: truncated, or without content: expected {count} bytes of voxels by its "
            f"header, got a packed file of {stored} bytes"
        )


class BoundedFile(io.BufferedReader):
    """A file to read, whatever length its header claims.

    Python makes room for the bytes that are asked for before it reads them; a damaged length would
    take gigabytes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._length = os.path.getsize(path)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to so many bytes; None or a negative number reads all."""
        left = max(0, self._length - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))
