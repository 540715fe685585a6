"""ITK's transforms: files, SimpleITK objects, and displacement fields in mm, LPS.

A file holds one ITK composite of an affine and a displacement field. ITK applies the transform that
was added last first: ``[affine, field]`` is A(x + u(x)), as here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from iterreg.atomic import last_line, write_aside
from iterreg.displacement import DisplacementField, Transform, mix_components
from iterreg.errors import OutputError, TransformError
from iterreg.formats.common import COMPOSITE_EXTENSIONS, nifti_shape
from iterreg.geometry import Grid, Matrix
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

READ_ONLY_EXTENSIONS = (".mat", ".xfm")
"""ITK also reads these files of transforms; they cannot hold a displacement field."""


def write_transform(transform: Transform, path: str | Path) -> None:
    """Write a transform as one ITK composite of its affine and its residual field.

    SimpleITK, ANTs and nitransforms read it. Numbers are stored as float64.

    Args:
        transform: fixed to moving.
        path: .h5 (or .hdf5, .tfm, .txt, which are larger).

    Raises:
        OutputError: another extension, or a folder that is missing or not writable.

    Example:
        >>> from iterreg.geometry import Grid
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((4, 5, 6), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> shift = np.eye(4)
        >>> shift[:3, 3] = (5.0, 0.0, 0.0)
        >>> write_transform(Transform(shift, DisplacementField.zero(grid)), "shift.h5")
        >>> read_transform("shift.h5").affine_lps[0].tolist()
        [1.0, 0.0, 0.0, 5.0]
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
    """Read a transform from an ITK transform file or a displacement field.

    Args:
        path: an ITK transform file (.h5, .tfm, .txt, .mat, .xfm), or the image file of a
            displacement field (components x, y, z, LPS mm).
        reference: the fixed grid. It is needed if the file has no grid of its own (an affine
            alone) or is of a kind that has to be sampled (B-splines). A transform with a field
            keeps the grid of its field; :func:`iterreg.displacement.resample_transform` changes it.

    Returns:
        The transform; one written by :func:`write_transform` comes back as it was.

    Raises:
        TransformError: missing, unreadable, not finite, of another rank than ``reference``, or
            ``reference`` is needed and None.
        ImageReadError, ImageContentError, GeometryError: a field's image file cannot be used.

    Example:
        >>> import SimpleITK
        >>> from iterreg.geometry import Grid
        >>> turn = SimpleITK.Euler3DTransform((0.0, 0.0, 0.0), 0.0, 0.0, 0.1)
        >>> SimpleITK.WriteTransform(turn, "turn.tfm")
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((4, 5, 6), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> np.round(read_transform("turn.tfm", grid).affine_lps[0], 3).tolist()
        [0.995, -0.1, 0.0, 0.0]
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.is_file():
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
    """Return a transform from a path, a SimpleITK transform, or a :class:`Transform` (as it is).

    Args:
        value: a path or a transform.
        name: the argument's name, for messages about values without a path.
        reference: the fixed grid, as in :func:`read_transform`.

    Raises:
        TypeError: anything else.
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
    """Return SimpleITK's composite ``[affine, field]``, which applies the field first."""
    import SimpleITK as sitk

    rank = transform.grid.rank
    affine = sitk.AffineTransform(rank)
    affine.SetMatrix(transform.affine_lps[:rank, :rank].ravel().tolist())
    affine.SetTranslation(transform.affine_lps[:rank, rank].tolist())
    vox = transform.field.vox.detach().cpu().double().numpy()
    mm = mix_components(transform.grid.index_to_lps, vox)
    field = sitk.DisplacementFieldTransform(
        to_itk(np.moveaxis(mm, 0, -1), transform.grid, vectors=True)
    )
    return sitk.CompositeTransform([affine, field])


def itk_to_transform(
    itk: sitk.Transform, reference: Grid | None = None, name: str = "transform"
) -> Transform:
    """Turn a SimpleITK transform into one of ours.

    Linear transforms (translation, rigid, affine and composites of them) become the affine, with
    a zero field on ``reference``. Linear transforms after at most one displacement field stay
    apart: affine and residual. Everything else is sampled on ``reference`` as one field, and is
    then the identity outside it.

    Args:
        itk: any transform of rank 2 or 3.
        reference: the fixed grid, where one is needed.
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
            f"{name}: expected a reference grid in addition to a linear transform, which has none"
        )
    return Transform(affine, DisplacementField.zero(reference))


def _flatten(itk: Any) -> list[Any]:
    """The parts of a possibly nested composite, the one that is applied first at the end."""
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
    vox = mix_components(grid.lps_to_index, mm)
    return DisplacementField(torch.from_numpy(vox.astype(np.float32)), grid)


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
    field = _field_from_itk(image, name)
    return Transform(np.eye(reference.rank + 1), DisplacementField(field.vox, reference))


@contextmanager
def _one_line(source: str | Path) -> Iterator[None]:
    """Keep ITK from printing warnings, and turn its long errors into one line."""
    try:
        with silent_itk():
            yield
    except RuntimeError as error:
        reason = last_line(str(error))
        raise TransformError(f"{source}: expected an ITK transform, got: {reason}") from error


def is_itk_file(path: Path) -> bool:
    """Whether a file may hold an ITK transform; a NIfTI file has to be a vector image."""
    extension = extension_of(path)
    if extension.startswith(".nii"):
        return len(nifti_shape(path)) == 5
    return extension in (*COMPOSITE_EXTENSIONS, *READ_ONLY_EXTENSIONS, *VOLUME_EXTENSIONS)


def read_for(source: Path, start: Grid, end: Grid) -> Transform:
    """Read a transform that maps points of one grid's image to another's."""
    return read_transform(source, start)


def write_for(transform: Transform, out: Path, moving: Grid) -> str:
    """Write a composite or a displacement field, by the extension; return which in words."""
    if extension_of(out) in COMPOSITE_EXTENSIONS:
        write_transform(transform, out)
        return "ITK composite of affine and field (mm, LPS)"
    write_displacement_mm(transform, out)
    return "ITK displacement field, total, x y z in mm, LPS"
