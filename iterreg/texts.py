"""Read JSON and TOML that may be hostile, and make any text safe to print.

Whatever is wrong with a text, the reason is one short line in a :class:`TextError`: lists inside
lists without end, whole numbers of thousands of digits, NaN and Infinity are refused by these
words. The refused text itself is never repeated at length.
"""

from __future__ import annotations

import json
import math
import tomllib
import unicodedata
from typing import Any

DEEPEST = 64
"""Most lists and tables inside each other."""

MOST_DIGITS = 19
"""Digits of the longest whole number: that of 64 bits."""

LONGEST_NAME = 255
"""Most letters of a name."""

LONGEST_LINE = 600
"""Most letters of a message."""

UNSAFE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Unicode's categories of letters that steer a terminal, reverse a line or cannot be encoded."""


class TextError(ValueError):
    """A text is not valid JSON or TOML, or holds what no file of iterreg needs."""


def parse_json(text: str, *, allow_nan: bool = False) -> Any:
    """Parse JSON.

    Args:
        text: the whole text.
        allow_nan: take NaN and Infinity as Python spells them.

    Returns:
        Plain dictionaries, lists, strings, numbers, booleans and None.

    Raises:
        TextError: not JSON, nested deeper than ``DEEPEST``, or a number that is too large.

    Example:
        >>> parse_json('{"cases": [1, 2]}')
        {'cases': [1, 2]}
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        iterreg.texts.TextError: nested more than 64 deep
    """

    def constant(word: str) -> float:
        if not allow_nan:
            raise TextError(f"expected finite numbers, got {word}")
        return float(word)

    try:
        tables = json.loads(text, parse_int=_whole, parse_float=_real, parse_constant=constant)
    except RecursionError as error:
        raise TextError(f"nested more than {DEEPEST} deep") from error
    except json.JSONDecodeError as error:
        raise TextError(str(error)) from error
    _require_shallow(tables)
    return tables


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Args:
        text: the whole text.

    Returns:
        The tables. ``inf`` and ``nan`` are numbers of TOML and are kept.

    Raises:
        TextError: not TOML, nested deeper than ``DEEPEST``, or a number that is too large.

    Example:
        >>> parse_toml("schema = 1")
        {'schema': 1}
        >>> parse_toml("a = " + "9" * 5000)
        Traceback (most recent call last):
        iterreg.texts.TextError: expected whole numbers of at most 19 digits
    """
    try:
        tables = tomllib.loads(text)
    except RecursionError as error:
        raise TextError(f"nested more than {DEEPEST} deep") from error
    except tomllib.TOMLDecodeError as error:
        raise TextError(str(error)) from error
    except ValueError as error:  # Python refuses more than 4300 digits
        raise TextError(_too_many_digits()) from error
    _require_shallow(tables)
    return tables


def without_controls(text: str) -> str:
    """Drop every letter that would steer a terminal, and make the white space single blanks.

    Example:
        >>> without_controls("left\\x1b[2J  lung\\n")
        'left[2J lung'
    """
    spaced = " ".join(text.split())
    return "".join(c for c in spaced if unicodedata.category(c) not in UNSAFE)


def printable(text: str) -> str:
    """Spell out every letter that would steer a terminal; line breaks and tabs stay.

    Example:
        >>> print(printable("a\\x1b[2Jb"))
        a\\x1b[2Jb
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c
        if c in "\n\t" or unicodedata.category(c) not in UNSAFE
        else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """Make a message one printable line of bounded length; of a longer one, both ends are kept.

    Example:
        >>> one_line("expected a name,\\n got " + 50 * "x", 40)
        'expected a name, got xxx ... xxxxxxxxxxx'
    """
    line = printable(" ".join(text[: 4 * longest].split() + text[4 * longest :][-longest:].split()))
    if len(line) <= longest:
        return line
    end = (longest - 5) // 3
    return f"{line[: longest - 5 - end]} ... {line[-end:]}"


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise TextError(_too_many_digits())
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise TextError(f"expected finite numbers, got {digits[:20]}")
    return value


def _too_many_digits() -> str:
    return f"expected whole numbers of at most {MOST_DIGITS} digits"


def _require_letters(text: str) -> None:
    """Refuse half of a letter, which no file and no terminal takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"expected letters of Unicode, got half of one in {text[:40]!a}") from error


def _require_shallow(tables: Any) -> None:
    """Refuse deep nesting, long numbers and letters that are none, without recursion."""
    level = [tables]
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
                inner += value.keys()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and not value.isascii():
                _require_letters(value)
            elif isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
                raise TextError(_too_many_digits())
        if not inner:
            return
        level = inner
    raise TextError(f"nested more than {DEEPEST} deep")
