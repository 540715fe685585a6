"""The folders in which iterreg keeps what it can make again."""

from __future__ import annotations

import os
import warnings
from pathlib import Path


class CacheWarning(UserWarning):
    """Nothing can be kept for the next run, which will take longer."""


def cache_folder(kind: str) -> Path | None:
    """Return the folder of a cache; it need not exist.

    Args:
        kind: its name, such as ``rois``.

    Returns:
        In ``ITERREG_CACHE`` if that is set, else in the system's folder for caches. None if the
        system has no such folder, because the user has no home.

    Example:
        >>> os.environ["ITERREG_CACHE"] = "/data/cache"
        >>> cache_folder("rois").as_posix()
        '/data/cache/rois'
        >>> del os.environ["ITERREG_CACHE"]
    """
    if chosen := os.environ.get("ITERREG_CACHE"):
        return Path(os.path.expanduser(chosen)).absolute() / kind
    own = system_folder()
    return None if own is None else own / kind


def system_folder() -> Path | None:
    """Return iterreg's folder in the system's folder for caches; None if there is none."""
    try:
        import platformdirs

        folder = Path(platformdirs.user_cache_dir("iterreg", appauthor=False))
    except (ImportError, RuntimeError):  # no such package, no home
        return None
    return folder if folder.is_absolute() else None


_told: set[str] = set()


def tell_once(what: str, folder: Path | None) -> None:
    """Warn, once a process, that nothing can be kept.

    Args:
        what: that is made again each time.
        folder: which cannot be written; None if there is none.
    """
    if what in _told:
        return
    _told.add(what)
    where = "there is no folder for it" if folder is None else f"{folder} cannot be written"
    text = f"{what} cannot be kept for the next run: {where}; ITERREG_CACHE names another"
    warnings.warn(CacheWarning(text), stacklevel=3)
