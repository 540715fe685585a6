"""Folders of presets that plug-ins and scripts add."""

from __future__ import annotations

import os
import warnings
from functools import partial
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from iterreg.errors import ConfigError, IterregError, PluginError
from iterreg.plugins import NAME, REGISTERED, Plugin, PluginWarning, clash, of_group, without_own
from iterreg.texts import one_line

GROUP = "iterreg.presets"
"""The entry points of folders with presets."""

_preset_folders: list[tuple[str, Path]] = []


def register_presets(folder: str | Path) -> None:
    """Offer every preset of a folder by its name, for the rest of this process.

    Args:
        folder: of TOML files; the name of each, without ``.toml``, becomes a preset's.

    Raises:
        ConfigError: no such folder, or no preset in it.

    Example:
        >>> from iterreg.config import load_config
        >>> folder = Path("my_presets")
        >>> folder.mkdir()
        >>> _ = (folder / "phantom.toml").write_text('schema = 1\\nsegmenter = "none"')
        >>> register_presets(folder)
        >>> load_config("phantom").name
        'phantom'
        >>> from iterreg.preset_folders import unregister_presets
        >>> unregister_presets(folder)
    """
    path = Path(folder).absolute()
    if not os.path.isdir(path):
        raise ConfigError(f"presets: {folder}: expected a folder of .toml files")
    if not list(path.glob("*.toml")):
        raise ConfigError(f"presets: {folder}: expected .toml files in it, got none")
    if (REGISTERED, path) not in _preset_folders:
        _preset_folders.append((REGISTERED, path))


def unregister_presets(folder: str | Path) -> None:
    """Take a folder of presets away again."""
    path = Path(folder).absolute()
    _preset_folders[:] = [entry for entry in _preset_folders if entry[1] != path]


def preset_plugins(own: Any) -> dict[str, Plugin]:
    """The presets of plug-ins by name; ``load`` returns the text of each.

    A folder that cannot be found is left out with a warning.

    Args:
        own: the names of the presets that come with iterreg.
    """
    folders: list[tuple[str, Any]] = list(_preset_folders)
    for point in of_group(GROUP, "presets").values():
        try:
            folders.append((point.source, _folder_of(point.loaded())))
        except IterregError as error:
            warnings.warn(PluginWarning(f"{error}; left out"), stacklevel=2)
    found: dict[str, Plugin] = {}
    for source, folder in folders:
        for file in sorted(folder.iterdir(), key=lambda file: str(file.name)):
            name = file.name.removesuffix(".toml")
            if file.name.endswith(".toml") and NAME.fullmatch(name):
                plugin = Plugin("preset", name, source, partial(file.read_text, "utf-8"))
                other = found.get(name)
                found[name] = plugin if other is None else clash(plugin, other)
    return without_own(found, own)


def _folder_of(value: Any) -> Any:
    """The folder of an entry point: a package, a path, or a function that returns one of them."""
    if callable(value):
        value = value()
    if isinstance(value, ModuleType):
        return resources.files(value)
    if isinstance(value, str | Path) and os.path.isdir(value):
        return Path(value)
    raise PluginError(
        f"presets: expected a package or a path of a folder, got {type(value).__name__} "
        f"{one_line(str(value), 80)!r}"
    )
