"""Packages: their versions, as records give them, and those that may be missing."""

from __future__ import annotations

import platform
from importlib import import_module, metadata
from typing import Any

from iterreg.errors import MissingDependencyError

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


def import_package(module: str, user: str, install: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: its dotted name.
        user: what needs it, for the message.
        install: the command that installs it.

    Raises:
        MissingDependencyError: it is not installed.

    Example:
        >>> import_package("colour.map", "the plot", "pip install colour")
        Traceback (most recent call last):
        iterreg.errors.MissingDependencyError: the plot needs colour, which is not installed: ...
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise MissingDependencyError(
            f"{user} needs {missing}, which is not installed: {install}"
        ) from error
