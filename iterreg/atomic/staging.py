"""Hidden folders in which files are completed, and locks on folders.

A lock is the system's own lock on an open folder. It ends with the process, however that ends, and
leaves no file. A hidden folder is locked for as long as its process lives, so one that can be
locked was left by a process that was killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from iterreg.atomic.moves import undo_moves
from iterreg.errors import OutputError

STAGING_PREFIX = ".iterreg-"
"""Start of the names of the hidden folders in which files are completed."""

PATIENCE_S = 2.0
"""How long to wait for a lock: a process that was killed may need a moment to be gone."""

HELD = (errno.EAGAIN, errno.EACCES)
"""What the system answers if another process has the lock."""

_cleared: set[Path] = set()


_journal: int | None = None


def keep_journal(file: int | None) -> None:
    """Write the path of everything hidden or new to an open file, for whoever cleans up.

    Args:
        file: shared with the process that waits for this one; None ends it.
    """
    global _journal
    _journal = file


def note_made(path: Path) -> None:
    """Note a hidden or a new folder in the journal."""
    if _journal is not None:
        os.write(_journal, os.fsencode(path.absolute()) + b"\0")


def clean_up(journal: int) -> None:
    """Remove what a process left that did not end by itself.

    Args:
        journal: the file of its :func:`keep_journal`.
    """
    size = os.lseek(journal, 0, os.SEEK_END)
    paths = [Path(os.fsdecode(p)) for p in os.pread(journal, size, 0).split(b"\0") if p]
    for path in reversed(paths):
        with suppress(OSError):
            if path.name.startswith(STAGING_PREFIX):
                _clear(path, path.parent)
            else:
                path.rmdir()


class Staging:
    """A hidden folder that is locked while it is in use.

    Args:
        folder: where it is made.
        target: the final file or folder, for messages.

    Raises:
        OutputError: the folder is missing or not writable.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        if not os.path.isdir(folder):
            raise OutputError(f"{target}: cannot be written: the folder {folder} does not exist")
        clear_stale(folder)
        try:
            self.path, self._lock = _make_locked(folder)
            note_made(self.path)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error

    def remove(self) -> None:
        """Remove the folder with all that is in it, and give up the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for temporary files, removed after the block.

    Raises:
        OutputError: there is no place for it.
    """
    try:
        place = Path(tempfile.gettempdir())
    except OSError as error:
        raise OutputError(f"temporary folder: {error.strerror or error}") from error
    staging = Staging(place, place)
    try:
        yield staging.path
    finally:
        staging.remove()


@contextmanager
def folder_lock(folder: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Lock a folder for as long as the block runs.

    Args:
        folder: exists.
        patience_s: how long to wait for another process.

    Raises:
        OutputError: another process has it.

    Example:
        >>> Path("shared").mkdir()
        >>> with folder_lock(Path("shared")):
        ...     with folder_lock(Path("shared"), 0):
        ...         pass
        Traceback (most recent call last):
        iterreg.errors.OutputError: shared: another run of iterreg is writing there
    """
    lock = lock_folder(folder, patience_s)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def lock_folder(folder: Path, patience_s: float = PATIENCE_S) -> int | None:
    """Lock a folder.

    Returns:
        The open folder: closing it gives up the lock. None if the file system has no locks.

    Raises:
        OutputError: another process has it.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            return _lock(folder)
        except BlockingIOError as error:
            if time.monotonic() >= end:
                message = f"{folder}: another run of iterreg is writing there"
                busy = OutputError(message)
                busy.is_busy = True
                raise busy from error
            time.sleep(0.05)
        except OSError:
            return None


def is_staged(path: Path) -> bool:
    """Whether a path lies in a hidden folder."""
    return any(part.startswith(STAGING_PREFIX) for part in path.parts)


def clear_stale(folder: Path) -> None:
    """Remove what killed processes left in a folder, once; undo moves that they began."""
    if folder in _cleared or is_staged(folder):
        return
    _cleared.add(folder)
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if entry.name.startswith(STAGING_PREFIX) and _is_folder(entry.path):
                _clear(Path(entry.path), folder)


def final_path(path: Path) -> Path:
    """Where a file of a hidden folder will be.

    Example:
        >>> final_path(Path("out/.iterreg-ab12cd34/new/warped.nii.gz")).as_posix()
        'out/warped.nii.gz'
    """
    parts = list(path.parts)
    for n in reversed(range(len(parts))):
        if parts[n].startswith(STAGING_PREFIX):
            del parts[n : n + 2]
    return Path(*parts)


def _is_folder(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def _make_locked(folder: Path) -> tuple[Path, int | None]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=folder))
        try:
            lock = _lock(path)
        except (BlockingIOError, FileNotFoundError):  # another process takes it for a stale one
            continue
        except OSError:
            return path, None
        if os.path.isdir(path):
            return path, lock
        os.close(lock)


def _lock(folder: Path) -> int:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW * is_staged(folder))
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(opened)
        if error.errno in HELD:
            raise BlockingIOError(*error.args) from error
        raise
    return opened


def _clear(stale: Path, folder: Path) -> None:
    """Remove a hidden folder, unless a process is using it or it belongs to someone else."""
    try:
        lock = _lock(stale)
    except OSError:
        return
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            undo_moves(stale, folder)
            shutil.rmtree(stale, ignore_errors=True)
    finally:
        os.close(lock)
