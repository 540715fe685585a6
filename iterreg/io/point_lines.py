"""Lines and words of text files of points."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from iterreg.errors import ImageReadError

LONGEST_LINE = 100_000
"""Letters in a line; a longer one is no table of points."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def shown(text: str) -> str:
    """Return foreign text fit for a message: short, without control characters.

    Example:
        >>> shown("1,2,\\x1b[2J")
        "'1,2,\\\\x1b[2J'"
    """
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def number_of(word: str) -> float:
    """A number written with ASCII digits; NaN for any other word."""
    return float(word) if _NUMBER.fullmatch(word) else float("nan")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers, without those that are empty."""
    with path.open("rb") as binary:
        start = binary.read(4096)
    coding = "utf-16" if start.startswith(_UTF16) else "utf-8-sig"
    if coding == "utf-8-sig" and b"\0" in start:
        raise ImageReadError(f"{path}: expected a text file of points, got a binary one")
    with path.open(newline=None, encoding=coding, errors="replace") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise ImageReadError(
                    f"{path}, line {number}: expected a row of points, got a line of more than "
                    f"{LONGEST_LINE} letters"
                )
            if line.strip():
                yield number, line
