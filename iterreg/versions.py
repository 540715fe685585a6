"""Versions of iterreg and of what it runs on, as records give them."""

from __future__ import annotations

import platform
from importlib import metadata

NOT_INSTALLED = "not installed"


def own_version() -> str:
    """The version of iterreg, or ``not installed`` if it runs from its source folder.

    Example:
        >>> own_version() == versions()["iterreg"]
        True
    """
    try:
        return metadata.version("iterreg")
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {"iterreg": own_version(), **packages, "python": platform.python_version()}
