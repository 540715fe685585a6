"""Images, label maps and displacement fields to files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.atomic import write_aside
from iterreg.displacement import Transform, total_displacement_mm
from iterreg.errors import OutputError
from iterreg.geometry import Grid
from iterreg.io.image_formats import PICTURE_EXTENSIONS, VOLUME_EXTENSIONS, extension_of
from iterreg.io.itk import to_itk, write_itk
from iterreg.io.label_reading import as_label_map
from iterreg.io.nifti import write_nifti
from iterreg.io.packing import in_steps
from iterreg.io.reading import as_image

if TYPE_CHECKING:
    from iterreg.image.kinds import ImageLike, LabelsLike


def write_image(image: ImageLike, path: str | Path) -> None:
    """Write an image in the number type and intensity scale of its file.

    Integers are rounded and clipped to the type's range. The scale goes into NIfTI headers; other
    formats have no place for one, so an image with a scale is written to them as float32.

    Args:
        image: what to write, of any kind that :func:`iterreg.optimize_pair` takes.
        path: .nii, .nii.gz, .mha, .mhd, .nrrd, .nhdr; .png, .tif for pictures, which keep at best
            the spacing, never origin and direction.

    Raises:
        OutputError: unknown extension, a folder that is missing or not writable, or a type that
            the format cannot store.

    Example:
        >>> from iterreg import Image
        >>> picture = Image.from_array(
        ...     np.full((2, 3), 7, np.uint8), axes="yx", spacing_xyz_mm=(0.5, 0.5)
        ... )
        >>> write_image(picture, "sevens.png")
        >>> Path("sevens.png").exists()
        True
    """
    image = as_image(image, "image")
    scaled = (image.slope, image.intercept) != (1.0, 0.0)
    if scaled and not extension_of(path).startswith(".nii"):
        image = replace(image, dtype="float32", slope=1.0, intercept=0.0)
    scale = (image.slope, image.intercept)
    data = image.data.detach().cpu().numpy()
    if scaled:
        data = (data.astype(np.float64) - image.intercept) / image.slope
    stored = _as_stored_type(data, np.dtype(image.dtype))
    if len(stored) == 1:
        _write_array(stored[0], image.grid, path, scale=scale)
    else:
        _write_array(np.moveaxis(stored, 0, -1), image.grid, path, vectors=True, scale=scale)


def write_label_map(labels: LabelsLike, path: str | Path) -> None:
    """Write a label map in the smallest integer type that holds its values.

    Names are not written: no two programs agree on how.

    Args:
        labels: what to write, of any kind that :func:`iterreg.optimize_pair` takes.
        path: as :func:`write_image`.

    Raises:
        OutputError: as :func:`write_image`.

    Example:
        >>> from iterreg import LabelMap
        >>> lung = LabelMap.from_array(
        ...     np.ones((1, 2, 3), bool), axes="zyx", spacing_xyz_mm=(1.0, 1.0, 2.0)
        ... )
        >>> write_label_map(lung, "lung.nii.gz")
        >>> Path("lung.nii.gz").exists()
        True
    """
    labels = as_label_map(labels, "labels")
    data = labels.data.detach().cpu().numpy()
    low, high = int(data.min()), int(data.max())
    kinds = ("uint8", "uint16", "uint32") if low >= 0 else ("int8", "int16", "int32")
    dtype = next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    _write_array(data.astype(dtype), labels.grid, path)


def write_scalar(values: torch.Tensor, grid: Grid, path: str | Path) -> None:
    """Write one number per voxel as float32, such as a Jacobian determinant.

    Args:
        values: (*shape).
        grid: of the voxels.
        path: as :func:`write_image`.

    Raises:
        OutputError: as :func:`write_image`.
    """
    _write_array(values.detach().cpu().numpy().astype(np.float32), grid, path)


def write_displacement_mm(
    transform: Transform, path: str | Path, most_step_mm: float = 0.0
) -> None:
    """Write the total displacement A(x + u(x)) - x as ITK's vector field on the fixed grid.

    Components x, y, z, LPS mm, float32. In NIfTI this is the 5-D layout with the vector intent
    that ITK and ANTs read.

    Args:
        transform: fixed to moving.
        path: the file.
        most_step_mm: components are rounded to multiples of the largest power of two that is not
            above it; 0: to float32 alone.

    Raises:
        OutputError: as :func:`write_image`.
    """
    mm = in_steps(total_displacement_mm(transform).detach().cpu().numpy(), most_step_mm)
    _write_array(np.moveaxis(mm, 0, -1), transform.grid, path, vectors=True)


def _write_array(
    array: NDArray[Any],
    grid: Grid,
    path: str | Path,
    vectors: bool = False,
    scale: tuple[float, float] = (1.0, 0.0),
) -> None:
    extension = extension_of(path)
    if extension not in VOLUME_EXTENSIONS + PICTURE_EXTENSIONS:
        raise OutputError(
            f"{path}: cannot be written: expected one of {' '.join(VOLUME_EXTENSIONS)}, "
            f"got {extension or 'no extension'}"
        )
    image = to_itk(array, grid, vectors)
    floating = array.dtype.kind == "f"
    if extension.startswith(".nii"):
        write_aside(path, lambda target: write_nifti(image, target, scale))
    else:
        # Compressing floats in these formats costs seconds and saves next to nothing.
        write_aside(path, lambda target: write_itk(image, target, compress=not floating))


def _as_stored_type(data: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Cast, rounding and clipping to what an integer type can hold; NaN becomes 0."""
    if dtype.kind not in "iu":
        return data.astype(dtype if dtype.kind == "f" and dtype.itemsize >= 4 else np.float32)
    limits = np.iinfo(dtype)
    wide = data.dtype if dtype.itemsize <= 2 else np.dtype(np.float64)
    # The largest int64 is not a float64: the clip must stay below it, not round up to it.
    high = wide.type(limits.max)
    if int(high) > limits.max:
        high = np.nextafter(high, wide.type(0))
    rounded = np.rint(data.astype(wide))
    clipped: NDArray[Any] = np.clip(np.nan_to_num(rounded, nan=0.0), limits.min, high)
    return clipped.astype(dtype)
