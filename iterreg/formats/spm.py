"""SPM: the deformations ``y_*.nii`` and ``iy_*.nii``, positions in RAS mm."""

from __future__ import annotations

from pathlib import Path

from iterreg.errors import TransformError
from iterreg.formats.headers import NIFTI_SUFFIXES, nifti_head
from iterreg.formats.loaded import Loaded
from iterreg.formats.niftyreg import DEFORMATION, load_ras_vectors
from iterreg.formats.types import Sides, TransformFormat

NAMES = ("Mapping", "Deformation")
"""Intent names of SPM's deformations."""

VELOCITIES = ("Velocity", "Flow", "Flow Field", "Flow field", "Momentum")


def _recognises(path: Path) -> bool:
    head = nifti_head(path)
    return head is not None and head.intent_name in (*NAMES, *VELOCITIES)


def _load(path: Path, sides: Sides) -> Loaded:
    head = nifti_head(path)
    if head is not None and head.intent_name in VELOCITIES:
        raise TransformError(
            f"{path}: SPM's flow field has to be integrated by SPM: write it as a deformation "
            "y_*.nii (Deformations, DARTEL flow)"
        )
    return load_ras_vectors(path, DEFORMATION if _recognises(path) else None)


SPM = TransformFormat(
    meaning="SPM deformation (mm, RAS)",
    read_suffixes=NIFTI_SUFFIXES,
    write_suffixes=(),
    recognises=_recognises,
    load=_load,
)
