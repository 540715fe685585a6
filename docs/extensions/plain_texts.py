"""Texts for a reader of the code or of a terminal, made ready for reStructuredText.

Docstrings give shapes as (C, \\*shape), and help texts speak of \\*: both would start emphasis.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

PATH = re.compile(r"PosixPath\('(.*?)'\)")
SHAPE = re.compile(r"(?<!`)\((?:[\w, ]*)\*[\w, ]+\)(?!`)")


def set_shapes(app: Sphinx, *where: Any) -> None:
    """Set the shapes in a docstring as literals."""
    lines: list[str] = where[-1]
    lines[:] = [SHAPE.sub(lambda found: f"``{found[0]}``", line) for line in lines]


def set_help(app: Sphinx, context: Any, lines: list[str]) -> None:
    """Escape stars in the help of a command, and show paths as they are typed."""
    lines[:] = [PATH.sub(r"\1", line.replace("*", r"\*")) for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx about it."""
    app.setup_extension("sphinx_click")
    # Before napoleon, which comes at the priority 500.
    app.connect("autodoc-process-docstring", set_shapes, priority=400)
    for part in ("description", "options"):
        app.connect(f"sphinx-click-process-{part}", set_help)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
