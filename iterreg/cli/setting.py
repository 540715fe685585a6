"""The parameter of ``--set``: a key of the configuration and its new value."""

from __future__ import annotations

import math
from typing import Any

import click

from iterreg.texts import TextError, parse_toml


class Setting(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """``key=value``: a dotted key of the configuration, and a value in TOML's syntax."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Split at the first ``=``; a value that is not TOML is taken as a string."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key.strip():
            self.fail(f"expected key=value, got {value!r}", param, ctx)
        try:
            return key.strip(), parse_toml(f"value = {text}")["value"]
        except (TextError, KeyError):
            return key.strip(), text.strip()


class Finite(click.FloatRange):
    """A number in a range, but neither NaN nor infinite; without limits any finite number."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Convert the text and check the number."""
        if not str(value).isascii():
            self.fail(f"{value!r} is not a number of ASCII digits.", param, ctx)
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value!r}", param, ctx)
        return number
