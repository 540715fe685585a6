"""FSL: the matrices of ``flirt`` and the fields of ``fnirt`` and ``convertwarp``.

FSL counts in mm along the voxels of each image, from a corner: x runs towards the patient's left
whatever the header says. So a transform has a meaning only with both of its images. A matrix maps
the source to the reference. A field lies on the reference and leads to the source.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iterreg.displacement import Transform
from iterreg.errors import ImageContentError, ImageReadError, TransformError
from iterreg.formats.foreign import MATRIX
from iterreg.formats.headers import NIFTI_SUFFIXES, first_bytes, nifti_head, shape_text, short_text
from iterreg.formats.learn2reg_files import Field, read_field
from iterreg.formats.loaded import Loaded
from iterreg.formats.matrices import (
    RAS_LPS,
    is_matrix,
    lps_to_ijk,
    matrix_of,
    numbers_of,
    without_comments,
)
from iterreg.formats.types import Sides, TransformFormat
from iterreg.formats.vectors import (
    CLOSE,
    field_of_targets,
    require_volume,
    targets_ras,
    write_nifti_array,
)
from iterreg.geometry import Grid, Matrix, apply_affine

SMALL_TEXT = 10_000
"""Bytes; no 4 x 4 matrix is longer."""

FIELD = 2006
CODES = {
    FIELD: "a displacement field",
    2007: "coefficients of cubic splines",
    2008: "coefficients of cosines",
    2009: "coefficients of quadratic splines",
    2016: "coefficients of cubic splines of topup",
    2017: "coefficients of quadratic splines of topup",
    2018: "a field of topup",
}
"""FSL's intent codes."""


def lps_to_fsl(grid: Grid) -> Matrix:
    """Return the matrix from LPS mm to FSL's mm of an image."""
    scaled = np.diag([*grid.spacing_xyz_mm, 1.0])
    if np.linalg.det(grid.ijk_to_ras[:3, :3]) > 0:
        scaled[0, 0] *= -1
        scaled[0, 3] = (grid.shape_zyx[-1] - 1) * grid.spacing_xyz_mm[0]
    return np.asarray(scaled @ lps_to_ijk(grid), np.float64)


def _recognises(path: Path) -> bool:
    head = nifti_head(path)
    if head is not None:
        return head.intent_code in CODES
    return path.suffix.lower() == ".mat" and is_matrix_file(path)


def is_matrix_file(path: Path) -> bool:
    """Whether a file is a text with a 4 x 4 matrix, whose program it does not tell."""
    if b"\0" in first_bytes(path) or path.stat().st_size > SMALL_TEXT:
        return False
    return is_matrix(short_text(path))


def _load(path: Path, sides: Sides) -> Loaded:
    head = nifti_head(path)
    if head is not None and head.intent_code in CODES and head.intent_code != FIELD:
        raise TransformError(
            f"{path}: FSL's {CODES[head.intent_code]} have to be sampled by FSL: convertwarp "
            f"--ref=REFERENCE --warp1={path.name} --out=field.nii.gz --relout"
        )
    if head is None and (sides.fixed is None or sides.moving is None):
        raise TransformError(f"{path}: this is {MATRIX}")
    reference, source = sides.both(path, "FSL", "flirt -in", "flirt -ref")
    there, back = lps_to_fsl(reference), np.asarray(np.linalg.inv(lps_to_fsl(source)), np.float64)
    if head is None:
        numbers = numbers_of(path, without_comments(short_text(path)), 16)
        inverse = np.asarray(np.linalg.inv(matrix_of(path, numbers)), np.float64)
        return Loaded(str(path), 3, back @ inverse @ there)
    k, j, i = reference.shape_zyx
    stored = read_field(path, (i, j, k)) if path.suffix == ".gz" else _plain(path, (i, j, k, 3))
    _require_relative(path, stored, reference)

    def targets(plane: int, at: Matrix) -> Matrix:
        d = stored[:, :, plane].transpose(1, 0, 2).reshape(-1, 3)
        return apply_affine(back, apply_affine(there, at) + d)

    return Loaded(str(path), 3, np.eye(4), field_of_targets(reference, targets))


def _plain(path: Path, shape: tuple[int, ...]) -> Field:
    """Read a field from a file that is not compressed."""
    import nibabel

    try:
        image = nibabel.load(path)
        if image.shape != shape:  # type: ignore[attr-defined]
            got = shape_text(image.shape)  # type: ignore[attr-defined]
            raise ImageContentError(f"{path}: expected {shape_text(shape)}, got {got}")
        stored: Field = np.asarray(image.dataobj, np.float32)  # type: ignore[attr-defined]
    except (nibabel.filebasedimages.ImageFileError, OSError, ValueError) as error:
        raise ImageReadError(f"{path}: cannot be read: {str(error)[:200]!a}") from error
    if not np.isfinite(stored).all():
        raise ImageContentError(f"{path}: holds NaN or infinite displacements")
    return stored


def _require_relative(path: Path, stored: Field, reference: Grid) -> None:
    """Refuse positions, which FSL calls an absolute warp."""
    steps = tuple(slice(None, None, max(1, n // 25)) for n in stored.shape[:3])
    axes = [np.arange(n, dtype=np.float64)[s] for n, s in zip(stored.shape, steps, strict=False)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    own = apply_affine(lps_to_fsl(reference) @ RAS_LPS @ reference.ijk_to_ras, index)
    apart = np.sqrt(np.square(stored[steps].reshape(-1, 3) - own).sum(1).mean())
    size = np.sqrt(np.square(own - own.mean(0)).sum(1).mean())
    if apart < CLOSE * size:
        raise TransformError(
            f"{path}: expected FSL's relative displacements, got absolute positions: convertwarp "
            f"--ref=REFERENCE --warp1={path.name} --absin --relout --out=field.nii.gz"
        )


def _write(transform: Transform, path: Path, moving: Grid) -> str:
    grid = transform.grid
    require_volume(path, grid)
    require_volume(path, moving)
    targets = targets_ras(transform)
    into, own = lps_to_fsl(moving) @ RAS_LPS, lps_to_fsl(grid) @ RAS_LPS
    array = np.empty((*reversed(grid.shape_zyx), 3), np.float32)
    for plane in range(grid.shape_zyx[0]):
        index = np.stack(np.meshgrid(*(np.arange(n) for n in array.shape[:2]), indexing="ij"), -1)
        full = np.concatenate([index, np.full((*index.shape[:2], 1), plane)], -1)
        at = apply_affine(own @ grid.ijk_to_ras, full)
        array[:, :, plane] = apply_affine(into, targets[:, plane].transpose(2, 1, 0)) - at
    write_nifti_array(path, array, grid, (FIELD, "", 0.0))
    return "FSL displacement field of fnirt's kind, relative, for these two images"


FSL = TransformFormat(
    meaning="FSL matrix or field (FSL's mm of both images)",
    read_suffixes=(*NIFTI_SUFFIXES, ".mat", ".txt"),
    write_suffixes=NIFTI_SUFFIXES,
    recognises=_recognises,
    load=_load,
    write=_write,
    needs_moving=True,
    needs_source=True,
)
