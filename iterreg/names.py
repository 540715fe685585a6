"""Names of labels, compared as people spell them: ``Left Lung`` is ``left_lung``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

GAP = re.compile(r"[\s_-]+(?![^\[\]]*\])")
"""Blanks, underscores and hyphens, but for those of a pattern's ``[1-9]``."""


def spelled(name: str) -> str:
    """Return the form of a name that is compared.

    Example:
        >>> spelled("Left_Lung") == spelled(" left  lung") == spelled("left-lung")
        True
    """
    return GAP.sub(" ", name.casefold()).strip()


def fits(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern; capitals, blanks, underscores and hyphens do not matter.

    Args:
        name: of a label.
        pattern: a name, in which ``*`` stands for any letters, ``?`` for one, ``[1-9]`` for one of
            some.

    Example:
        >>> fits("lung_upper_lobe_left", "Lung *"), fits("rib 7", "rib_[1-6]")
        (True, False)
    """
    return fnmatchcase(spelled(name), spelled(pattern))


def fits_any(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of some patterns.

    Example:
        >>> fits_any("left kidney", ("liver", "*_kidney"))
        True
    """
    return any(fits(name, pattern) for pattern in patterns)
