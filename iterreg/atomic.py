"""Write files so that they appear whole or not at all. Nothing here knows about images.

A file is completed in a hidden folder on the same disk and then moved into place, which the file
system does in one step.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from iterreg.errors import OutputError

STAGING_PREFIX = ".iterreg-"
"""Start of the names of the hidden folders in which files are completed."""


def write_aside(path: str | Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` to make a file in a hidden folder, then move the file into place.

    If ``write`` fails, nothing of the new file is left and an old file stays as it was.

    Args:
        path: the final file. Its folder must exist.
        write: called with a path of the same name in the hidden folder, its suffix in lower case.
            Companion files that it makes there (the .raw of an .mhd) are moved too.

    Raises:
        OutputError: the folder is missing or not writable, or the file cannot be made.

    Example:
        >>> write_aside("greeting.txt", lambda new: new.write_bytes(b"hello"))
        >>> Path("greeting.txt").read_text()
        'hello'
    """
    path = Path(path)
    if os.path.isdir(path):
        raise OutputError(f"{path}: expected a file to write, got a folder")
    staging = _make_staging(path.parent, path)
    aside = staging / _lower_suffix(path.name)
    try:
        write(aside)
        # The header goes last: as long as it is absent, nobody reads a half-moved pair of files.
        for file in sorted(staging.iterdir(), key=lambda f: f == aside):
            os.replace(file, path if file == aside else path.parent / file.name)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path}: cannot be written: {last_line(str(error))}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _lower_suffix(name: str) -> str:
    """The name with its suffix in lower case: libraries choose the format by it."""
    lower = name.lower()
    suffix = ".nii.gz" if lower.endswith(".nii.gz") else Path(lower).suffix
    return name[: len(name) - len(suffix)] + suffix


def write_text(text: str, path: str | Path) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        OutputError: as :func:`write_aside`.
    """

    def write(target: Path) -> None:
        target.write_text(text, encoding="utf-8")

    write_aside(path, write)


def write_json(
    tables: Mapping[str, Any], path: str | Path, *, indent: int | None = 2, allow_nan: bool = False
) -> None:
    """Write tables as JSON, whole or not at all.

    Args:
        tables: what to write.
        path: the file.
        indent: spaces for each level; None writes everything in one line without spaces.
        allow_nan: write NaN and Infinity as Python spells them. They are not JSON.

    Raises:
        OutputError: as :func:`write_aside`.
        ValueError: the tables hold NaN or Infinity, and ``allow_nan`` is False.

    Example:
        >>> write_json({"cases": 3}, "cases.json", indent=None)
        >>> Path("cases.json").read_text()
        '{"cases":3}\\n'
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(tables, indent=indent, allow_nan=allow_nan, separators=separators)
    write_text(text + "\n", path)


def last_line(message: str) -> str:
    """Return the last line with text: the one in which ITK gives the reason.

    Example:
        >>> last_line("Exception thrown in ITK:\\n  disk full\\n")
        'disk full'
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


class OutputFolder:
    """A folder of results that appears whole or not at all.

    Use it as a context manager. Files are made in a hidden folder inside it and moved into place
    when the block ends. After an exception or Ctrl-C none of them is left, and the files that were
    in the folder before are untouched.

    Args:
        folder: made, with its parents, if it does not exist.
        overwrite: accept a folder that already holds files. Files of the same name are replaced,
            the others stay.

    Raises:
        OutputError: on entering, if the folder cannot be written, is a file, or holds files and
            ``overwrite`` is False; on leaving, if the files cannot be moved into place.

    Example:
        >>> with OutputFolder("results") as out:
        ...     write_text("3 cases", out.path("report.txt"))
        >>> Path("results/report.txt").read_text()
        '3 cases'
    """

    def __init__(self, folder: str | Path, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self._overwrite = overwrite
        self._made: list[Path] = []
        self._staging: Path | None = None

    def __enter__(self) -> OutputFolder:
        if os.path.exists(self.folder) and not os.path.isdir(self.folder):
            raise OutputError(f"{self.folder}: expected a folder for the results, got a file")
        try:
            self._require_free()
            self._make_folders()
            self._staging = _make_staging(self.folder, self.folder)
        except BaseException as error:
            self._remove_made()
            if isinstance(error, OSError):
                reason = error.strerror or str(error)
                raise OutputError(f"{self.folder}: cannot be written: {reason}") from error
            raise
        return self

    def path(self, name: str) -> Path:
        """Return where to write the result called ``name``; folders in the name are made.

        Raises:
            OutputError: called outside the ``with`` block, or the name leads out of the folder.
        """
        if self._staging is None:
            raise OutputError(f"{self.folder}: results can only be written inside the with block")
        target = self._staging / "new" / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise OutputError(f"{self.folder}: expected a name inside the folder, got {name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = kind is not None
        try:
            if not failed:
                failed = True
                self._move_into_place()
                failed = False
        except OSError as problem:
            raise OutputError(f"{self.folder}: cannot be written: {problem}") from problem
        finally:
            if self._staging is not None:
                shutil.rmtree(self._staging, ignore_errors=True)
                self._staging = None
            if failed:
                self._remove_made()

    def _require_free(self) -> None:
        if self._overwrite or not os.path.exists(self.folder):
            return
        entries = [f.name for f in self.folder.iterdir() if not f.name.startswith(STAGING_PREFIX)]
        if entries:
            raise OutputError(
                f"{self.folder}: expected an empty folder, got one with {len(entries)} entries "
                f"({min(entries)}); ask for overwriting to replace files of the same name"
            )

    def _make_folders(self) -> None:
        missing = [f for f in (self.folder, *self.folder.parents) if not os.path.exists(f)]
        for folder in reversed(missing):
            folder.mkdir()
            self._made.append(folder)

    def _remove_made(self) -> None:
        for folder in reversed(self._made):
            try:
                folder.rmdir()
            except OSError:
                return
        self._made.clear()

    def _move_into_place(self) -> None:
        """Move each file; keep what it replaces until all are moved, and undo all on failure."""
        assert self._staging is not None
        new, old = self._staging / "new", self._staging / "old"
        moves = [(f, f.relative_to(new)) for f in sorted(new.rglob("*")) if os.path.isfile(f)]
        begun: list[Path] = []
        made: list[Path] = []
        try:
            for source, name in moves:
                target, kept = self.folder / name, old / name
                made += [f for f in target.parents if not os.path.exists(f)]
                target.parent.mkdir(parents=True, exist_ok=True)
                kept.parent.mkdir(parents=True, exist_ok=True)
                begun.append(name)
                if os.path.exists(target):
                    os.replace(target, kept)
                os.replace(source, target)
        except BaseException:
            for name in begun:
                self._put_back(new / name, old / name, self.folder / name)
            for folder in sorted(made, key=lambda f: -len(f.parts)):
                shutil.rmtree(folder, ignore_errors=True)
            raise

    @staticmethod
    def _put_back(source: Path, kept: Path, target: Path) -> None:
        if os.path.exists(kept):
            os.replace(kept, target)
        elif not os.path.exists(source):
            target.unlink(missing_ok=True)


def _make_staging(folder: Path, target: Path) -> Path:
    if not os.path.isdir(folder):
        raise OutputError(f"{target}: cannot be written: the folder {folder} does not exist")
    try:
        return Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=folder))
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
