"""Plug-ins: similarities, segmenters, transform formats and presets of other packages.

A package offers them by entry points, a script registers them. Then they are chosen by name, like
those that come with iterreg::

    [project.entry-points."iterreg.segmenters"]
    my-lungs = "my_package.lungs:segment"

Nothing of a plug-in is imported before it is chosen; only folders of presets are looked up to list
them. What a plug-in does wrong is told in one line that names it.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from iterreg.errors import ConfigError, IterregError, PluginError, is_out_of_memory
from iterreg.tables import Table, load
from iterreg.texts import one_line

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a plug-in may be called."""

PRESETS = "iterreg.presets"
"""The entry points of folders with presets."""

REGISTERED = "registered in Python"


class PluginWarning(UserWarning):
    """A plug-in is left out."""


@dataclass(frozen=True)
class Plugin:
    """Something that a package or a script adds to iterreg.

    Args:
        kind: what it is, such as ``segmenter``.
        name: by which it is chosen.
        source: the package and its version, or that a script registered it.
        load: returns the object itself.
    """

    kind: str
    name: str
    source: str
    load: Callable[[], Any]

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.kind} {self.name} ({self.source})"

    def loaded(self) -> Any:
        """The object itself.

        Raises:
            PluginError: it cannot be imported.
        """
        return guarded(self.label, self.load)


def guarded(label: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call something of a plug-in; whatever it raises becomes one line that names the plug-in.

    Args:
        label: from :attr:`Plugin.label`.
        call: the plug-in's function.
        arguments: for it.

    Raises:
        IterregError: as the plug-in raised it, with its name.
        PluginError: for any other exception.

    Example:
        >>> guarded("segmenter mine (tools 1.0)", len, 3)
        Traceback (most recent call last):
        iterreg.errors.PluginError: segmenter mine (tools 1.0): failed: TypeError: object of type \
'int' has no len()
    """
    try:
        return call(*arguments)
    except IterregError as error:
        raise type(error)(f"{label}: {error}") from error
    except Exception as error:  # a plug-in may raise anything
        if is_out_of_memory(error):
            raise
        what = one_line(f"{type(error).__name__}: {error}")
        raise PluginError(f"{label}: failed: {what}") from error


class OpenTable(Table):
    """Choices by name, to which plug-ins add theirs.

    Args:
        kind: what is chosen, as messages call it.
        rows: those that come with iterreg, as in :class:`Table`.
        group: of the entry points.
        adapt: reference to a function ``(label, object)`` that turns what a plug-in gives into a
            row's value, and checks it.

    Example:
        >>> shapes = OpenTable("shape", {"unit": 1.0}, "iterreg.shapes", "builtins:max")
        >>> list(shapes)
        ['unit']
    """

    def __init__(self, kind: str, rows: dict[str, Any], group: str, adapt: str) -> None:
        super().__init__(kind, rows)
        self.group = group
        self._adapt = adapt
        self._registered: dict[str, Plugin] = {}

    def register(self, name: str, value: Any) -> None:
        """Add a choice of this process.

        Raises:
            ConfigError: the name is taken by another choice, or not made of letters and digits.
            PluginError: the value is not of the right kind.
        """
        require_name(self.kind, name)
        if name in self._rows or name in _of_group(self.group, self.kind):
            raise ConfigError(f"{self.kind}: the name {name!r} is taken")
        plugin = Plugin(self.kind, name, REGISTERED, lambda: value)
        load(self._adapt)(plugin.label, value)
        self._registered[name] = plugin

    def unregister(self, name: str) -> None:
        """Take a registered choice away again; one that is not there is no error."""
        self._registered.pop(name, None)

    @property
    def plugins(self) -> dict[str, Plugin]:
        """The plug-ins by name, without those whose name comes with iterreg."""
        found = without_own(_of_group(self.group, self.kind), self._rows)
        return {**found, **self._registered}

    def __getitem__(self, name: str) -> Any:
        """The choice itself, loaded.

        Raises:
            ConfigError: nothing has this name.
            PluginError: the plug-in cannot be imported, or is of another kind.
        """
        if name not in self._rows and (plugin := self.plugins.get(name)) is not None:
            return load(self._adapt)(plugin.label, plugin.loaded())
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self.plugins

    def __iter__(self) -> Iterator[str]:
        return iter([*self._rows, *self.plugins])

    def __len__(self) -> int:
        return len(self._rows) + len(self.plugins)


def require_name(kind: str, name: str) -> None:
    """Refuse a name that cannot be typed or written to a file name.

    Raises:
        ConfigError: naming it.
    """
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{kind}: expected a name of letters, digits, '.', '_' and '-', got {name!r}"
        )


def without_own(found: dict[str, Plugin], own: Any) -> dict[str, Plugin]:
    """The plug-ins whose name does not come with iterreg; the others are warned of."""
    for name in [name for name in found if name in own]:
        plugin = found[name]
        warnings.warn(
            PluginWarning(f"{plugin.label}: left out: iterreg has a {plugin.kind} of that name"),
            stacklevel=2,
        )
    return {name: plugin for name, plugin in found.items() if name not in own}


def _of_group(group: str, kind: str) -> dict[str, Plugin]:
    """The plug-ins of the packages that are installed now."""
    return _entry_points(group, kind, tuple(sys.path))


@cache
def _entry_points(group: str, kind: str, path: tuple[str, ...]) -> dict[str, Plugin]:
    """The entry points of a group, by name; the path is what the answer depends on."""
    found: dict[str, Plugin] = {}
    for point in importlib.metadata.entry_points(group=group):
        package = point.dist
        source = "a package" if package is None else f"{package.name} {package.version}"
        plugin = Plugin(kind, point.name, source, point.load)
        other = found.get(point.name)
        if other is not None and other.source != source:
            plugin = _clash(plugin, other)
        found[point.name] = plugin
    return {name: plugin for name, plugin in found.items() if NAME.fullmatch(name)}


def _clash(one: Plugin, other: Plugin) -> Plugin:
    """Two packages that offer the same name: an error when it is chosen."""
    source = f"{other.source} and {one.source}"

    def refuse() -> Any:
        raise PluginError("expected one package that offers it, got both; remove one of them")

    return Plugin(one.kind, one.name, source, refuse)


# Presets ---------------------------------------------------------------------------------------

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
        >>> from iterreg.plugins import unregister_presets
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
    for point in _of_group(PRESETS, "presets").values():
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
                found[name] = plugin if other is None else _clash(plugin, other)
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
