"""The ITK convention: transform files, displacement field images and SimpleITK objects.

:func:`write_transform` stores a transform as one ITK composite of an affine and a displacement
field. ITK applies the last transform of a composite first, so ``[affine, field]`` is A(x + u(x)),
as in :class:`~iterreg.displacement.Transform`. ITK's numbers are LPS mm.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from iterreg.atomic import write_aside
from iterreg.displacement import Transform
from iterreg.errors import OutputError, TransformError
from iterreg.formats.foreign import is_x5
from iterreg.formats.hdf5_checks import HDF5_SUFFIXES
from iterreg.formats.headers import first_bytes, nifti_head
from iterreg.formats.itk_checks import TEXT_START, check_itk_file
from iterreg.formats.itk_files import write_hdf5, write_text_transform
from iterreg.formats.itk_objects import (
    affine_to_itk,
    itk_to_loaded,
    kind_of,
    one_line,
    transform_to_itk,
)
from iterreg.formats.loaded import Loaded
from iterreg.formats.types import Sides, TransformFormat
from iterreg.formats.vectors import field_of_vectors, read_vectors, require_displacements
from iterreg.geometry import Grid, Matrix
from iterreg.io import VOLUME_EXTENSIONS, extension_of, write_displacement_mm

COMPOSITE_EXTENSIONS = (".h5", ".hdf5", ".tfm", ".txt")
"""Suffixes of the composites that iterreg writes; .h5 files are the smallest."""

READ_EXTENSIONS = (*COMPOSITE_EXTENSIONS, ".hdf", ".he5", ".mat", *VOLUME_EXTENSIONS)

INTENTS = (0, 1007)
"""NIfTI's intent codes of ITK's displacement fields: none, or a vector."""


def write_transform(transform: Transform, path: str | Path, most_step_mm: float = 0.0) -> None:
    """Write a transform as one ITK composite of its affine and its residual field.

    SimpleITK, ANTs and nitransforms read it. HDF5 stores the field as compressed float32, text as
    float64. The same transform gives the same bytes.

    Args:
        transform: fixed to moving.
        path: .h5 (or .hdf5, .tfm, .txt, which are larger).
        most_step_mm: of HDF5: displacements are rounded to multiples of the largest power of two
            that is not above it; 0: to float32 alone.

    Raises:
        OutputError: unknown extension, or a folder that is missing or not writable.

    Example:
        >>> from iterreg.displacement import DisplacementField
        >>> grid = Grid((4, 5), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> write_transform(Transform(np.eye(3), DisplacementField.zero(grid)), "identity.h5")
    """
    if not isinstance(transform, Transform):
        raise TypeError(f"transform: expected a Transform, got {kind_of(transform)}")
    extension = extension_of(path)
    if extension not in COMPOSITE_EXTENSIONS:
        raise OutputError(
            f"{path}: cannot be written: expected one of {' '.join(COMPOSITE_EXTENSIONS)}, "
            f"got {extension or 'no extension'}"
        )
    if extension in (".h5", ".hdf5"):
        write_aside(path, lambda target: write_hdf5(transform, target, most_step_mm))
    else:
        composite = transform_to_itk(transform)
        write_aside(path, lambda target: write_text_transform(composite, target))


def write_affine(affine_lps: Matrix, path: str | Path) -> None:
    """Write an affine alone as an ITK transform in a text file.

    Args:
        affine_lps: homogeneous, fixed to moving, LPS mm.
        path: .tfm or .txt.

    Raises:
        OutputError: the folder is missing or not writable.

    Example:
        >>> write_affine(np.eye(4), "identity.tfm")
    """
    import SimpleITK as sitk

    composite = sitk.CompositeTransform([affine_to_itk(affine_lps)])
    write_aside(path, lambda target: write_text_transform(composite, target))


def load_itk(path: str | Path) -> Loaded:
    """Read an ITK transform file, or the image file of a displacement field in LPS mm.

    Raises:
        TransformError: the file is missing, damaged, or holds no displacements.
        ImageReadError, ImageContentError, GeometryError: a field's image file cannot be used.
    """
    import SimpleITK as sitk

    path = Path(path)
    if not os.path.isfile(path):
        raise TransformError(f"{path}: no such file")
    if extension_of(path) in VOLUME_EXTENSIONS:
        vectors, grid = read_vectors(path)
        require_displacements(path, grid, vectors)
        field = field_of_vectors(vectors, grid)
        return Loaded(str(path), field.grid.rank, np.eye(field.grid.rank + 1), field)
    check_itk_file(path)
    try:
        with one_line(path):
            loaded = sitk.ReadTransform(str(path))
        return itk_to_loaded(loaded, str(path))
    except (KeyError, TypeError) as error:  # SimpleITK's table of classes has no such kind
        raise TransformError(
            f"{path}: expected a kind of transform that SimpleITK knows; write it as an affine or "
            "as a displacement field"
        ) from error


def _recognises(path: Path) -> bool:
    head = nifti_head(path)
    if head is not None:
        return len(head.shape) == 5 and head.intent_code in INTENTS and not head.intent_name
    suffix = extension_of(path)
    if suffix in VOLUME_EXTENSIONS:
        return True
    start = first_bytes(path)
    if suffix in HDF5_SUFFIXES:
        return not is_x5(path)
    if suffix == ".mat":
        return b"\0" in start and not start.startswith((b"MATLAB", b"\x89HDF"))
    return start.startswith(TEXT_START)


def _load(path: Path, sides: Sides) -> Loaded:
    return load_itk(path)


def _write(transform: Transform, path: Path, moving: Grid) -> str:
    if extension_of(path) in COMPOSITE_EXTENSIONS:
        write_transform(transform, path)
        return "ITK composite of affine and field (mm, LPS)"
    write_displacement_mm(transform, path)
    return "ITK displacement field, total, x y z in mm, LPS"


ITK = TransformFormat(
    meaning="ITK transform (mm, LPS)",
    read_suffixes=READ_EXTENSIONS,
    write_suffixes=(*COMPOSITE_EXTENSIONS, *VOLUME_EXTENSIONS),
    recognises=_recognises,
    load=_load,
    write=_write,
)
