"""Copy a stream, but never more than a limit: a zip may claim to be smaller than it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO

from iterreg.errors import ImageContentError


def copy_limited(source: IO[bytes], target: Path, limit: int) -> None:
    """Copy a stream to a file, but never more than ``limit`` bytes.

    Raises:
        ImageContentError: there is more.
    """
    with target.open("wb") as file:
        shutil.copyfileobj(_Limited(source, limit, target.name), file, 1 << 20)


class _Limited:
    def __init__(self, source: IO[bytes], limit: int, name: str) -> None:
        self._source, self._left, self._name = source, limit, name

    def read(self, size: int = -1) -> bytes:
        piece = self._source.read(size)
        self._left -= len(piece)
        if self._left < 0:
            raise ImageContentError(f"{self._name}: larger than a field of this shape can be")
        return piece
