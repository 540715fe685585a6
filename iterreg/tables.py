"""Named choices: a table lists what can be chosen by name, and loads a choice when it is used.

Tables stand beside what they list, such as ``iterreg.energy.similarity.SIMILARITIES``. The
configuration, the command line and every message read them, so a new choice is one new row. A row
holds a reference, ``"package.module:name"``, so that reading the names imports nothing heavy.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from iterreg.errors import ConfigError


class Table(Mapping[str, Any]):
    """Choices by name.

    Args:
        kind: what is chosen, as messages call it.
        rows: for each name a reference ``"package.module:name"``, or the value itself.

    Example:
        >>> shapes = Table("shape", {"square": "math:sqrt", "unit": 1.0})
        >>> list(shapes)
        ['square', 'unit']
        >>> shapes["square"](9.0)
        3.0
        >>> shapes["circle"]
        Traceback (most recent call last):
        iterreg.errors.ConfigError: shape: expected one of square, unit, got 'circle'
    """

    def __init__(self, kind: str, rows: Mapping[str, Any]) -> None:
        self.kind = kind
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> Any:
        """The choice itself, loaded.

        Raises:
            ConfigError: no row has this name.
        """
        if name not in self._rows:
            raise ConfigError(f"{self.kind}: expected one of {', '.join(self)}, got {name!r}")
        row = self._rows[name]
        return load(row) if isinstance(row, str) else row

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Table({self.kind}: {', '.join(self)})"


def load(reference: str) -> Any:
    """Load the object that a reference ``"package.module:name"`` names.

    Example:
        >>> load("math:pi")
        3.141592653589793
    """
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
