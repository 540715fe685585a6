"""Images and label maps from files and SimpleITK images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.errors import ImageContentError
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.io.choices import GeometryWarning
from iterreg.io.dicom import holds_dicom, load_dicom
from iterreg.io.image_formats import Stored, format_of, load_file
from iterreg.io.itk import (
    channels_first,
    named_grid,
    numpy_type,
    require_exists,
    require_sane,
    scalar_volume,
)
from iterreg.tables import load

if TYPE_CHECKING:
    import SimpleITK as sitk


def read_image(path: str | Path, series: str | None = None) -> Image:
    """Read an image.

    Args:
        path: NIfTI, MetaImage or NRRD file, a picture (PNG, JPEG, TIFF, BMP), a folder with DICOM
            files, a DICOMDIR, or a DICOM file of many frames.
        series: of a DICOM folder with several: number, UID, or part of the description.

    Returns:
        The image; rank 2 for a 2-D file, C = 3 for an RGB picture. ``name`` is the path as given,
        ``dtype``, ``slope`` and ``intercept`` are those of the file.

    Raises:
        ImageReadError: missing, truncated, not an image, or of an unsupported format.
        ImageContentError: 4-D, a vector per voxel, complex.
        GeometryError: a spacing that is not positive, or sheared axes.

    Example:
        >>> from iterreg.io.writing import write_image
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> from iterreg.geometry import Grid
        >>> grid = Grid((2, 3, 4), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> write_image(Image(torch.ones(1, 2, 3, 4), grid, dtype="uint8"), "ones.nii.gz")
        >>> image = read_image("ones.nii.gz")
        >>> image.dtype, image.grid.spacing_xyz_mm
        ('uint8', (1.0, 1.0, 2.0))
    """
    name = str(path)
    loaded, stored = _load(Path(path), series)
    data = channels_first(loaded, name)
    return Image(
        torch.from_numpy(data),
        named_grid(loaded, name),
        stored.dtype or numpy_type(loaded),
        stored.slope,
        stored.intercept,
        name,
        stored.notes,
        stored.series,
    )


def grid_of_file(path: str | Path) -> Grid:
    """The grid of an image file, from its header alone.

    Raises:
        ImageReadError, ImageContentError, GeometryError: the file cannot be read, or its grid
            cannot be used.
    """
    path = Path(path)
    require_exists(path)
    reader = "" if os.path.isdir(path) else format_of(path).grid
    if not reader:
        return read_image(path).grid
    grid: Grid = load(reader)(path)
    return require_sane(grid, str(path))


def read_channels(path: str | Path) -> Image:
    """Read a file with several numbers per voxel, such as ``expected_error_mm.nii.gz``.

    Raises:
        ImageReadError, GeometryError: as :func:`read_image`.
    """
    import SimpleITK as sitk

    path = Path(path)
    require_exists(path)
    loaded, _ = load_file(path)
    stored = sitk.GetArrayViewFromImage(loaded)
    channels = stored[None] if stored.ndim == loaded.GetDimension() else np.moveaxis(stored, -1, 0)
    data = torch.from_numpy(np.array(channels, np.float32))
    return Image(data, named_grid(loaded, str(path)), name=str(path))


def read_label_map(path: str | Path, names: Mapping[int, str] | None = None) -> LabelMap:
    """Read a label map, in any format of :func:`read_image`.

    Args:
        path: the file. Floating-point files are accepted if every value is a whole number.
        names: name of each label; None takes the names that the file carries, if it does.

    Raises:
        ImageReadError: as :func:`read_image`.
        ImageContentError: NaN, infinite or fractional values, values beyond 32 bits, or a vector
            per voxel.
        GeometryError: as :func:`read_image`.

    Example:
        >>> from iterreg.io.writing import write_label_map
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> from iterreg.geometry import Grid
        >>> grid = Grid((2, 3, 4), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> fives = torch.full((2, 3, 4), 5, dtype=torch.int32)
        >>> write_label_map(LabelMap(fives, grid), "five.nrrd")
        >>> labels = read_label_map("five.nrrd", {5: "liver"})
        >>> labels.values, labels.title(5)
        ([5], 'liver')
    """
    loaded, stored = _load(Path(path))
    names = stored.names if names is None else names
    return replace(_label_map(loaded, str(path), names), notes=stored.notes)


def read_mask(path: str | Path) -> LabelMap:
    """Read a mask: every non-zero voxel becomes 1.

    Raises:
        ImageReadError: as :func:`read_image`.
        ImageContentError: as :func:`read_label_map`, or no voxel is inside.
        GeometryError: as :func:`read_image`.
    """
    return _binary(read_label_map(path))


def as_image(value: str | Path | sitk.Image | Image, name: str) -> Image:
    """Return an image from a path, a SimpleITK image, or an :class:`Image` (returned as it is).

    Args:
        value: a path or an image.
        name: the argument's name, for messages about values without a path.

    Raises:
        TypeError: anything else.
        ImageReadError, ImageContentError, GeometryError: as :func:`read_image`.
    """
    if isinstance(value, Image):
        return value
    if isinstance(value, str | Path):
        return read_image(value)
    loaded = _require_itk_image(value, name)
    grid = named_grid(loaded, name)
    data = torch.from_numpy(channels_first(loaded, name))
    return Image(data, grid, numpy_type(loaded), name=name)


def as_label_map(
    value: str | Path | sitk.Image | LabelMap, name: str, names: Mapping[int, str] | None = None
) -> LabelMap:
    """Return a label map from a path, a SimpleITK image, or a :class:`LabelMap` (as it is).

    Args:
        value: a path or an image.
        name: the argument's name, for messages about values without a path.
        names: name of each label; a :class:`LabelMap` keeps its own.

    Raises:
        TypeError: anything else.
        ImageReadError, ImageContentError, GeometryError: as :func:`read_label_map`.
    """
    if isinstance(value, LabelMap):
        return value
    if isinstance(value, str | Path):
        return read_label_map(value, names)
    return _label_map(_require_itk_image(value, name), name, names)


def as_mask(value: str | Path | sitk.Image | LabelMap, name: str) -> LabelMap:
    """Return a mask as :func:`as_label_map` does; every non-zero voxel becomes 1.

    Raises:
        ImageContentError: no voxel is inside; otherwise as :func:`as_label_map`.
    """
    return _binary(as_label_map(value, name))


def read_vector_image(path: str | Path) -> sitk.Image:
    """Read a displacement field as it is stored: a vector of 2 or 3 components per voxel.

    Raises:
        ImageReadError: as :func:`read_image`.
        ImageContentError: it does not hold one component per axis in each voxel.
        GeometryError: as :func:`read_image`.
    """
    import SimpleITK as sitk

    path = Path(path)
    require_exists(path)
    loaded, _ = load_file(path)
    rank, count = loaded.GetDimension(), loaded.GetNumberOfComponentsPerPixel()
    if rank not in (2, 3) or count != rank:
        raise ImageContentError(
            f"{path}: expected a displacement field with one component per axis, got a {rank}-D "
            f"image with {count} components"
        )
    if not np.isfinite(sitk.GetArrayViewFromImage(loaded)).all():
        raise ImageContentError(f"{path}: expected finite values, got NaN or infinite ones")
    return loaded


def _load(path: Path, series: str | None = None) -> tuple[sitk.Image, Stored]:
    require_exists(path)
    if holds_dicom(path):
        loaded, stored = load_dicom(path, series)
    else:
        loaded, stored = load_file(path)
    for note in stored.notes:
        warnings.warn(GeometryWarning(note), stacklevel=3)
    return scalar_volume(loaded, str(path)), stored


def _label_map(loaded: sitk.Image, name: str, names: Mapping[int, str] | None) -> LabelMap:
    import SimpleITK as sitk

    loaded = scalar_volume(loaded, name)
    if loaded.GetNumberOfComponentsPerPixel() != 1:
        raise ImageContentError(f"{name}: expected one label per voxel, got a colour picture")
    stored = sitk.GetArrayViewFromImage(loaded)
    _require_whole_numbers(stored, name)
    data = torch.from_numpy(stored.astype(np.int32))
    return LabelMap(data, named_grid(loaded, name), dict(names or {}), name)


def _require_whole_numbers(stored: NDArray[Any], name: str) -> None:
    if stored.dtype.kind == "f":
        if not np.isfinite(stored).all():
            raise ImageContentError(f"{name}: expected labels, got NaN or infinite values")
        odd = stored != np.rint(stored)
        if odd.any():
            value = float(stored[odd].flat[0])
            raise ImageContentError(f"{name}: expected whole numbers as labels, got {value:g}")
    limits = np.iinfo(np.int32)
    if stored.dtype.kind == "f" or stored.dtype.itemsize >= 4:
        low, high = stored.min(), stored.max()
        if low < limits.min or high > limits.max:
            raise ImageContentError(f"{name}: expected labels of 32 bits, got {low} to {high}")


def _binary(mask: LabelMap) -> LabelMap:
    inside = (mask.data != 0).int()
    if not bool(inside.any()):
        raise ImageContentError(f"{mask.name}: expected a mask, but no voxel is inside it")
    return replace(mask, data=inside, names={1: "mask"})


def _require_itk_image(value: object, name: str) -> sitk.Image:
    import SimpleITK as sitk

    if not isinstance(value, sitk.Image):
        raise TypeError(
            f"{name}: expected a path, a SimpleITK image or an iterreg value, got "
            f"{type(value).__name__}"
        )
    return scalar_volume(value, name)
