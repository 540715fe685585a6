"""Copy a stream, but never more than a limit: a zip may claim to be smaller than it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from iterreg.errors import ImageContentError, OutputError

PIECE_BYTES = 1 << 20


def copy_limited(source: IO[bytes], target: Path, limit: int) -> None:
    """Copy a stream to a file, but never more than ``limit`` bytes.

    Raises:
        ImageContentError: there is more.
        OutputError: the file cannot be written.
    """
    with _writing(target), target.open("wb") as file:
        while piece := source.read(PIECE_BYTES):
            limit -= len(piece)
            if limit < 0:
                raise ImageContentError(f"{target.name}: larger than a field of this shape can be")
            with _writing(target):
                file.write(piece)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:  # the zip's, not the system's
            raise
        reason = error.strerror or error
        raise OutputError(
            f"{target.parent}: temporary files cannot be written: {reason}; TMPDIR names another "
            "folder"
        ) from error
