"""Where a result comes from: the command line, the date, and the SHA-256 of every input file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

HEADER_BYTES = 1 << 16
"""The text header of a MetaImage or NRRD file is not longer than this."""

TEXT_HEADERS = (".mha", ".mhd", ".nrrd", ".nhdr")
DATA_FILE_KEYS = ("elementdatafile", "data file", "datafile")
LOCAL = "local"


class Provenance:
    """The command line, the date and the inputs of a result.

    Files are hashed in the background from the moment this is made, while they are in the cache.

    Args:
        inputs: the file or folder of each input, by its role; None for one that lay in memory.
        command_line: program and arguments; None from Python.

    Example:
        >>> _ = Path("scan.nii").write_bytes(b"abc")
        >>> found = Provenance({"fixed": "scan.nii"}).tables()
        >>> found["inputs"]["fixed"]["sha256"][:8], found["command_line"]
        ('ba7816bf', None)
    """

    def __init__(
        self, inputs: Mapping[str, str | Path | None], command_line: Sequence[str] | None = None
    ) -> None:
        self._command_line = None if command_line is None else list(command_line)
        self._date = datetime.now().astimezone().isoformat(timespec="seconds")
        self._inputs = dict(inputs)
        pool = ThreadPoolExecutor(1)
        self._digests = {
            role: pool.submit(sha256_of, Path(file))
            for role, file in inputs.items()
            if file is not None
        }
        pool.shutdown(wait=False)

    def tables(self) -> dict[str, Any]:
        """``command_line``, ``date`` and ``inputs`` of ``run.json``; waits for the digests."""
        inputs: dict[str, dict[str, str | None]] = {}
        for role, file in self._inputs.items():
            inputs[role] = {"file": None, "sha256": None}
            if file is not None:
                inputs[role] = {"file": str(file), "sha256": self._digests[role].result()}
        return {"command_line": self._command_line, "date": self._date, "inputs": inputs}


def sha256_of(path: Path) -> str | None:
    """Compute the SHA-256 of an input.

    One file: of its bytes, as ``sha256sum FILE`` prints it. Several files (a DICOM folder, or a
    header whose data lie in a file of its own): of the lines ``DIGEST  NAME`` of all files in the
    order of their names, as ``sha256sum FILES | sha256sum`` prints it. A folder's files are all
    below it whose names do not begin with a dot; a name is the path from the folder.

    Args:
        path: a file or a folder.

    Returns:
        64 hexadecimal digits; None if a file cannot be read, or a header spreads its data over
        several files.

    Example:
        >>> _ = Path("scan.nii").write_bytes(b"abc")
        >>> sha256_of(Path("scan.nii"))[:8]
        'ba7816bf'
    """
    try:
        files = _files_of(path)
        base = path if os.path.isdir(path) else path.parent
        digests = {os.path.relpath(file, base): _sha256_of_file(file) for file in files}
    except OSError:
        return None
    if len(digests) < 2:
        return next(iter(digests.values()), None)
    names = sorted(digests, key=os.fsencode)
    lines = (f"{digests[name]}  ".encode() + os.fsencode(name) + b"\n" for name in names)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_of(path: Path) -> list[Path]:
    if os.path.isdir(path):
        below = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
        return [f for f in below if not f.name.startswith(".") and os.path.isfile(f)]
    if path.suffix.lower() not in TEXT_HEADERS:
        return [path]
    data = _data_file(path)
    if data.lower() == LOCAL:
        return [path]
    # A list or a pattern of files is the name of none, and opening it fails.
    return [path, path.parent / data]


def _data_file(path: Path) -> str:
    """The data file that a text header names, or ``LOCAL`` if the data follow the header."""
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    for line in start.split(b"\n"):
        text = line.decode("latin-1").strip()
        key, _, value = text.replace(":", "=", 1).partition("=")
        if key.strip().lower() in DATA_FILE_KEYS:
            return value.strip()
        if not text:
            break
    return LOCAL
