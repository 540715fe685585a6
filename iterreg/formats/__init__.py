"""Transform formats: how other programs store a transform, and how iterreg reads and writes it.

``itk.py`` and ``learn2reg.py`` hold one convention each, ``types.py`` says what a format has to
provide, and ``convert.py`` turns one format into another. To add a format, write one file with a
:class:`~iterreg.formats.types.TransformFormat` and add one row below.
"""

from __future__ import annotations

from iterreg.tables import Table

TRANSFORM_FORMATS = Table(
    "transform format",
    {"itk": "iterreg.formats.itk:ITK", "learn2reg": "iterreg.formats.learn2reg:LEARN2REG"},
)
"""Each value is a :class:`~iterreg.formats.types.TransformFormat`."""
