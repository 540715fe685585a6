"""Images from files and SimpleITK images."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from iterreg.errors import ImageContentError
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.io.choices import warn_of
from iterreg.io.foreign import from_foreign
from iterreg.io.image_formats import format_of, load_file
from iterreg.io.itk import (
    channels_first,
    named_grid,
    numpy_type,
    require_exists,
    require_sane,
    scalar_volume,
)
from iterreg.io.loading import is_itk_image, load_stored
from iterreg.tables import load

if TYPE_CHECKING:
    import SimpleITK as sitk

    from iterreg.image.kinds import ImageLike


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
    loaded, stored = load_stored(Path(path), series)
    loaded = scalar_volume(loaded, name)
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


def grid_of_file(path: str | Path, series: str | None = None) -> Grid:
    """The grid of an image file, from its header alone.

    Args:
        path, series: as :func:`read_image`.

    Raises:
        ImageReadError, ImageContentError, GeometryError: the file cannot be read, or its grid
            cannot be used.
    """
    path = Path(path)
    require_exists(path)
    reader = "" if os.path.isdir(path) else format_of(path).grid
    if not reader:
        return read_image(path, series).grid
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
    loaded, told = load_file(path)
    warn_of(told.notes)
    stored = sitk.GetArrayViewFromImage(loaded)
    channels = stored[None] if stored.ndim == loaded.GetDimension() else np.moveaxis(stored, -1, 0)
    data = torch.from_numpy(np.array(channels, np.float32))
    return Image(data, named_grid(loaded, str(path)), name=str(path))


def as_image(value: ImageLike, name: str) -> Image:
    """Return an image from a path, an image of another package, or an :class:`Image` (as it is).

    Args:
        value: a path, or an image of SimpleITK, nibabel, MONAI, torchio or ANTs.
        name: the argument's name, for messages about values without a path.

    Raises:
        TypeError: anything else.
        GeometryError: an array or tensor alone, which does not say where its voxels are.
        ImageReadError, ImageContentError, GeometryError: as :func:`read_image`.
    """
    if isinstance(value, Image):
        return value.named(name)
    if isinstance(value, LabelMap):
        raise ImageContentError(f"{name}: expected an image with intensities, got a label map")
    if isinstance(value, str | Path):
        return read_image(value)
    if is_itk_image(value):
        loaded = scalar_volume(value, name)
        grid = named_grid(loaded, name)
        data = torch.from_numpy(channels_first(loaded, name))
        return Image(data, grid, numpy_type(loaded), name=name)
    found = from_foreign(value, name)
    grid = require_sane(found.grid, found.name)
    image = Image.from_array(found.array, axes=found.axes, grid=grid, name=found.name)
    if not found.dtype:
        return image
    return replace(image, dtype=found.dtype, slope=found.slope, intercept=found.intercept)


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
    loaded, stored = load_file(path)
    warn_of(stored.notes)
    rank, count = loaded.GetDimension(), loaded.GetNumberOfComponentsPerPixel()
    if rank not in (2, 3) or count != rank:
        raise ImageContentError(
            f"{path}: expected a displacement field with one component per axis, got a {rank}-D "
            f"image with {count} components"
        )
    if not np.isfinite(sitk.GetArrayViewFromImage(loaded)).all():
        raise ImageContentError(f"{path}: expected finite values, got NaN or infinite ones")
    return loaded
