"""Output that appears whole or not at all: files and folders are completed aside, then moved."""

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
"""Names of the hidden folders in which files are completed before they appear."""


def write_aside(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file in a hidden folder, then move it in place; failure leaves nothing.

    Args:
        path: the final file. Its folder must exist.
        write: called with a path of the same name in the hidden folder. Companion files that it
            makes there (the .raw of an .mhd) move too.

    Raises:
        OutputError: the folder is missing or not writable, or the file cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: expected a file to write, got a folder")
    staging = _make_staging(path.parent, path)
    try:
        write(staging / path.name)
        # The header goes last: while it is absent, nobody reads a half-moved pair.
        for file in sorted(staging.iterdir(), key=lambda f: f.name == path.name):
            os.replace(file, path.parent / file.name)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path}: cannot be written: {last_line(str(error))}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        OutputError: as :func:`write_aside`.
    """
    write_aside(path, lambda target: _written(target, text))


def write_json(
    path: str | Path, tables: Mapping[str, Any], *, indent: int = 2, allow_nan: bool = False
) -> None:
    """Write tables as indented JSON, whole or not at all.

    Args:
        path: the file.
        tables: plain values.
        indent: spaces per level.
        allow_nan: write NaN and infinity as Python spells them; JSON itself has neither.

    Raises:
        OutputError: as :func:`write_aside`.
        ValueError: NaN or infinity without ``allow_nan``.

    Example:
        >>> write_json("scores.json", {"dice": 0.9})
        >>> print(Path("scores.json").read_text())
        {
          "dice": 0.9
        }
        <BLANKLINE>
    """
    write_text(path, json.dumps(tables, indent=indent, allow_nan=allow_nan) + "\n")


def _written(target: Path, text: str) -> None:
    target.write_text(text, encoding="utf-8")


def _make_staging(folder: Path, wanted: Path) -> Path:
    if not folder.is_dir():
        raise OutputError(f"{wanted}: cannot be written: the folder {folder} does not exist")
    try:
        return Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=folder))
    except OSError as error:
        raise OutputError(f"{wanted}: cannot be written: {error.strerror or error}") from error


def last_line(message: str) -> str:
    """The last line of a message that says anything."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


class OutputFolder:
    """A folder of results that appears whole or not at all.

    Used as a context manager::

        with OutputFolder("out") as out:
            write_image(warped, out.path("warped.nii.gz"))

    Files are made in a hidden folder inside it and move in place when the block ends. After an
    exception or Ctrl-C none of them is left, and earlier content of the folder is untouched.

    Args:
        folder: created, with its parents, if it does not exist.
        overwrite: allow a folder that holds files already: files of the same name are replaced,
            others stay.

    Raises:
        OutputError: on entering, if the folder cannot be written, is a file, or holds files and
            ``overwrite`` is False; on leaving, if the files cannot be moved in place.
    """

    def __init__(self, folder: str | Path, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self._overwrite = overwrite
        self._made: list[Path] = []
        self._staging: Path | None = None

    def __enter__(self) -> OutputFolder:
        if self.folder.exists() and not self.folder.is_dir():
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
        """Where to write the result called ``name``; folders in the name are made.

        Raises:
            OutputError: outside the ``with`` block, or a name that leaves the folder.
        """
        if self._staging is None:
            raise OutputError(f"{self.folder}: results are written inside the with block only")
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
                self._move_in_place()
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
        if self._overwrite or not self.folder.exists():
            return
        held = [f.name for f in self.folder.iterdir() if not f.name.startswith(STAGING_PREFIX)]
        if held:
            raise OutputError(
                f"{self.folder}: expected an empty folder, got one with {len(held)} entries "
                f"({min(held)}); ask for overwriting to replace files of the same name"
            )

    def _make_folders(self) -> None:
        missing = [f for f in (self.folder, *self.folder.parents) if not f.exists()]
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

    def _move_in_place(self) -> None:
        """Move each file, keeping what it replaces until all are moved; undo all on failure."""
        assert self._staging is not None
        new, old = self._staging / "new", self._staging / "old"
        moves = [(f, f.relative_to(new)) for f in sorted(new.rglob("*")) if f.is_file()]
        begun: list[Path] = []
        made: list[Path] = []
        try:
            for source, name in moves:
                target, kept = self.folder / name, old / name
                made += [f for f in target.parents if not f.exists()]
                target.parent.mkdir(parents=True, exist_ok=True)
                kept.parent.mkdir(parents=True, exist_ok=True)
                begun.append(name)
                if target.exists():
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
        if kept.exists():
            os.replace(kept, target)
        elif not source.exists():
            target.unlink(missing_ok=True)
