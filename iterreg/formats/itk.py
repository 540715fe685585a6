"""The ITK convention: transform files, displacement field images and SimpleITK objects.

:func:`write_transform` stores a transform as one ITK composite of an affine and a displacement
field. ITK applies the last transform of a composite first, so ``[affine, field]`` is A(x + u(x)),
as in :class:`~iterreg.displacement.Transform`. ITK's numbers are LPS mm.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iterreg.atomic import write_aside
from iterreg.displacement import Transform
from iterreg.errors import OutputError, TransformError
from iterreg.formats.headers import nifti_shape
from iterreg.formats.itk_checks import check_itk_file
from iterreg.formats.itk_files import write_hdf5, write_text_transform
from iterreg.formats.itk_objects import (
    field_from_itk,
    itk_to_loaded,
    itk_to_transform,
    one_line,
    transform_to_itk,
)
from iterreg.formats.loaded import Loaded
from iterreg.formats.types import TransformFormat
from iterreg.geometry import Grid
from iterreg.io import VOLUME_EXTENSIONS, extension_of, read_vector_image, write_displacement_mm

if TYPE_CHECKING:
    import SimpleITK as sitk

COMPOSITE_EXTENSIONS = (".h5", ".hdf5", ".tfm", ".txt")
"""Suffixes of the composites that iterreg writes; .h5 files are the smallest."""

READ_EXTENSIONS = (*COMPOSITE_EXTENSIONS, ".mat", ".xfm", *VOLUME_EXTENSIONS)


def write_transform(transform: Transform, path: str | Path) -> None:
    """Write a transform as one ITK composite of its affine and its residual field.

    SimpleITK, ANTs and nitransforms read it. Numbers are stored as float64. The same transform
    gives the same bytes.

    Args:
        transform: fixed to moving.
        path: .h5 (or .hdf5, .tfm, .txt, which are larger).

    Raises:
        OutputError: unknown extension, or a folder that is missing or not writable.

    Example:
        >>> from iterreg.displacement import DisplacementField
        >>> grid = Grid((4, 5), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> write_transform(Transform(np.eye(3), DisplacementField.zero(grid)), "identity.h5")
    """
    extension = extension_of(path)
    if extension not in COMPOSITE_EXTENSIONS:
        raise OutputError(
            f"{path}: cannot be written: expected one of {' '.join(COMPOSITE_EXTENSIONS)}, "
            f"got {extension or 'no extension'}"
        )
    if extension in (".h5", ".hdf5"):
        write_aside(path, lambda target: write_hdf5(transform, target))
    else:
        composite = transform_to_itk(transform)
        write_aside(path, lambda target: write_text_transform(composite, target))


def read_transform(path: str | Path, reference: Grid | None = None) -> Transform:
    """Read a transform that follows the ITK convention, from any program.

    Args:
        path: an ITK transform file (.h5, .tfm, .txt, .mat, .xfm), or the image file of a
            displacement field (components x, y, z, LPS mm).
        reference: the fixed grid. Needed if the file has no grid (an affine alone) or holds a
            transform that has to be sampled (B-splines). A displacement field keeps its own grid:
            :func:`~iterreg.displacement.resample_transform` changes it.

    Returns:
        The transform; a file of :func:`write_transform` gives back the same transform.

    Raises:
        TransformError: the file is missing, unreadable or not finite, its rank differs from
            ``reference``, or ``reference`` is needed and None.
        ImageReadError, ImageContentError, GeometryError: a field's image file cannot be used.

    Example:
        >>> from iterreg.displacement import DisplacementField
        >>> grid = Grid((4, 5), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> write_transform(Transform(np.eye(3), DisplacementField.zero(grid)), "identity.h5")
        >>> read_transform("identity.h5").grid
        Grid(5 x 4 voxels (x first) of 1 x 1 mm, axes LP)
    """
    return load_itk(path).on(reference)


def load_itk(path: str | Path) -> Loaded:
    """Read what :func:`read_transform` reads, without putting it on a grid.

    Raises:
        TransformError, ImageReadError, ImageContentError, GeometryError: as
            :func:`read_transform`.
    """
    import SimpleITK as sitk

    path = Path(path)
    if not os.path.isfile(path):
        raise TransformError(f"{path}: no such file")
    if extension_of(path) in VOLUME_EXTENSIONS:
        field = field_from_itk(read_vector_image(path), str(path))
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


def as_transform(
    value: str | Path | sitk.Transform | Transform, name: str, reference: Grid | None = None
) -> Transform:
    """Return a transform, given a path, a SimpleITK transform, or a :class:`Transform` (as it is).

    Args:
        value: the path or object.
        name: the argument's name, used in messages if there is no path.
        reference: the fixed grid, as in :func:`read_transform`.

    Raises:
        TypeError: the value has another type.
        TransformError: as :func:`read_transform`.
    """
    import SimpleITK as sitk

    if isinstance(value, Transform):
        return value
    if isinstance(value, str | Path):
        return read_transform(value, reference)
    if not isinstance(value, sitk.Transform):
        raise TypeError(
            f"{name}: expected a path, a SimpleITK transform or a Transform, got "
            f"{type(value).__name__}"
        )
    return itk_to_transform(value, reference, name)


def _recognises(path: Path) -> bool:
    shape = nifti_shape(path)
    return shape is None or len(shape) == 5


def _read(path: Path, fixed: Grid, moving: Grid) -> Transform:
    return read_transform(path, fixed)


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
    read=_read,
    write=_write,
    needs_moving=False,
)
