"""SimpleITK's images: read, written, and turned into arrays and grids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from iterreg.atomic import last_line
from iterreg.errors import GeometryError, ImageContentError, ImageReadError
from iterreg.geometry import Grid

if TYPE_CHECKING:
    import SimpleITK as sitk

GZIP_LEVEL = 1
"""Level 1 costs a fifth of the default's time for files a few percent larger."""

SPACING_LIMITS_MM = (1e-4, 1e3)
"""From a microscope's 0.1 micrometres to a metre."""

MOST_ANISOTROPY = 10_000
MOST_ORIGIN_MM = 1e7


@contextmanager
def silent_itk() -> Iterator[None]:
    """Keep ITK from printing warnings."""
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@contextmanager
def quiet_itk(path: Path) -> Iterator[None]:
    """Keep ITK from printing warnings, and turn its long errors into one line about a file."""
    try:
        with silent_itk():
            yield
    except RuntimeError as error:
        raise _readable(path, str(error)) from error


def _readable(path: Path, message: str) -> ImageReadError | GeometryError:
    if "orthonormal" in message:
        return GeometryError(f"{path}: expected orthogonal axes, got a sheared sform matrix")
    if "spacing" in message.lower():
        return GeometryError(f"{path}: expected a positive spacing, got {last_line(message)}")
    if "Unable to determine ImageIO" in message:
        return ImageReadError(f"{path}: expected an image, but its content is not one")
    return ImageReadError(f"{path}: expected a whole image, got: {last_line(message)}")


def require_utf8(path: str | Path) -> None:
    """Refuse a name that is not UTF-8, as old file servers have them: ITK would crash.

    Raises:
        ImageReadError: naming it.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise ImageReadError(
            f"{name}: expected a name in UTF-8; rename the file, or use a UTF-8 locale"
        ) from error


def require_exists(path: Path) -> None:
    """Refuse a path that is missing or cannot be read.

    Raises:
        ImageReadError: naming it.
    """
    require_utf8(path)
    if not os.path.exists(path):
        raise ImageReadError(f"{path}: no such file or folder")
    if not os.access(path, os.R_OK):
        raise ImageReadError(f"{path}: not readable by this user")


def read_itk(path: Path) -> sitk.Image:
    """Read any file that ITK reads, without its console warnings and with our errors."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    with quiet_itk(path):
        reader.SetFileName(str(path))
        loaded: sitk.Image = reader.Execute()
    return loaded


def scalar_volume(loaded: sitk.Image, name: str) -> sitk.Image:
    """Drop a fourth axis of length 1; refuse other ranks and vectors per voxel in 3-D."""
    size = loaded.GetSize()
    while len(size) > 3 and size[-1] == 1:
        loaded = loaded[(*[slice(None)] * (len(size) - 1), 0)]
        size = loaded.GetSize()
    if len(size) not in (2, 3):
        raise ImageContentError(
            f"{name}: {len(size)}-D, expected one volume, got size {' x '.join(map(str, size))}"
        )
    if "complex" in loaded.GetPixelIDTypeAsString():
        raise ImageContentError(f"{name}: expected real intensities, got complex ones")
    count = loaded.GetNumberOfComponentsPerPixel()
    if len(size) == 3 and count > 1:
        raise ImageContentError(f"{name}: expected one value per voxel, got {count} (vector image)")
    return loaded


def channels_first(loaded: sitk.Image, name: str) -> NDArray[np.float32]:
    """The voxels as (C, *shape) float32, without an opaque alpha channel."""
    import SimpleITK as sitk

    stored = sitk.GetArrayViewFromImage(loaded)
    if loaded.GetNumberOfComponentsPerPixel() == 1:
        with np.errstate(over="ignore"):  # Too large is infinite, which is refused by name later.
            return np.array(stored, np.float32)[None]
    channels = np.moveaxis(stored, -1, 0)
    if len(channels) in (2, 4):
        if channels[-1].min() != channels[-1].max():
            raise ImageContentError(f"{name}: expected an opaque picture, got one with alpha")
        channels = channels[:-1]
    if len(channels) not in (1, 3):
        raise ImageContentError(f"{name}: expected 1 or 3 channels, got {len(channels)}")
    return np.ascontiguousarray(channels, np.float32)


def grid_of(loaded: sitk.Image) -> Grid:
    """The grid of a SimpleITK image.

    Raises:
        GeometryError: as :class:`Grid`.
    """
    rank = loaded.GetDimension()
    direction = np.asarray(loaded.GetDirection()).reshape(rank, rank)
    return Grid(
        shape_zyx=tuple(reversed(loaded.GetSize())),
        spacing_xyz_mm=tuple(loaded.GetSpacing()),
        origin_lps_mm=tuple(loaded.GetOrigin()),
        direction_lps=tuple(tuple(row) for row in direction.tolist()),
    )


def header_grid(path: Path) -> Grid:
    """The grid of a file that ITK reads, from its header alone."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with quiet_itk(path):
        reader.ReadImageInformation()
    return named_grid(cast(sitk.Image, reader), str(path))


def named_grid(loaded: sitk.Image, name: str) -> Grid:
    """The grid of a SimpleITK image; an error names the image.

    Raises:
        GeometryError: as :class:`Grid`, or lengths that no image has.
    """
    try:
        return require_sane(grid_of(loaded), name)
    except GeometryError as error:
        message = str(error)
        raise GeometryError(
            message if message.startswith(name) else f"{name}: {message}"
        ) from error


def require_sane(grid: Grid, name: str) -> Grid:
    """Refuse lengths that no image has: damage, which would take all memory later.

    Raises:
        GeometryError: voxels of less than 0.0001 mm or more than 1000 mm, 10,000 times longer than
            wide, or further away than 10 km.
    """
    spacing = grid.spacing_xyz_mm
    low, high = SPACING_LIMITS_MM
    told = " x ".join(f"{s:.4g}" for s in spacing)
    if min(spacing) < low or max(spacing) > high:
        raise GeometryError(f"{name}: expected a spacing of {low:g} to {high:g} mm, got {told} mm")
    if max(spacing) > MOST_ANISOTROPY * min(spacing):
        raise GeometryError(
            f"{name}: expected voxels at most {MOST_ANISOTROPY} times longer than wide, got "
            f"{told} mm"
        )
    if max(abs(x) for x in grid.origin_lps_mm) > MOST_ORIGIN_MM:
        origin = ", ".join(f"{x:.4g}" for x in grid.origin_lps_mm)
        raise GeometryError(
            f"{name}: expected an origin within {MOST_ORIGIN_MM:g} mm, got ({origin}) mm"
        )
    return grid


def numpy_type(loaded: sitk.Image) -> str:
    """NumPy's name of the number type of an image."""
    import SimpleITK as sitk

    return str(sitk.GetArrayViewFromImage(loaded).dtype.name)


def to_itk(array: NDArray[Any], grid: Grid, vectors: bool = False) -> sitk.Image:
    """Make a SimpleITK image from an array.

    Args:
        array: (*shape), or (*shape, C) with ``vectors``.
        grid: where its voxels are.
        vectors: whether the last axis holds components.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=vectors)
    image.SetSpacing(grid.spacing_xyz_mm)
    image.SetOrigin(grid.origin_lps_mm)
    image.SetDirection(np.asarray(grid.direction_lps).ravel().tolist())
    return image


def write_itk(image: sitk.Image, target: Path, compress: bool) -> None:
    """Write an image in the format of its extension."""
    import SimpleITK as sitk

    with silent_itk():
        sitk.WriteImage(image, str(target), compress, GZIP_LEVEL if compress else -1)
