"""NiftyReg: deformation and displacement fields, and the matrices of ``reg_aladin``, RAS mm."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iterreg.displacement import Transform
from iterreg.errors import TransformError
from iterreg.formats.headers import NIFTI_SUFFIXES, nifti_head, short_text
from iterreg.formats.loaded import Loaded
from iterreg.formats.matrices import linear_in_ras, matrix_of, numbers_of, without_comments
from iterreg.formats.types import Sides, TransformFormat
from iterreg.formats.vectors import (
    field_of_targets,
    own_positions,
    read_vectors,
    targets_ras,
    write_vectors,
)
from iterreg.geometry import Grid, Matrix

NAME = "NREG_TRANS"
"""The intent name of every field that NiftyReg writes."""

KINDS = (
    "a deformation field",
    "a displacement field",
    "a grid of cubic splines",
    "a deformation velocity field",
    "a displacement velocity field",
    "a grid of velocity splines",
    "a grid of linear splines",
)
"""By the first parameter of the intent."""

DEFORMATION, DISPLACEMENT = 0, 1
VECTOR_CODE = 1007


def _recognises(path: Path) -> bool:
    head = nifti_head(path)
    return head is not None and head.intent_name == NAME


def _load(path: Path, sides: Sides) -> Loaded:
    head = nifti_head(path)
    if head is None:
        numbers = numbers_of(path, without_comments(short_text(path)), 16)
        return linear_in_ras(path, matrix_of(path, numbers))
    if head.intent_name != NAME:
        return load_ras_vectors(path, None)
    kind = next((k for k in range(len(KINDS)) if k == head.intent_p1), None)
    if kind not in (DEFORMATION, DISPLACEMENT):
        words = f"transform of kind {head.intent_p1:g}" if kind is None else KINDS[kind]
        raise TransformError(
            f"{path}: NiftyReg's {words.removeprefix('a ')} has to be sampled by NiftyReg: "
            f"reg_transform -ref FIXED -def {path.name} field.nii.gz"
        )
    return load_ras_vectors(path, kind)


def load_ras_vectors(path: Path, kind: int | None) -> Loaded:
    """Read vectors in RAS mm: positions or displacements; None looks which of them they are.

    Raises:
        TransformError: they should be positions, and are nowhere near their voxels.
        ImageReadError, ImageContentError, GeometryError: the file cannot be used.
    """
    vectors, grid = read_vectors(path)
    close_to = own_positions(grid, vectors)
    is_ras = close_to == "positions in RAS mm"
    if kind is None and not is_ras:
        got = f"close to {close_to}" if close_to else "far from them"
        raise TransformError(
            f"{path}: expected positions in RAS mm, got vectors {got}, and no word in the header "
            "that they are displacements"
        )
    if kind == DISPLACEMENT and close_to:
        raise TransformError(f"{path}: expected displacements, got vectors close to {close_to}")
    flat = vectors.reshape(grid.rank, grid.shape_zyx[0], -1)
    signs = np.array([-1.0, -1.0, 1.0])[: grid.rank]

    def targets(plane: int, at: Matrix) -> Matrix:
        lps = np.asarray(flat[:, plane].T * signs, np.float64)
        return at + lps if kind == DISPLACEMENT else lps

    return Loaded(str(path), grid.rank, np.eye(grid.rank + 1), field_of_targets(grid, targets))


def _write(transform: Transform, path: Path, moving: Grid) -> str:
    intent = (VECTOR_CODE, NAME, float(DEFORMATION))
    write_vectors(path, targets_ras(transform), transform.grid, intent)
    return "NiftyReg deformation field, positions x y z in mm, RAS"


NIFTYREG = TransformFormat(
    meaning="NiftyReg deformation, displacement or matrix (mm, RAS)",
    read_suffixes=(*NIFTI_SUFFIXES, ".txt"),
    write_suffixes=NIFTI_SUFFIXES,
    recognises=_recognises,
    load=_load,
    write=_write,
)
