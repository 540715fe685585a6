"""Vector images of other programs: to and from fields, and what must not pass for displacements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.atomic import write_aside
from iterreg.displacement import DisplacementField, Transform, total_displacement_mm
from iterreg.errors import OutputError, TransformError
from iterreg.formats.hdf5_checks import MOST_UNPACKED, SMALL_BYTES
from iterreg.formats.headers import nifti_head
from iterreg.geometry import Grid, Matrix, apply_affine, apply_linear
from iterreg.io import read_vector_image
from iterreg.io.itk import named_grid

Vectors = NDArray[np.floating[Any]]

DISPLACEMENT_CODE = 1006
"""NIfTI's code of displacements, which are in the file's own space: RAS mm."""

CLOSE = 0.3
"""Vectors are positions if they differ from the voxels' own by less than this share of the extent
of the image."""

SAMPLES = 20_000
"""Voxels that are looked at, about."""


def read_vectors(path: Path) -> tuple[Vectors, Grid]:
    """Read a vector image with the vectors as they are stored.

    Returns:
        (rank, *shape), components x first, and the grid.

    Raises:
        ImageReadError, ImageContentError, GeometryError: the file cannot be used.
    """
    import SimpleITK as sitk

    head = nifti_head(path)
    if head is not None:
        _require_stored(path, head.data_bytes)
    image = read_vector_image(path)
    grid = named_grid(image, str(path))
    vectors = np.moveaxis(sitk.GetArrayFromImage(image), -1, 0)
    if head is not None and head.intent_code == DISPLACEMENT_CODE:
        vectors = vectors.copy()
        vectors[:2] *= -1  # these alone were turned from RAS into LPS when they were read
    return vectors, grid


def _require_stored(path: Path, stated: int) -> None:
    """Refuse a small file that asks for any amount of memory."""
    stored = path.stat().st_size
    if stated > SMALL_BYTES and stated > MOST_UNPACKED * stored:
        raise TransformError(
            f"{path}: expected displacements that are stored, got {stated / 1e9:.1f} GB of them in "
            f"{stored / 1e6:.1f} MB"
        )


def field_of_vectors(vectors: Vectors, grid: Grid) -> DisplacementField:
    """Return displacements, (rank, *shape) x first in LPS mm, as a field."""
    vox = np.empty((grid.rank, *grid.shape_zyx), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused by its reader
        for plane in range(grid.shape_zyx[0]):
            mm = np.asarray(vectors[:, plane], np.float64)
            vox[:, plane] = apply_linear(grid.lps_to_index, mm)
    return DisplacementField(torch.from_numpy(vox), grid)


def field_of_targets(grid: Grid, targets: Callable[[int, Matrix], Matrix]) -> DisplacementField:
    """Make the field that takes each voxel to a target.

    Args:
        grid: of the field.
        targets: called for each plane with its number and the voxels' positions, (n, rank) LPS
            mm; returns where they go, likewise.
    """
    rank, vox = grid.rank, np.empty((grid.rank, *grid.shape_zyx), np.float32)
    for plane in range(grid.shape_zyx[0]):
        at = _positions(grid, plane)
        u = (targets(plane, at) - at).T.reshape(rank, *grid.shape_zyx[1:])
        vox[:, plane] = apply_linear(grid.lps_to_index, u)
    return DisplacementField(torch.from_numpy(vox), grid)


def _positions(grid: Grid, plane: int) -> Matrix:
    """The positions of the voxels of a plane, (n, rank) LPS mm."""
    index = np.indices(grid.shape_zyx[1:], np.float64).reshape(grid.rank - 1, -1).T
    full = np.concatenate([np.full((len(index), 1), float(plane)), index], axis=1)
    return apply_affine(grid.index_to_lps, full)


def own_positions(grid: Grid, vectors: Vectors) -> str:
    """Name what a vector image is close to: the positions of its voxels, or nothing of the kind.

    Args:
        grid: of the image.
        vectors: (rank, *shape), components x first.

    Returns:
        Positions in words; empty if the vectors are none.
    """
    rank = grid.rank
    step = max(1, round((grid.voxel_count / SAMPLES) ** (1 / rank)))
    some = (slice(None), *[slice(None, None, step)] * rank)
    axes = [np.arange(0, n, step, dtype=np.float64) for n in grid.shape_zyx]
    index = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(rank, -1).T
    given = vectors[some].reshape(rank, -1).T
    lps = apply_affine(grid.index_to_lps, index)
    ras = lps * np.array([-1.0, -1.0, 1.0])[:rank]
    ijk = np.asarray(index[:, ::-1], np.float64)
    named = {
        "positions in RAS mm": ras,
        "positions in LPS mm": lps,
        "indices": ijk,
        "indices times the spacing": ijk * np.asarray(grid.spacing_xyz_mm),
    }
    for words, own in named.items():
        size = _rms(own - own.mean(0))
        if size > 0 and _rms(given - own) < CLOSE * size:
            return words
    return ""


def _rms(vectors: Matrix) -> float:
    return float(np.sqrt(np.square(vectors).sum(1).mean()))


def require_displacements(path: Path, grid: Grid, vectors: Vectors) -> None:
    """Refuse vectors that are positions where displacements are expected.

    Raises:
        TransformError: naming what they are close to, and what to do.
    """
    close_to = own_positions(grid, vectors)
    if close_to:
        raise TransformError(
            f"{path}: expected displacements, got vectors close to the voxels' own {close_to}: a "
            "deformation, as NiftyReg, SPM and FSL write one; if it is theirs, name the program: "
            "iterreg convert --from niftyreg, spm or fsl"
        )


def targets_ras(transform: Transform) -> Vectors:
    """Where each voxel goes, (rank, *shape) RAS mm, components x first."""
    grid = transform.grid
    total = total_displacement_mm(transform).detach().cpu().numpy().astype(np.float64)
    for plane in range(grid.shape_zyx[0]):
        total[:, plane] += _positions(grid, plane).T.reshape(grid.rank, *grid.shape_zyx[1:])
    total[:2] *= -1
    return total


def write_vectors(path: Path, vectors: Vectors, grid: Grid, intent: tuple[int, str, float]) -> None:
    """Write vectors as a 5-D NIfTI file, I x J x K x 1 x 3.

    Args:
        path: .nii or .nii.gz.
        vectors: (3, *shape), components x first.
        grid: of the voxels.
        intent: code, name and first parameter, which say what the vectors are.

    Raises:
        OutputError: rank 2, or the file cannot be written.
    """
    require_volume(path, grid)
    array = vectors.transpose(3, 2, 1, 0)[:, :, :, None]
    write_nifti_array(path, array, grid, intent)


def require_volume(path: Path, grid: Grid) -> None:
    """Refuse a picture where the format knows volumes alone.

    Raises:
        OutputError: rank 2.
    """
    if grid.rank != 3:
        raise OutputError(f"{path}: expected 3-D images for this format, got 2-D ones")


def write_nifti_array(
    path: Path, array: Vectors, grid: Grid, intent: tuple[int, str, float]
) -> None:
    """Write an array in nibabel's order as float32; equal arrays give equal files.

    Raises:
        OutputError: the file cannot be written.
    """
    import nibabel

    code, name, parameter = intent
    image = nibabel.Nifti1Image(array.astype(np.float32), grid.ijk_to_ras)
    image.set_sform(grid.ijk_to_ras, 1)
    image.set_qform(grid.ijk_to_ras, 1)
    image.header.set_xyzt_units("mm")
    image.header.set_intent(code, name=name, allow_unknown=True)
    image.header["intent_p1"] = parameter
    write_aside(path, lambda target: nibabel.save(image, target))
