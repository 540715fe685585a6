"""Transforms in and out of ITK's files and objects.

On disk a transform is one ITK composite of an affine and a displacement field. ITK applies the
transform that was added last first: ``[affine, field]`` is A(x + u(x)), as here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.atomic import write_aside
from iterreg.displacement import DisplacementField, Transform, sample
from iterreg.errors import OutputError, TransformError
from iterreg.geometry import Grid, Matrix
from iterreg.io import VOLUME_EXTENSIONS, extension_of, grid_of, read_vector_image, to_itk

if TYPE_CHECKING:
    import SimpleITK as sitk

COMPOSITE_EXTENSIONS = (".h5", ".hdf5", ".tfm", ".txt")
"""Files that hold a composite; .h5 is the smallest."""

ROWS_PER_SLAB = 16
"""Rows of the first axis that are resampled together: bounds the coordinates' memory."""


def write_transform(transform: Transform, path: str | Path) -> None:
    """Write a transform as one ITK composite of its affine and its residual field.

    SimpleITK, ANTs and nitransforms read it. Numbers are stored as float64.

    Args:
        transform: fixed to moving.
        path: .h5 (or .hdf5, .tfm, .txt, which are larger).

    Raises:
        OutputError: another extension, or a folder that is missing or not writable.
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
    """Read a transform, whoever wrote it.

    Args:
        path: an ITK transform file (.h5, .tfm, .txt, .mat, .xfm), or the image file of a
            displacement field (components x, y, z, LPS mm).
        reference: the fixed grid. Needed where the file has no grid of its own (an affine alone)
            or is of a kind that has to be sampled (B-splines). A transform with a field keeps
            that field's grid: :func:`resample_transform` changes it.

    Returns:
        The transform; one written by :func:`write_transform` comes back as it was.

    Raises:
        TransformError: missing, unreadable, not finite, of another rank than ``reference``, or
            ``reference`` is needed and None.
        ImageReadError, ImageContentError, GeometryError: a field's image file cannot be used.
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
    """A transform from a path, a SimpleITK transform, or a :class:`Transform` (as it is).

    Args:
        value: what the caller was given.
        name: the argument's name, used in messages where there is no path.
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
    """SimpleITK's composite ``[affine, field]``: the field is applied first."""
    import SimpleITK as sitk

    rank = transform.grid.rank
    affine = sitk.AffineTransform(rank)
    affine.SetMatrix(transform.affine_lps[:rank, :rank].ravel().tolist())
    affine.SetTranslation(transform.affine_lps[:rank, rank].tolist())
    vox = transform.field.vox.detach().cpu().double().numpy()
    mm = _mix_components(transform.grid.index_to_lps, vox)
    field = sitk.DisplacementFieldTransform(
        to_itk(np.moveaxis(mm, 0, -1), transform.grid, vectors=True)
    )
    return sitk.CompositeTransform([affine, field])


def itk_to_transform(
    itk: sitk.Transform, reference: Grid | None = None, name: str = "transform"
) -> Transform:
    """A SimpleITK transform as one of ours.

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
            f"{name}: expected a reference grid beside a linear transform, which has none"
        )
    return Transform(affine, DisplacementField.zero(reference))


def resample_transform(transform: Transform, reference: Grid) -> Transform:
    """The same transform with its field on another grid.

    The affine is kept, the residual is sampled linearly: zero outside the old grid. Where the
    motion jumps across an interface the two sides blend within one voxel of the old grid.

    Args:
        transform: fixed to moving.
        reference: the new fixed grid, of the same rank.

    Raises:
        TransformError: the ranks differ.
    """
    old = transform.grid
    if reference.rank != old.rank:
        raise TransformError(
            f"transform: expected a {old.rank}-D reference grid, got {reference.rank}-D"
        )
    if reference.same_space(old):
        return Transform(transform.affine_lps, DisplacementField(transform.field.vox, reference))
    rank = old.rank
    to_old = old.lps_to_index @ reference.index_to_lps
    turn = (reference.lps_to_index @ old.index_to_lps)[:rank, :rank]
    vox = transform.field.vox.new_empty(rank, *reference.shape_zyx)
    for start in range(0, reference.shape_zyx[0], ROWS_PER_SLAB):
        rows = slice(start, min(start + ROWS_PER_SLAB, reference.shape_zyx[0]))
        shape = (rows.stop - rows.start, *reference.shape_zyx[1:])
        index = np.indices(shape, np.float64)
        index[0] += start
        at = torch.from_numpy(_mix_components(to_old, index, shift=True)).float()
        u = sample(transform.field.vox, at.to(vox.device), outside=0.0)
        vox[:, rows] = torch.einsum("ij,j...->i...", u.new_tensor(turn.tolist()), u)
    return Transform(transform.affine_lps, DisplacementField(vox, reference))


def _mix_components(
    matrix: Matrix, vectors: NDArray[np.float64], shift: bool = False
) -> NDArray[np.float64]:
    """Apply the linear part (and the shift) of a homogeneous matrix to (rank, *shape)."""
    rank = matrix.shape[0] - 1
    mixed = (matrix[:rank, :rank] @ vectors.reshape(rank, -1)).reshape(vectors.shape)
    if shift:
        mixed += matrix[:rank, rank].reshape(-1, *[1] * (vectors.ndim - 1))
    return np.asarray(mixed, np.float64)


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
    vox = _mix_components(grid.lps_to_index, mm)
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
    """Turn ITK's multi-line errors into one line; silence its console warnings."""
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else "no reason given"
        raise TransformError(f"{source}: expected an ITK transform, got: {reason}") from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
