"""FreeSurfer: linear ``.lta`` files. They map the source to the destination, the fixed image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from iterreg.errors import TransformError
from iterreg.formats.headers import first_bytes, short_text
from iterreg.formats.loaded import Loaded
from iterreg.formats.matrices import linear_in_ras, matrix_of, numbers_of, without_comments
from iterreg.formats.types import Sides, TransformFormat
from iterreg.geometry import Matrix

VOXELS, RAS = 0, 1
"""Types of LTA that are read; the others depend on FreeSurfer's own surface coordinates."""


def _recognises(path: Path) -> bool:
    if path.suffix.lower() == ".lta":
        return True
    start = first_bytes(path)
    return re.search(rb"^type\s*=\s*\d+", start, re.MULTILINE) is not None and b"nxforms" in start


def _load(path: Path, sides: Sides) -> Loaded:
    text = without_comments(short_text(path))
    kind, count = _integer(path, text, "type"), _integer(path, text, "nxforms")
    if kind not in (VOXELS, RAS):
        raise TransformError(
            f"{path}: expected an LTA between voxels or RAS (type 0 or 1), got type {kind}: "
            "lta_convert --inlta IN.lta --outlta OUT.lta writes type 1"
        )
    if count != 1:
        raise TransformError(f"{path}: expected one transform in the LTA, got {count}")
    found = re.search(
        r"^1\s+4\s+4\s*$(.*?)^src volume info\s*$(.*?)^dst volume info\s*$(.*)",
        text,
        re.MULTILINE | re.DOTALL,
    )
    if found is None:
        raise TransformError(f"{path}: expected a matrix, and src and dst volume info; is it cut?")
    matrix = matrix_of(path, numbers_of(path, found[1], 16))
    if kind == VOXELS:
        source, target = (_geometry(path, found[n], n == 2) for n in (2, 3))
        matrix = target @ matrix @ np.linalg.inv(source)
    return linear_in_ras(path, np.asarray(np.linalg.inv(matrix), np.float64))


def _integer(path: Path, text: str, key: str) -> int:
    found = re.search(rf"^{key}\s*=\s*(\d{{1,6}})\s*$", text, re.MULTILINE)
    if found is None:
        raise TransformError(f"{path}: expected FreeSurfer's LTA with {key} = a number")
    return int(found[1])


def _geometry(path: Path, text: str, is_source: bool) -> Matrix:
    """From voxels to RAS mm, as FreeSurfer's volume info gives it."""
    side = "src" if is_source else "dst"

    def entry(key: str, count: int) -> list[float]:
        found = re.search(rf"^{key}\s*=(.*)$", text, re.MULTILINE)
        if found is None:
            raise TransformError(f"{path}: expected {key} in the {side} volume info; is it cut?")
        return numbers_of(path, found[1], count)

    if entry("valid", 1) != [1.0]:
        raise TransformError(f"{path}: expected valid {side} volume info, got one marked invalid")
    axes = np.stack([entry(f"{axis}ras", 3) for axis in "xyz"], axis=1)
    matrix = np.eye(4)
    matrix[:3, :3] = axes * np.asarray(entry("voxelsize", 3))
    matrix[:3, 3] = np.asarray(entry("cras", 3)) - matrix[:3, :3] @ entry("volume", 3) / 2
    if abs(np.linalg.det(matrix)) < 1e-12:
        raise TransformError(f"{path}: expected a {side} volume with voxels, got none")
    return matrix


FREESURFER = TransformFormat(
    meaning="FreeSurfer LTA",
    read_suffixes=(".lta", ".txt"),
    write_suffixes=(),
    recognises=_recognises,
    load=_load,
)
