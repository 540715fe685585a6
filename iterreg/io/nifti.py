"""NIfTI files: read from their bytes, the intensity scale, and compression.

The voxels are read here and not by ITK, which guesses where a header is in doubt.
"""

from __future__ import annotations

import errno
import gzip
import zlib
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import ImageContentError, ImageReadError
from iterreg.geometry import Grid
from iterreg.io.bounded import require_explained
from iterreg.io.choices import reading_choices, warn_of
from iterreg.io.image_formats import Stored
from iterreg.io.itk import write_itk
from iterreg.io.nifti_geometry import Placement, place
from iterreg.io.nifti_header import HEADER_BYTES, NiftiHeader, parse_header
from iterreg.io.nifti_names import label_names
from iterreg.io.packing import gzip_file

if TYPE_CHECKING:
    import SimpleITK as sitk

PIECE_BYTES = 1 << 20
"""Files are read in pieces of this size."""

GZIP_MAGIC = b"\x1f\x8b"

DISPLACEMENT_INTENT = 1006
"""Vectors that follow the axes of NIfTI, right, anterior and superior."""


def load(path: Path) -> tuple[sitk.Image, Stored]:
    """Read a NIfTI file, NIfTI-1 or -2, compressed or not whatever its name says.

    Raises:
        ImageReadError: damaged, or not NIfTI.
        ImageContentError: not an image of real numbers.
        GeometryError: its header leaves the place of its voxels open.
    """
    import SimpleITK as sitk

    header, placed, content = _read(path)
    values = np.frombuffer(content, header.dtype, header.count, header.start)
    scale, stored = _scale(header)
    array = _arranged(header, values, scale)
    image = sitk.GetImageFromArray(array, isVector=array.ndim > len(header.shape))
    spacing, origin, direction = _lattice(header, placed)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction.ravel().tolist())
    return image, Stored(*stored, notes=placed.notes, names=label_names(header, content))


def read_grid(path: Path) -> Grid:
    """Read the grid of a NIfTI file, from its header alone.

    Raises:
        ImageReadError, ImageContentError, GeometryError: as :func:`load`.
    """
    with _opened(path) as file:
        header, placed = _placed(path, _exactly(path, file, HEADER_BYTES))
    warn_of(placed.notes)
    spacing, origin, direction = _lattice(header, placed)
    rows = tuple(tuple(row) for row in direction.tolist())
    return Grid(tuple(reversed(header.shape)), spacing, origin, rows)


def _placed(path: Path, start: bytearray) -> tuple[NiftiHeader, Placement]:
    """The header of one picture or volume, and where its voxels are."""
    header = parse_header(path, bytes(start))
    if len(header.shape) not in (2, 3):
        raise ImageContentError(
            f"{path}: {len(header.shape)}-D, expected one volume, got size "
            f"{' x '.join(map(str, header.shape))}"
        )
    placed = place(path, header.fields, header.shape, reading_choices().geometry)
    if len(header.shape) == 2 and not _is_axial(placed.affine):
        note = f"{path}: its plane is not axial, but a picture is: taken along x and y"
        placed = replace(placed, notes=(*placed.notes, note))
    return header, placed


def _is_axial(affine: NDArray[np.float64]) -> bool:
    """Whether the first two axes lie in the plane of x and y, as those of rank 2 do."""
    columns = affine[:2, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    return np.allclose(columns @ columns.T, np.eye(2), atol=1e-3)


def _read(path: Path) -> tuple[NiftiHeader, Placement, bytearray]:
    """The header, and the bytes of the file up to the last voxel: no more, whatever follows."""
    with _opened(path) as file:
        content = _exactly(path, file, HEADER_BYTES)
        header, placed = _placed(path, content)
        if isinstance(file, gzip.GzipFile):
            require_explained(path, header.end, path.stat().st_size)
        content += _exactly(path, file, header.end - len(content))
        if len(content) < header.end:
            raise ImageReadError(
                f"{path}: truncated: expected {header.end} bytes by its header, got {len(content)}"
            )
        if (
            isinstance(file, gzip.GzipFile)
            and len(_exactly(path, file, PIECE_BYTES)) == PIECE_BYTES
        ):
            # The checksum of a gzip file stands at its end, which is far away here.
            raise ImageReadError(
                f"{path}: expected {header.end} bytes by its header, but more than "
                f"{PIECE_BYTES} bytes follow them"
            )
    return header, placed, content


def _opened(path: Path) -> IO[bytes]:
    """The content of a file, inflated if it is gzip, whatever its name says."""
    return cast(IO[bytes], gzip.open(path) if is_gzip(path) else path.open("rb"))


def is_gzip(path: Path) -> bool:
    """Whether a file is gzip, by its first bytes."""
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def _exactly(path: Path, file: IO[bytes], count: int) -> bytearray:
    """Up to so many bytes. The checksums of a gzip file are verified where it ends."""
    content = bytearray()
    try:
        while len(content) < count and (piece := file.read(min(PIECE_BYTES, count - len(content)))):
            content += piece
    except EOFError as error:
        raise ImageReadError(f"{path}: truncated: its gzip stream ends early") from error
    except (OSError, zlib.error) as error:
        raise ImageReadError(f"{path}: expected a whole gzip file, got {error}") from error
    return content


def _scale(header: NiftiHeader) -> tuple[tuple[float, float], tuple[str, float, float]]:
    """The intensity scale, and the number type with it as the file has them.

    A slope of 0 means that the numbers are not scaled; the intercept then means nothing.
    """
    slope, intercept = float(header.fields["scl_slope"]), float(header.fields["scl_inter"])
    if not np.isfinite(slope) or slope == 0 or header.dtype.kind == "V":
        slope, intercept = 1.0, 0.0
    if not np.isfinite(intercept):
        intercept = 0.0
    name = "" if header.dtype.kind == "V" else header.dtype.newbyteorder("=").name
    return (slope, intercept), (name, slope, intercept)


def _arranged(
    header: NiftiHeader, values: NDArray[Any], scale: tuple[float, float]
) -> NDArray[Any]:
    """The numbers as (*shape) or (*shape, components), scaled, in this machine's byte order."""
    shape = tuple(reversed(header.shape))
    if header.dtype.kind == "V":
        return np.ascontiguousarray(values.view(np.uint8).reshape(*shape, -1))
    values = values.astype(header.dtype.newbyteorder("="), copy=False)
    if values.dtype.itemsize > 8:  # The 128 bit floats, which ITK lacks.
        values = values.astype(np.float64)
    if scale != (1.0, 0.0):
        values = values.astype(np.float64) * scale[0] + scale[1]
    if header.components == 1:
        return values.reshape(shape)
    array = np.moveaxis(values.reshape(header.components, *shape), 0, -1)
    if int(header.fields["intent_code"]) == DISPLACEMENT_INTENT:
        array = array * np.array([-1, -1, *[1] * (header.components - 2)], array.dtype)
    return np.ascontiguousarray(array)


def _lattice(
    header: NiftiHeader, placed: Placement
) -> tuple[tuple[float, ...], tuple[float, ...], NDArray[np.float64]]:
    """Spacing, origin and direction, LPS mm."""
    rank = len(header.shape)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ placed.affine
    columns = lps[:3, :rank]
    spacing = np.linalg.norm(columns, axis=0)
    direction = (columns / spacing)[:rank]
    if rank == 2 and not _is_axial(placed.affine):
        direction = np.eye(2)
    return tuple(spacing.tolist()), tuple(lps[:rank, 3].tolist()), direction


def write_nifti(image: sitk.Image, target: Path, scale: tuple[float, float]) -> None:
    """Write NIfTI through ITK, put the intensity scale into its header, and compress it.

    ITK always writes a scale of 1, and compresses floats in ten times the time.
    """
    plain = target if target.suffix == ".nii" else target.with_suffix("")
    write_itk(image, plain, compress=False)
    _require_whole(plain, image)
    if scale != (1.0, 0.0):
        with plain.open("r+b") as file:
            file.seek(112)  # scl_slope and scl_inter of NIfTI-1, which ITK writes natively
            file.write(np.asarray(scale, np.float32).tobytes())
    if plain != target:
        gzip_file(plain, target)
        plain.unlink()


LEAST_OFFSET = 352
"""Bytes before the voxels of a single file of NIfTI-1; NIfTI-2 has more."""


def _require_whole(path: Path, image: sitk.Image) -> None:
    """Refuse a file that is shorter than its voxels: on a full disk ITK cuts it in silence.

    Raises:
        OSError: it is.
    """
    voxels = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel()
    if path.stat().st_size < LEAST_OFFSET + voxels * image.GetSizeOfPixelComponent():
        raise OSError(errno.ENOSPC, "no room for the whole file")
