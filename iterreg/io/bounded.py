"""Files that never make room for more bytes than they have."""

from __future__ import annotations

import io
import os
from pathlib import Path


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
