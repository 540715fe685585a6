"""The ITK convention: transform files, displacement field images and SimpleITK objects.

:func:`write_transform` stores a transform as one ITK composite of an affine and a displacement
field. ITK applies the last transform of a composite first, so ``[affine, field]`` is A(x + u(x)),
as in :class:`~iterreg.displacement.Transform`. ITK's numbers are LPS mm.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from iterreg.atomic import last_line, write_aside
from iterreg.displacement import DisplacementField, Transform
from iterreg.errors import OutputError, TransformError
from iterreg.formats.headers import nifti_shape
from iterreg.formats.types import TransformFormat
from iterreg.geometry import Grid, Matrix, apply_linear
from iterreg.io import (
    VOLUME_EXTENSIONS,
    extension_of,
    grid_of,
    read_vector_image,
    silent_itk,
    to_itk,
    write_displacement_mm,
)

if TYPE_CHECKING:
    import SimpleITK as sitk

COMPOSITE_EXTENSIONS = (".h5", ".hdf5", ".tfm", ".txt")
"""Suffixes of the composites that iterreg writes; .h5 files are the smallest."""

READ_EXTENSIONS = (*COMPOSITE_EXTENSIONS, ".mat", ".xfm", *VOLUME_EXTENSIONS)


def write_transform(transform: Transform, path: str | Path) -> None:
    """Write a transform as one ITK composite of its affine and its residual field.

    SimpleITK, ANTs and nitransforms read it. Numbers are stored as float64.

    Args:
        transform: fixed to moving.
        path: .h5 (or .hdf5, .tfm, .txt, which are larger).

    Raises:
        OutputError: unknown extension, or a folder that is missing or not writable.

    Example:
        >>> grid = Grid((4, 5), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> write_transform(Transform(np.eye(3), DisplacementField.zero(grid)), "identity.h5")
    """
    import SimpleITK as sitk

    extension = extension_of(path)
    if extension not in COMPOSITE_EXTENSIONS:
        raise OutputError(
            f"{path}: cannot be written: expected one of {' '.join(COMPOSITE_EXTENSIONS)}, "
            f"got {extension or 'no extension'}"
        )
    composite = transform_to_itk(transform)
    write_aside(path, lambda target: sitk.WriteTransform(composite, str(target)))


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
        >>> grid = Grid((4, 5), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> write_transform(Transform(np.eye(3), DisplacementField.zero(grid)), "identity.h5")
        >>> read_transform("identity.h5").grid
        Grid(5 x 4 voxels (x first) of 1 x 1 mm, axes LP)
    """
    import SimpleITK as sitk

    path = Path(path)
    if not os.path.isfile(path):
        raise TransformError(f"{path}: no such file")
    if extension_of(path) in VOLUME_EXTENSIONS:
        field = _field_from_itk(read_vector_image(path), str(path))
        return Transform(np.eye(field.grid.rank + 1), field)
    with _one_line(path):
        loaded = sitk.ReadTransform(str(path))
    return itk_to_transform(loaded, reference, str(path))


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


def transform_to_itk(transform: Transform) -> sitk.CompositeTransform:
    """Return SimpleITK's composite ``[affine, field]``; the field is applied first."""
    import SimpleITK as sitk

    rank = transform.grid.rank
    affine = sitk.AffineTransform(rank)
    affine.SetMatrix(transform.affine_lps[:rank, :rank].ravel().tolist())
    affine.SetTranslation(transform.affine_lps[:rank, rank].tolist())
    vox = transform.field.vox.detach().cpu().double().numpy()
    mm = apply_linear(transform.grid.index_to_lps, vox)
    image = to_itk(np.moveaxis(mm, 0, -1), transform.grid, vectors=True)
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(image)])


def itk_to_transform(
    itk: sitk.Transform, reference: Grid | None = None, name: str = "transform"
) -> Transform:
    """Return a SimpleITK transform as a :class:`Transform`.

    Linear transforms (translation, rigid, affine and composites of them) become the affine, with
    a zero field on ``reference``. A displacement field that is followed by linear transforms
    becomes the residual field, and their product the affine. Any other transform is sampled on
    ``reference`` as one field and is the identity outside it.

    Args:
        itk: any transform of rank 2 or 3.
        reference: the fixed grid, if one is needed.
        name: used in messages.

    Raises:
        TransformError: as :func:`read_transform`.
    """
    parts = _flatten(itk)
    rank = itk.GetDimension()
    if reference is not None and reference.rank != rank:
        raise TransformError(f"{name}: expected a {reference.rank}-D transform, got {rank}-D")
    first_applied = parts[-1] if parts else None
    has_field = first_applied is not None and _is_field(first_applied)
    linear = parts[:-1] if has_field else parts
    if not all(part.IsLinear() for part in linear):
        return _sampled(itk, reference, name)
    affine = _product(linear, rank, name)
    if first_applied is not None and has_field:
        return Transform(affine, _field_from_itk(first_applied.GetDisplacementField(), name))
    if reference is None:
        raise TransformError(
            f"{name}: expected a reference grid, because a linear transform has none"
        )
    return Transform(affine, DisplacementField.zero(reference))


def _flatten(itk: Any) -> list[Any]:
    """Return the parts of a possibly nested composite; the last one is applied first."""
    itk = itk.Downcast()
    if itk.GetName() != "CompositeTransform":
        return [itk]
    return [
        part
        for n in range(itk.GetNumberOfTransforms())
        for part in _flatten(itk.GetNthTransform(n))
    ]


def _is_field(itk: Any) -> bool:
    return str(itk.GetName()) == "DisplacementFieldTransform"


def _product(parts: list[Any], rank: int, name: str) -> Matrix:
    matrix = np.eye(rank + 1)
    for part in parts:
        matrix = matrix @ _homogeneous(part, rank)
    if not np.all(np.isfinite(matrix)):
        raise TransformError(f"{name}: expected finite parameters, got NaN or infinite ones")
    if abs(np.linalg.det(matrix)) < 1e-12:
        raise TransformError(f"{name}: expected an affine that can be inverted, got a singular one")
    return matrix


def _homogeneous(part: Any, rank: int) -> Matrix:
    matrix = np.eye(rank + 1)
    shift = np.asarray(part.TransformPoint([0.0] * rank))
    if hasattr(part, "GetMatrix"):
        matrix[:rank, :rank] = np.asarray(part.GetMatrix()).reshape(rank, rank)
    else:
        ends = [np.asarray(part.TransformPoint(e)) for e in np.eye(rank).tolist()]
        matrix[:rank, :rank] = np.stack([end - shift for end in ends], axis=1)
    matrix[:rank, rank] = shift
    return matrix


def _field_from_itk(image: sitk.Image, name: str) -> DisplacementField:
    import SimpleITK as sitk

    grid = grid_of(image)
    mm = np.moveaxis(sitk.GetArrayViewFromImage(image), -1, 0).astype(np.float64)
    if not np.all(np.isfinite(mm)):
        raise TransformError(f"{name}: expected a finite displacement, got NaN or infinite values")
    vox = apply_linear(grid.lps_to_index, mm).astype(np.float32)
    return DisplacementField(torch.from_numpy(vox), grid)


def _sampled(itk: sitk.Transform, reference: Grid | None, name: str) -> Transform:
    import SimpleITK as sitk

    if reference is None:
        kinds = ", ".join(part.GetName() for part in _flatten(itk))
        raise TransformError(
            f"{name}: expected linear transforms and one displacement field applied first, or a "
            f"reference grid to sample on, got {kinds}"
        )
    with _one_line(name):
        image = sitk.TransformToDisplacementField(
            itk,
            sitk.sitkVectorFloat64,
            tuple(reversed(reference.shape_zyx)),
            reference.origin_lps_mm,
            reference.spacing_xyz_mm,
            np.asarray(reference.direction_lps).ravel().tolist(),
        )
    vox = _field_from_itk(image, name).vox
    return Transform(np.eye(reference.rank + 1), DisplacementField(vox, reference))


@contextmanager
def _one_line(source: str | Path) -> Iterator[None]:
    """Keep ITK from printing warnings, and turn its long errors into one line."""
    try:
        with silent_itk():
            yield
    except RuntimeError as error:
        reason = last_line(str(error))
        raise TransformError(f"{source}: expected an ITK transform, got: {reason}") from error


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
