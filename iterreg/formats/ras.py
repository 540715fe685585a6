"""Displacements in RAS mm, as NIfTI defines them: intent ``DISPVECT``. nitransforms reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iterreg.displacement import Transform, total_displacement_mm
from iterreg.formats.headers import NIFTI_SUFFIXES, nifti_head
from iterreg.formats.loaded import Loaded
from iterreg.formats.niftyreg import DISPLACEMENT, load_ras_vectors
from iterreg.formats.types import Sides, TransformFormat
from iterreg.formats.vectors import DISPLACEMENT_CODE, write_vectors
from iterreg.geometry import Grid


def _recognises(path: Path) -> bool:
    head = nifti_head(path)
    return head is not None and head.intent_code == DISPLACEMENT_CODE and not head.intent_name


def _load(path: Path, sides: Sides) -> Loaded:
    return load_ras_vectors(path, DISPLACEMENT)


def _write(transform: Transform, path: Path, moving: Grid) -> str:
    total = total_displacement_mm(transform).detach().cpu().numpy().astype(np.float64)
    total[:2] *= -1
    write_vectors(path, total, transform.grid, (DISPLACEMENT_CODE, "", 0.0))
    return "NIfTI displacement field, x y z in mm, RAS"


RAS = TransformFormat(
    meaning="NIfTI displacement field (mm, RAS)",
    read_suffixes=NIFTI_SUFFIXES,
    write_suffixes=NIFTI_SUFFIXES,
    recognises=_recognises,
    load=_load,
    write=_write,
)
