"""A choice among the rows of a table, which is read when it is needed: plug-ins add rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import click


class TableChoice(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A choice among names that are looked up at each use."""

    def __init__(self, names: Callable[[], Collection[str]]) -> None:
        """Keep the function that returns the names."""
        self._names = names
        self.case_sensitive = True

    @property
    def choices(self) -> Sequence[str]:  # type: ignore[override]
        """The names that can be chosen now."""
        return tuple(self._names())
