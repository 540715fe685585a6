"""Names as they may be printed: without the letters that steer a terminal."""

from __future__ import annotations

import unicodedata

LONGEST_NAME = 200
"""Names are cut to this many letters."""


def plain_name(name: str) -> str:
    """A name without control letters, its blanks joined.

    Example:
        >>> plain_name("left\\x1b[2J  lung\\n")
        'left[2J lung'
    """
    kept = (" " if c.isspace() else c for c in name[: 10 * LONGEST_NAME])
    shown = "".join(c for c in kept if unicodedata.category(c)[0] != "C")
    return " ".join(shown.split())[:LONGEST_NAME]
