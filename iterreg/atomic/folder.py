"""A folder of results that appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from iterreg.atomic.moves import move_into_place, record
from iterreg.atomic.staging import STAGING_PREFIX, Staging, clear_stale, lock_folder, note_made
from iterreg.errors import NO_ROOM, OutputError


class OutputFolder:
    """A folder of results that appears whole or not at all.

    Use it as a context manager. Files are made in a hidden folder inside it and moved into place
    when the block ends. After an exception or Ctrl-C none of them is left, and the files that were
    in the folder before are untouched. If the process is killed, the next one that writes into the
    folder clears it first. ``run.json`` comes last and goes first: where it is, all files are
    whole.

    Args:
        folder: made, with its parents, if it does not exist.
        overwrite: accept a folder that already holds files. Files of the same name are replaced,
            the others stay.

    Raises:
        OutputError: on entering, if the folder cannot be written, is a file, or holds files and
            ``overwrite`` is False; on leaving, if the files cannot be moved into place.

    Example:
        >>> from iterreg.atomic import write_text
        >>> with OutputFolder("results") as out:
        ...     write_text("3 cases", out.path("report.txt"))
        >>> Path("results/report.txt").read_text()
        '3 cases'
    """

    def __init__(self, folder: str | Path, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self._overwrite = overwrite
        self._made: list[Path] = []
        self._staging: Staging | None = None
        self._lock: int | None = None

    def __enter__(self) -> OutputFolder:
        if os.path.exists(self.folder) and not os.path.isdir(self.folder):
            raise OutputError(f"{self.folder}: expected a folder for the results, got a file")
        try:
            self._make_folders()
            self._lock = lock_folder(self.folder)
            clear_stale(self.folder)
            self._require_free()
            self._staging = Staging(self.folder, self.folder)
            (self._staging.path / "new").mkdir()
        except BaseException as error:
            self._leave(failed=True)
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
        target = self._staging.path / "new" / name
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
                assert self._staging is not None
                failed = True
                move_into_place(self._staging.path, self.folder)
                failed = False
                record(self.folder)
        except OSError as problem:
            raise self._not_written(problem) from problem
        finally:
            self._leave(failed)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> OutputError:
        return OutputError(f"{self.folder}: cannot be written: {error.strerror or error}")

    def _leave(self, failed: bool) -> None:
        """Remove the hidden folder, give up the lock, and undo what was made for nothing."""
        if self._staging is not None:
            self._staging.remove()
            self._staging = None
        if failed:
            self._remove_made()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _require_free(self) -> None:
        if self._overwrite or not os.path.exists(self.folder):
            return
        entries = [f.name for f in self.folder.iterdir() if not f.name.startswith(STAGING_PREFIX)]
        if entries:
            raise OutputError(
                f"{self.folder}: expected an empty folder, got one with {len(entries)} entries "
                f"({min(entries)}); --overwrite (in Python overwrite=True) replaces files of the "
                "same name"
            )

    def _make_folders(self) -> None:
        missing = [f for f in (self.folder, *self.folder.parents) if not os.path.exists(f)]
        for folder in reversed(missing):
            try:
                folder.mkdir()
            except FileExistsError:  # another run has just made it
                continue
            self._made.append(folder)
            note_made(folder)

    def _remove_made(self) -> None:
        for folder in reversed(self._made):
            try:
                folder.rmdir()
            except OSError:
                return
        self._made.clear()
