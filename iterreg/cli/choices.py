"""A choice among the rows of a table, which is read when it is needed: plug-ins add rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import click


class TableChoice(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A choice among names that are looked up at each use."""

    def __init__(self, names: Callable[[], Collection[str]], more_after: str = "") -> None:
        """Keep the function that returns the names.

        Args:
            names: returns them.
            more_after: a letter after which anything may follow the name.
        """
        self._names = names
        self._more_after = more_after
        self.case_sensitive = True

    @property
    def choices(self) -> Sequence[str]:  # type: ignore[override]
        """The names that can be chosen now."""
        return tuple(self._names())

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the name, and keep what follows it."""
        name, mark, more = str(value), "", ""
        if self._more_after:
            name, mark, more = name.partition(self._more_after)
        return f"{super().convert(name, param, ctx)}{mark}{more}"
