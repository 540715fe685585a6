"""MNI (MINC): linear ``.xfm`` files, which map points of their source to their target, RAS mm."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from iterreg.errors import TransformError
from iterreg.formats.headers import first_bytes, short_text
from iterreg.formats.loaded import Loaded
from iterreg.formats.matrices import linear_in_ras, matrix_of, numbers_of
from iterreg.formats.types import Sides, TransformFormat

START = b"MNI Transform File"
ITK_WRITER = "%ITK-XFM writer"
"""ITK writes its own LPS mm into this format, which means RAS mm, unless a program asks it not to;
the file does not say which."""


def _recognises(path: Path) -> bool:
    return first_bytes(path).lstrip().startswith(START)


def _load(path: Path, sides: Sides) -> Loaded:
    text = short_text(path)
    if not text.lstrip().startswith(START.decode()):
        raise TransformError(f"{path}: expected MNI's first line {START.decode()!r}")
    if ITK_WRITER in text:
        raise TransformError(
            f"{path}: expected MNI's transform, got one that ITK wrote in this format, which does "
            "not say whether it is RAS or LPS: let ITK write .tfm or .h5"
        )
    text = "\n".join(re.split("[%#]", line)[0] for line in text.splitlines())
    kinds = re.findall(r"Transform_Type\s*=\s*(\w+)\s*;", text)
    if not kinds or set(kinds) != {"Linear"}:
        got = ", ".join(sorted(set(kinds))) or "none"
        raise TransformError(
            f"{path}: expected MNI's linear transforms, got {got[:60]!a}: write a grid transform "
            "as a displacement field of ITK first"
        )
    bodies = re.split(r"Transform_Type\s*=", text)[1:]
    total = np.eye(4)
    for body in bodies:
        found = re.search(r"Linear_Transform\s*=([^;]*);", body)
        if found is None:
            raise TransformError(f"{path}: expected Linear_Transform = 12 numbers; it may be cut")
        matrix = matrix_of(path, numbers_of(path, found[1], 12))
        if re.search(r"Invert_Flag\s*=\s*True\s*;", body):
            matrix = np.asarray(np.linalg.inv(matrix), np.float64)
        total = matrix @ total  # the first of the file is applied first
    return linear_in_ras(path, total)


MNI = TransformFormat(
    meaning="MNI linear transform (mm, RAS)",
    read_suffixes=(".xfm",),
    write_suffixes=(),
    recognises=_recognises,
    load=_load,
)
