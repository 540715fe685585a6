"""SimpleITK's transforms, to and from iterreg's. ITK's numbers are LPS mm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iterreg.atomic import last_line
from iterreg.displacement import DisplacementField, Transform
from iterreg.errors import TransformError
from iterreg.formats.loaded import LARGEST, Loaded
from iterreg.formats.vectors import field_of_vectors
from iterreg.geometry import Grid, Matrix, Points, apply_linear
from iterreg.io import silent_itk, to_itk
from iterreg.io.itk import named_grid

if TYPE_CHECKING:
    import SimpleITK as sitk


DEEPEST = 8
"""Composites are nested no deeper."""


def transform_to_itk(transform: Transform) -> sitk.CompositeTransform:
    """Return SimpleITK's composite ``[affine, field]``; the field is applied first."""
    import SimpleITK as sitk

    affine = affine_to_itk(transform.affine_lps)
    vox = transform.field.vox.detach().cpu().double().numpy()
    mm = apply_linear(transform.grid.index_to_lps, vox)
    image = to_itk(np.moveaxis(mm, 0, -1), transform.grid, vectors=True)
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(image)])


def chain(links: Sequence[Loaded]) -> Loaded:
    """Apply several transforms one after the other, the first of them first.

    This is the order of ANTs: ``-t warp -t affine`` takes a point x to affine(warp(x)).

    Args:
        links: one or more, of one rank.

    Raises:
        TransformError: the ranks differ.
    """
    require_one_rank(links)
    if len(links) == 1:
        return links[0]
    import SimpleITK as sitk

    parts = [part for link in reversed(links) for part in _parts_of(link)]
    name = ", then ".join(link.name for link in links)
    return itk_to_loaded(sitk.CompositeTransform(parts), name)


def require_one_rank(links: Sequence[Loaded]) -> None:
    """Refuse a chain of transforms of different ranks.

    Raises:
        TransformError: naming two of them.
    """
    first = links[0]
    for other in links[1:]:
        if other.rank != first.rank:
            raise TransformError(
                f"{other.name}: expected a {first.rank}-D transform as {first.name}, got a "
                f"{other.rank}-D one"
            )


def map_points(loaded: Loaded, points: Points) -> Points:
    """Map points through a transform, without any grid of reference.

    Raises:
        TransformError: it takes a point to no place.
    """
    if loaded.sampled is None:
        return loaded.for_points().map_points(points)
    with one_line(loaded.name):
        found = [loaded.itk.TransformPoint(point) for point in points.lps.tolist()]
    mapped = np.asarray(found, np.float64)
    if not (np.abs(mapped - points.lps) <= LARGEST).all():
        raise TransformError(
            f"{loaded.name}: expected displacements in mm, got some that are not finite or above "
            f"{LARGEST:g}"
        )
    return Points(mapped, points.name)


def _parts_of(link: Loaded) -> list[sitk.Transform]:
    """SimpleITK's transforms of one link; the last is applied first."""
    if link.sampled is not None:
        return _flatten(link.itk)
    if link.field is not None:
        return _flatten(transform_to_itk(Transform(link.affine_lps, link.field)))
    return [affine_to_itk(link.affine_lps)]


def affine_to_itk(affine_lps: Matrix) -> sitk.AffineTransform:
    """Return SimpleITK's affine of a homogeneous matrix in LPS mm."""
    import SimpleITK as sitk

    rank = affine_lps.shape[0] - 1
    affine = sitk.AffineTransform(rank)
    affine.SetMatrix(affine_lps[:rank, :rank].ravel().tolist())
    affine.SetTranslation(affine_lps[:rank, rank].tolist())
    return affine


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
    return itk_to_loaded(itk, name).on(reference)


def itk_to_loaded(itk: sitk.Transform, name: str) -> Loaded:
    """Return a SimpleITK transform before it is put on a grid: see :func:`itk_to_transform`.

    Raises:
        TransformError: not finite, or an affine that cannot be inverted.
    """
    parts, rank = _flatten(itk), itk.GetDimension()
    has_field = bool(parts) and _is_field(parts[-1])
    linear = parts[:-1] if has_field else parts
    if not all(part.IsLinear() for part in linear):
        kinds = ", ".join(part.GetName() for part in parts)
        sampled = partial(_sampled, itk, name)
        return Loaded(name, rank, np.eye(rank + 1), sampled=sampled, kinds=kinds, itk=itk)
    affine = _product(linear, rank, name)
    if has_field:
        return Loaded(name, rank, affine, field_from_itk(parts[-1].GetDisplacementField(), name))
    return Loaded(name, rank, affine)


def _flatten(itk: Any, depth: int = 0) -> list[Any]:
    """Return the parts of a possibly nested composite; the last one is applied first.

    SimpleITK shows a kind that it has no class for as a composite that holds itself.
    """
    itk = itk.Downcast()
    if itk.GetName() != "CompositeTransform" or depth == DEEPEST:
        return [itk]
    return [
        part
        for n in range(itk.GetNumberOfTransforms())
        for part in _flatten(itk.GetNthTransform(n), depth + 1)
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


def field_from_itk(image: sitk.Image, name: str) -> DisplacementField:
    """Return a vector image of displacements as a field.

    Raises:
        TransformError: NaN or infinite values.
    """
    import SimpleITK as sitk

    grid = named_grid(image, name)
    field = field_of_vectors(np.moveaxis(sitk.GetArrayViewFromImage(image), -1, 0), grid)
    if not bool(field.vox.isfinite().all()):
        raise TransformError(f"{name}: expected a finite displacement, got NaN or infinite values")
    return field


def _sampled(itk: sitk.Transform, name: str, reference: Grid) -> Transform:
    import SimpleITK as sitk

    with one_line(name):
        image = sitk.TransformToDisplacementField(
            itk,
            sitk.sitkVectorFloat64,
            tuple(reversed(reference.shape_zyx)),
            reference.origin_lps_mm,
            reference.spacing_xyz_mm,
            np.asarray(reference.direction_lps).ravel().tolist(),
        )
    vox = field_from_itk(image, name).vox
    return Transform(np.eye(reference.rank + 1), DisplacementField(vox, reference))


@contextmanager
def one_line(source: str | Path) -> Iterator[None]:
    """Keep ITK from printing warnings, and turn its long errors into one line."""
    try:
        with silent_itk():
            yield
    except RuntimeError as error:
        reason = last_line(str(error))
        raise TransformError(f"{source}: expected an ITK transform, got: {reason}") from error


def kind_of(value: object) -> str:
    """What something is that is no transform, and where the transform is if it has one."""
    hint = ", which has one: give its .transform" if hasattr(value, "transform") else ""
    return type(value).__name__ + hint
