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
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from iterreg.errors import ConfigError, IterregError, PluginError, is_out_of_memory
from iterreg.tables import Table, load
from iterreg.texts import one_line

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a plug-in may be called."""

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
        if name in self._rows or name in of_group(self.group, self.kind):
            raise ConfigError(f"{self.kind}: the name {name!r} is taken")
        plugin = Plugin(self.kind, name, REGISTERED, lambda: value)
        load(self._adapt)(plugin.label, value)
        self._registered[name] = plugin

    def unregister(self, name: str) -> None:
        """Take a registered choice away again; one that is not there is no error."""
        self._registered.pop(name, None)

    @property
    def own(self) -> tuple[str, ...]:
        """The names that come with iterreg."""
        return tuple(self._rows)

    @property
    def plugins(self) -> dict[str, Plugin]:
        """The plug-ins by name, without those whose name comes with iterreg."""
        found = without_own(of_group(self.group, self.kind), self._rows)
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


def of_group(group: str, kind: str) -> dict[str, Plugin]:
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
            plugin = clash(plugin, other)
        found[point.name] = plugin
    return {name: plugin for name, plugin in found.items() if NAME.fullmatch(name)}


def clash(one: Plugin, other: Plugin) -> Plugin:
    """Two packages that offer the same name: an error when it is chosen."""
    source = f"{other.source} and {one.source}"

    def refuse() -> Any:
        raise PluginError("expected one package that offers it, got both; remove one of them")

    return Plugin(one.kind, one.name, source, refuse)
