"""Move completed files into place: all of them, or after a kill none.

The hidden folder holds the new files in ``new``, gets the files that they replace in ``old``, and
lists all moves before the first one. Whoever finds it after a kill can undo them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from iterreg.texts import parse_json

MOVES = "moves.json"
"""Lists the files as soon as they begin to be moved."""

LAST = "run.json"
"""Is moved last and removed first: where it is, the other files are whole."""


_records: list[list[Path]] = []


@contextmanager
def completed_outputs() -> Iterator[list[Path]]:
    """Record the files and folders of results that are complete and in place while a block runs.

    Example:
        >>> with completed_outputs() as completed:
        ...     record(Path("result"))
        >>> [path.name for path in completed]
        ['result']
    """
    completed: list[Path] = []
    _records.append(completed)
    try:
        yield completed
    finally:
        _records.pop()


def record(path: Path) -> None:
    """Tell that a result is complete."""
    for completed in _records:
        completed.append(path)


def move_into_place(staging: Path, folder: Path) -> None:
    """Move all files of ``staging/new`` to the same places in a folder; undo all on failure.

    Args:
        staging: the hidden folder.
        folder: gets the files.

    Raises:
        OSError: a file cannot be moved, or does not reach the disk.
    """
    new = staging / "new"
    names = sorted((f.relative_to(new) for f in new.rglob("*") if os.path.isfile(f)), key=_order)
    for place in (*new.rglob("*"), new):
        reach_disk(place)
    (staging / MOVES).write_text(json.dumps([str(name) for name in names]), "utf-8")
    reach_disk(staging / MOVES)
    reach_disk(staging)
    made: list[Path] = []
    try:
        _keep_old(staging, folder, names[::-1])
        for name in names:
            target = folder / name
            made += [f for f in target.parents if not os.path.exists(f)]
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / name, target)
        for place in {(folder / name).parent for name in names}:
            reach_disk(place)
    except BaseException:
        for name in names:
            _put_back(staging, folder, name)
        for parent in sorted(made, key=lambda f: -len(f.parts)):
            shutil.rmtree(parent, ignore_errors=True)
        raise


def undo_moves(staging: Path, folder: Path) -> None:
    """Undo the moves that a killed process began, unless it had done all of them."""
    try:
        names = [Path(name) for name in parse_json((staging / MOVES).read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return
    names = [name for name in names if not name.is_absolute() and ".." not in name.parts]
    if not any(os.path.exists(staging / "new" / name) for name in names):
        return
    for name in names:
        with suppress(OSError):
            _put_back(staging, folder, name)
    for parent in sorted({p for name in names for p in name.parents} - {Path()}, reverse=True):
        with suppress(OSError):
            (folder / parent).rmdir()


def reach_disk(path: Path) -> None:
    """Wait until a file or a folder is on the disk.

    Raises:
        OSError: it does not fit.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)


def _order(name: Path) -> tuple[bool, bool, Path]:
    """Headers and tables after what they describe."""
    return name.name == LAST, name.suffix in (".json", ".mhd", ".nhdr"), name


def _keep_old(staging: Path, folder: Path, names: Sequence[Path]) -> None:
    for name in names:
        kept = staging / "old" / name
        if os.path.lexists(folder / name):
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / name, kept)


def _put_back(staging: Path, folder: Path, name: Path) -> None:
    source, kept, target = staging / "new" / name, staging / "old" / name, folder / name
    if os.path.lexists(kept):
        os.replace(kept, target)
    elif not os.path.exists(source):
        target.unlink(missing_ok=True)
