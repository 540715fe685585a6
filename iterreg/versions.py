"""The version of the installed iterreg."""

from __future__ import annotations

from importlib import metadata


def own_version() -> str:
    """Return iterreg's version, or ``"not installed"`` if it runs from a source folder.

    Example:
        >>> isinstance(own_version(), str)
        True
    """
    try:
        return metadata.version("iterreg")
    except metadata.PackageNotFoundError:
        return "not installed"
