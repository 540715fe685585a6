"""Reading and writing files: the one place that knows formats.

SimpleITK and nibabel are imported inside the functions that need them. Geometry is ITK's: LPS mm,
and where a NIfTI file contradicts itself, what ITK makes of it. What ITK lets through and a user
would not want (a cut file padded with zeros, a spacing of 0 read as 1) is refused here.
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.displacement import Transform, total_displacement_mm
from iterreg.errors import GeometryError, ImageContentError, ImageReadError, OutputError
from iterreg.geometry import Grid, Points
from iterreg.image import Image, LabelMap

if TYPE_CHECKING:
    import SimpleITK as sitk

VOLUME_EXTENSIONS = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
"""Formats that keep geometry; read and written, rank 2 and 3."""

PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""Formats for rank 2, read and written as far as ITK can."""

STAGING_PREFIX = ".iterreg-"
"""Names of the hidden folders in which files are completed before they appear."""

NIFTI_FLOATS = (16, 64)
"""NIfTI's type codes of float32 and float64."""

PIECE_BYTES = 1 << 20
"""Files are scanned in pieces of this size."""

GZIP_LEVEL = 1
"""Level 1 costs a fifth of the default's time for files a few percent larger."""

AXES = "xyz"


class GeometryWarning(UserWarning):
    """A file was read, but where its voxels are is less certain than it should be."""


def read_image(path: str | Path) -> Image:
    """Read an image.

    Args:
        path: NIfTI, MetaImage or NRRD file, a picture (PNG, JPEG, TIFF, BMP), or a folder that
            holds exactly one DICOM series.

    Returns:
        The image; rank 2 for a 2-D file, C = 3 for an RGB picture. ``name`` is the path as given,
        ``dtype``, ``slope`` and ``intercept`` are those of the file.

    Raises:
        ImageReadError: missing, truncated, not an image, or of an unsupported format.
        ImageContentError: 4-D, a vector per voxel, complex.
        GeometryError: a spacing that is not positive, or sheared axes.
    """
    name = str(path)
    loaded, stored = _load(Path(path))
    data = _channels_first(loaded, name)
    if stored.bad_index is not None and data.size == loaded.GetNumberOfPixels():
        data.reshape(-1)[stored.bad_index] = stored.bad_values
    return Image(
        torch.from_numpy(data),
        _named_grid(loaded, name),
        stored.dtype or _numpy_type(loaded),
        stored.slope,
        stored.intercept,
        name,
    )


def read_label_map(path: str | Path, names: Mapping[int, str] | None = None) -> LabelMap:
    """Read a label map; formats as in :func:`read_image`.

    Args:
        path: the file. Floating-point files are accepted when every value is a whole number.
        names: name of each label, where known.

    Raises:
        ImageReadError: as :func:`read_image`.
        ImageContentError: NaN, infinite or fractional values, values beyond 32 bits, or a vector
            per voxel.
        GeometryError: as :func:`read_image`.
    """
    loaded, stored = _load(Path(path))
    _require_finite(stored, str(path))
    return _label_map(loaded, str(path), names)


def read_mask(path: str | Path) -> LabelMap:
    """Read a mask: a label map whose non-zero voxels become 1.

    Raises:
        ImageReadError: as :func:`read_image`.
        ImageContentError: as :func:`read_label_map`, or no voxel is inside.
        GeometryError: as :func:`read_image`.
    """
    return _binary(read_label_map(path))


def as_image(value: str | Path | sitk.Image | Image, name: str) -> Image:
    """An image from a path, a SimpleITK image, or an :class:`Image` (returned as it is).

    Args:
        value: what the caller was given.
        name: the argument's name, used in messages where there is no path.

    Raises:
        TypeError: anything else.
        ImageReadError, ImageContentError, GeometryError: as :func:`read_image`.
    """
    if isinstance(value, Image):
        return value
    if isinstance(value, str | Path):
        return read_image(value)
    loaded = _require_itk_image(value, name)
    grid = _named_grid(loaded, name)
    data = torch.from_numpy(_channels_first(loaded, name))
    return Image(data, grid, _numpy_type(loaded), name=name)


def as_label_map(
    value: str | Path | sitk.Image | LabelMap, name: str, names: Mapping[int, str] | None = None
) -> LabelMap:
    """A label map from a path, a SimpleITK image, or a :class:`LabelMap` (returned as it is).

    Args:
        value: what the caller was given.
        name: the argument's name, used in messages where there is no path.
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
    """As :func:`as_label_map`, non-zero voxels becoming 1.

    Raises:
        ImageContentError: no voxel is inside; otherwise as :func:`as_label_map`.
    """
    return _binary(as_label_map(value, name))


def read_points(path: str | Path) -> Points:
    """Read points from CSV with a header that has columns x, y and z (or x and y), LPS mm.

    Other columns are ignored; so is the case of the names.

    Raises:
        ImageReadError: missing, no such columns, no rows, or a value that is not a finite number.
    """
    path = Path(path)
    _require_exists(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageReadError(f"{path}: expected a CSV file of points, got {error}") from error
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    axes = [axis for axis in AXES if axis in header]
    if axes not in (["x", "y", "z"], ["x", "y"]):
        raise ImageReadError(f"{path}: expected a header with columns x,y,z or x,y, got {header}")
    columns = [header.index(axis) for axis in axes]
    points = [_row(path, n, row, columns) for n, row in enumerate(rows[1:], 2) if any(row)]
    if not points:
        raise ImageReadError(f"{path}: expected at least one point, got a header alone")
    return Points(np.asarray(points, np.float64))


def _row(path: Path, number: int, row: Sequence[str], columns: Sequence[int]) -> list[float]:
    try:
        values = [float(row[c]) for c in columns]
    except (ValueError, IndexError):
        values = [float("nan")]
    if not np.all(np.isfinite(values)):
        raise ImageReadError(f"{path}, line {number}: expected finite numbers, got {','.join(row)}")
    return values


# --------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Stored:
    """What the file stores, where ITK does not tell; an empty dtype means that ITK does."""

    dtype: str = ""
    slope: float = 1.0
    intercept: float = 0.0
    bad_index: NDArray[np.int64] | None = None
    """Flat voxels that are NaN or infinite: ITK's NIfTI reader turns them into 0."""
    bad_values: NDArray[np.float32] | None = None


def _load(path: Path) -> tuple[sitk.Image, _Stored]:
    _require_exists(path)
    if path.is_dir():
        return _scalar_volume(_load_dicom(path), str(path)), _Stored()
    extension = extension_of(path)
    if extension not in VOLUME_EXTENSIONS + PICTURE_EXTENSIONS:
        hint = "; for DICOM give the folder of the series" if extension == ".dcm" else ""
        raise ImageReadError(
            f"{path}: expected one of {' '.join(VOLUME_EXTENSIONS + PICTURE_EXTENSIONS)}, "
            f"got {extension or 'no extension'}{hint}"
        )
    stored = _inspect(path)
    return _scalar_volume(_read_itk(path), str(path)), stored


def _inspect(path: Path) -> _Stored:
    """Look into a file for what ITK does not tell or lets through."""
    extension = extension_of(path)
    if extension.startswith(".nii"):
        return _inspect_nifti(path)
    if extension in (".jpg", ".jpeg"):
        _require_whole_jpeg(path)
    if extension in (".mha", ".mhd", ".nrrd", ".nhdr"):
        _check_text_header(path)
    return _Stored()


def _require_finite(stored: _Stored, name: str) -> None:
    if stored.bad_index is not None and len(stored.bad_index):
        raise ImageContentError(
            f"{name}: expected finite values, got {len(stored.bad_index)} NaN or infinite ones"
        )


def read_vector_image(path: str | Path) -> sitk.Image:
    """Read a displacement field's file as it is: a vector of 2 or 3 components a voxel.

    Raises:
        ImageReadError: as :func:`read_image`.
        ImageContentError: not one vector, of as many components as there are axes, a voxel.
        GeometryError: as :func:`read_image`.
    """
    path = Path(path)
    _require_exists(path)
    stored = _inspect(path)
    _require_finite(stored, str(path))
    loaded = _read_itk(path)
    rank, count = loaded.GetDimension(), loaded.GetNumberOfComponentsPerPixel()
    if rank not in (2, 3) or count != rank:
        raise ImageContentError(
            f"{path}: expected a displacement field with one component an axis, got a {rank}-D "
            f"image with {count} components"
        )
    return loaded


def _read_itk(path: Path) -> sitk.Image:
    """Read any file that ITK reads, its console warnings silenced, its errors made ours."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    with _itk(path), _without_twin(path) as alone:
        reader.SetFileName(str(alone))
        loaded: sitk.Image = reader.Execute()
    return loaded


@contextmanager
def _without_twin(path: Path) -> Iterator[Path]:
    """A path to the same file that has no a.nii beside a.nii.gz.

    Where both are there, ITK's NIfTI library takes the header of the one that was asked for and
    the voxels of a.nii.
    """
    if extension_of(path) != ".nii.gz" or not path.with_suffix("").exists():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX) as folder:
        alone = Path(folder) / "image.nii.gz"
        try:
            alone.symlink_to(path.resolve())
        except OSError:
            shutil.copyfile(path, alone)
        yield alone


@contextmanager
def _itk(path: Path) -> Iterator[None]:
    """Silence ITK's console warnings and turn its multi-line errors into one line."""
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    except RuntimeError as error:
        raise _readable(path, str(error)) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _readable(path: Path, message: str) -> ImageReadError | GeometryError:
    if "orthonormal" in message:
        return GeometryError(f"{path}: expected orthogonal axes, got a sheared sform matrix")
    if "spacing" in message.lower():
        return GeometryError(f"{path}: expected a positive spacing, got {_last_line(message)}")
    if "Unable to determine ImageIO" in message:
        return ImageReadError(f"{path}: expected an image, but its content is not one")
    return ImageReadError(f"{path}: expected a whole image, got: {_last_line(message)}")


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _require_exists(path: Path) -> None:
    if not path.exists():
        raise ImageReadError(f"{path}: no such file or folder")
    if not os.access(path, os.R_OK):
        raise ImageReadError(f"{path}: not readable by this user")


def extension_of(path: str | Path) -> str:
    """The extension in lower case, ``.nii.gz`` counted as one."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def _inspect_nifti(path: Path) -> _Stored:
    """Check a NIfTI file for what ITK lets through, and find its stored type and scale."""
    pieces = _gzip_pieces(path) if extension_of(path) == ".nii.gz" else _pieces(path)
    content = bytearray()
    header, floating, length = None, False, 0
    for piece in pieces:
        length += len(piece)
        if header is None or floating:
            content += piece
        if header is None and len(content) >= 540:
            header = _nifti_header(path, content)
            floating = header["datatype"] in NIFTI_FLOATS
    if header is None:
        header = _nifti_header(path, content)
    sizes = [max(1, int(n)) for n in header["dim"][1 : 1 + _nifti_rank(path, header)]]
    start = int(header["vox_offset"])
    expected = start + int(np.prod(sizes)) * int(header["bitpix"]) // 8
    if length < expected:
        raise ImageReadError(
            f"{path}: truncated: expected {expected} bytes by its header, got {length}"
        )
    _check_nifti_geometry(path, header)
    stored = _nifti_scale(header)
    if not floating:
        return stored
    values = np.frombuffer(content, header.get_data_dtype(), int(np.prod(sizes)), start)
    bad = np.flatnonzero(~np.isfinite(values))
    return replace(stored, bad_index=bad, bad_values=values[bad].astype(np.float32))


def _nifti_header(path: Path, start: bytearray) -> Any:
    import nibabel

    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    if 348 in sizes and len(start) >= 348:
        return nibabel.Nifti1Header(bytes(start[:348]), check=False)
    if 540 in sizes and len(start) >= 540:
        return nibabel.Nifti2Header(bytes(start[:540]), check=False)
    raise ImageReadError(f"{path}: expected a NIfTI image, but its content is not one")


def _nifti_rank(path: Path, header: Any) -> int:
    rank = int(header["dim"][0])
    if not 1 <= rank <= 7:
        raise ImageReadError(f"{path}: expected a NIfTI image, but its header says {rank} axes")
    return rank


def _check_nifti_geometry(path: Path, header: Any) -> None:
    spacing = [float(s) for s in header["pixdim"][1 : 1 + min(3, int(header["dim"][0]))]]
    if not all(np.isfinite(s) and s > 0 for s in spacing):
        raise GeometryError(f"{path}: expected a positive spacing, got pixdim {spacing} mm")
    if int(header["qform_code"]) == 0 and int(header["sform_code"]) == 0:
        warnings.warn(
            GeometryWarning(
                f"{path}: its header does not say where the voxels are (qform and sform code 0): "
                "taken as LPS axes with the origin at 0; left and right may be exchanged"
            ),
            stacklevel=2,
        )


def _nifti_scale(header: Any) -> _Stored:
    import nibabel

    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    try:
        dtype = header.get_data_dtype()
    except nibabel.spatialimages.HeaderDataError:
        return _Stored()
    if dtype.kind not in "iuf":
        return _Stored()
    name = np.dtype(dtype).newbyteorder("=").name
    return _Stored(name, slope, intercept if np.isfinite(intercept) else 0.0)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _gzip_pieces(path: Path) -> Iterator[bytes]:
    """What a gzip file holds, its checksums verified: ITK fills what is missing with zeros."""
    inflate = zlib.decompressobj(31)
    try:
        for chunk in _pieces(path):
            while chunk:
                if inflate.eof:
                    if not chunk.strip(b"\0"):
                        break
                    inflate = zlib.decompressobj(31)
                yield inflate.decompress(chunk)
                chunk = inflate.unused_data
    except zlib.error as error:
        raise ImageReadError(f"{path}: expected a whole gzip file, got {error}") from error
    if not inflate.eof:
        raise ImageReadError(f"{path}: truncated: its gzip stream ends early")


def _check_text_header(path: Path) -> None:
    """Refuse a spacing that is not positive, which ITK turns into a flip of the axis."""
    with path.open("rb") as file:
        start = file.read(8192)
    for line in start.split(b"\n"):
        key, _, value = line.decode("latin-1").replace(":", "=", 1).partition("=")
        if key.strip() in ("ElementSpacing", "ElementSize", "spacings"):
            try:
                spacing = [float(v) for v in value.split()]
            except ValueError:
                continue
            if any(s <= 0 for s in spacing):
                raise GeometryError(f"{path}: expected a positive spacing, got {value.strip()} mm")
        if key.strip() == "ElementDataFile" or not key.strip():
            return


def _require_whole_jpeg(path: Path) -> None:
    """The JPEG library fills what is missing with grey: look for the end marker ourselves."""
    content = path.read_bytes()
    if content[:2] == b"\xff\xd8" and b"\xff\xd9" not in content[-65536:]:
        raise ImageReadError(f"{path}: truncated: the JPEG end marker is missing")


def _load_dicom(folder: Path) -> sitk.Image:
    import SimpleITK as sitk

    with _itk(folder):
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if not series:
            raise ImageReadError(f"{folder}: expected a folder with one DICOM series, found none")
        if len(series) > 1:
            raise ImageReadError(
                f"{folder}: expected one DICOM series, found {len(series)}: {', '.join(series)}"
            )
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
        _require_even_slices(folder, files)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
        loaded: sitk.Image = reader.Execute()
    return loaded


def _require_even_slices(folder: Path, files: Sequence[str]) -> None:
    """ITK only prints a warning when a slice is missing, and squeezes the volume."""
    import SimpleITK as sitk

    origins = []
    for file in files:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(file)
        reader.ReadImageInformation()
        origins.append(reader.GetOrigin())
    if len(origins) < 3:
        return
    steps = np.linalg.norm(np.diff(np.asarray(origins, np.float64), axis=0), axis=1)
    usual = float(np.median(steps))
    if usual == 0 or np.abs(steps - usual).max() > max(0.01, 0.01 * usual):
        raise GeometryError(
            f"{folder}: expected evenly spaced slices, got steps of {steps.min():.4g} to "
            f"{steps.max():.4g} mm: slices are missing or doubled"
        )


def _scalar_volume(loaded: sitk.Image, name: str) -> sitk.Image:
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
        raise ImageContentError(f"{name}: expected one value a voxel, got {count} (vector image)")
    return loaded


def _channels_first(loaded: sitk.Image, name: str) -> NDArray[np.float32]:
    """(C, *shape) float32; an opaque alpha channel is dropped."""
    import SimpleITK as sitk

    stored = sitk.GetArrayViewFromImage(loaded)
    if loaded.GetNumberOfComponentsPerPixel() == 1:
        return np.array(stored, np.float32)[None]
    channels = np.moveaxis(stored, -1, 0)
    if len(channels) in (2, 4):
        if channels[-1].min() != channels[-1].max():
            raise ImageContentError(f"{name}: expected an opaque picture, got one with alpha")
        channels = channels[:-1]
    if len(channels) not in (1, 3):
        raise ImageContentError(f"{name}: expected 1 or 3 channels, got {len(channels)}")
    return np.ascontiguousarray(channels, np.float32)


def _label_map(loaded: sitk.Image, name: str, names: Mapping[int, str] | None) -> LabelMap:
    import SimpleITK as sitk

    loaded = _scalar_volume(loaded, name)
    if loaded.GetNumberOfComponentsPerPixel() != 1:
        raise ImageContentError(f"{name}: expected one label a voxel, got a colour picture")
    stored = sitk.GetArrayViewFromImage(loaded)
    _require_whole_numbers(stored, name)
    data = torch.from_numpy(stored.astype(np.int32))
    return LabelMap(data, _named_grid(loaded, name), dict(names or {}), name)


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
    return _scalar_volume(value, name)


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


def _named_grid(loaded: sitk.Image, name: str) -> Grid:
    try:
        return grid_of(loaded)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from error


def _numpy_type(loaded: sitk.Image) -> str:
    import SimpleITK as sitk

    return str(sitk.GetArrayViewFromImage(loaded).dtype.name)


# --------------------------------------------------------------------------------------- writing


def write_image(image: Image, path: str | Path) -> None:
    """Write an image in the type and intensity scale that it remembers.

    Integers are rounded and clipped to the type's range. The scale goes into NIfTI headers; other
    formats have no place for one, so an image with a scale is written to them as float32.

    Args:
        image: what to write.
        path: .nii, .nii.gz, .mha, .mhd, .nrrd, .nhdr; .png, .tif for pictures, which keep the
            spacing at best, not the origin and direction.

    Raises:
        OutputError: unknown extension, a folder that is missing or not writable, or a type that
            the format cannot store.
    """
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


def write_label_map(labels: LabelMap, path: str | Path) -> None:
    """Write a label map in the smallest integer type that holds its values.

    Raises:
        OutputError: as :func:`write_image`.
    """
    data = labels.data.detach().cpu().numpy()
    low, high = int(data.min()), int(data.max())
    kinds = ("uint8", "uint16", "uint32") if low >= 0 else ("int8", "int16", "int32")
    dtype = next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    _write_array(data.astype(dtype), labels.grid, path)


def write_scalar(values: torch.Tensor, grid: Grid, path: str | Path) -> None:
    """Write one number a voxel as float32, a Jacobian determinant say.

    Args:
        values: (*shape).
        grid: where its voxels are.
        path: as :func:`write_image`.

    Raises:
        OutputError: as :func:`write_image`.
    """
    _write_array(values.detach().cpu().numpy().astype(np.float32), grid, path)


def write_displacement_mm(transform: Transform, path: str | Path) -> None:
    """Write the total displacement A(x + u(x)) - x as ITK's vector field on the fixed grid.

    Components x, y, z, LPS mm, float32. In NIfTI this is the 5-D layout with the vector intent
    that ITK and ANTs read.

    Raises:
        OutputError: as :func:`write_image`.
    """
    mm = total_displacement_mm(transform).detach().cpu().numpy()
    _write_array(np.moveaxis(mm, 0, -1), transform.grid, path, vectors=True)


def write_points(
    points: Points, path: str | Path, extra_columns: Mapping[str, Sequence[object]] | None = None
) -> None:
    """Write points as CSV with the header x,y,z (x,y in 2-D), LPS mm.

    Args:
        points: what to write.
        path: the file.
        extra_columns: further columns by name, one value a point.

    Raises:
        OutputError: a folder that is missing or not writable, or columns of another length.
    """
    extra = dict(extra_columns or {})
    for title, column in extra.items():
        if len(column) != len(points):
            raise OutputError(
                f"{path}: column {title}: expected {len(points)} values, got {len(column)}"
            )

    def write(target: Path) -> None:
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*AXES[: points.lps.shape[1]], *extra])
            for n, row in enumerate(points.lps.tolist()):
                writer.writerow([*(f"{v:.6f}" for v in row), *(c[n] for c in extra.values())])

    write_aside(path, write)


def to_itk(array: NDArray[Any], grid: Grid, vectors: bool = False) -> sitk.Image:
    """A SimpleITK image from an array.

    Args:
        array: (*shape), or (*shape, C) where ``vectors``.
        grid: where its voxels are.
        vectors: whether the last axis holds components.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=vectors)
    image.SetSpacing(grid.spacing_xyz_mm)
    image.SetOrigin(grid.origin_lps_mm)
    image.SetDirection(np.asarray(grid.direction_lps).ravel().tolist())
    return image


def write_aside(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file aside, then move it in place; leave nothing behind on failure.

    Args:
        path: the final file. Its folder must exist.
        write: called with a path of the same name in a hidden folder beside it. Companion files
            that it makes there (the .raw of an .mhd) move too.

    Raises:
        OutputError: the folder is missing or not writable, or the file cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: expected a file to write, got a folder")
    staging = _make_staging(path.parent, path)
    try:
        write(staging / path.name)
        # The header goes last: while it is absent, nobody reads a half-moved pair.
        for file in sorted(staging.iterdir(), key=lambda f: f.name == path.name):
            os.replace(file, path.parent / file.name)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path}: cannot be written: {_last_line(str(error))}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _make_staging(folder: Path, wanted: Path) -> Path:
    if not folder.is_dir():
        raise OutputError(f"{wanted}: cannot be written: the folder {folder} does not exist")
    try:
        return Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=folder))
    except OSError as error:
        raise OutputError(f"{wanted}: cannot be written: {error.strerror or error}") from error


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
        write_aside(path, lambda target: _write_nifti(image, target, scale, floating))
    else:
        # Compressing floats in these formats costs seconds and saves next to nothing.
        write_aside(path, lambda target: _write_itk(image, target, compress=not floating))


def _write_itk(image: sitk.Image, target: Path, compress: bool) -> None:
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        sitk.WriteImage(image, str(target), compress, GZIP_LEVEL if compress else -1)
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _write_nifti(
    image: sitk.Image, target: Path, scale: tuple[float, float], floating: bool
) -> None:
    """Write NIfTI through ITK, put the intensity scale into its header, and compress it ourselves.

    ITK always writes a scale of 1, and its own compression takes twice as long on floats.
    """
    plain = target if target.suffix == ".nii" else target.with_suffix("")
    _write_itk(image, plain, compress=False)
    if scale != (1.0, 0.0):
        with plain.open("r+b") as file:
            file.seek(112)  # scl_slope and scl_inter of NIfTI-1, which ITK writes natively
            file.write(np.asarray(scale, np.float32).tobytes())
    if plain != target:
        _gzip(plain, target, zlib.Z_RLE if floating else zlib.Z_DEFAULT_STRATEGY)
        plain.unlink()


def _gzip(source: Path, target: Path, strategy: int) -> None:
    """Compress without a time stamp, so that equal results are equal files.

    Floats hardly repeat: looking for runs alone is twice as fast and no larger.
    """
    deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31, 9, strategy)
    with source.open("rb") as plain, target.open("wb") as packed:
        while chunk := plain.read(1 << 22):
            packed.write(deflate.compress(chunk))
        packed.write(deflate.flush())


class OutputFolder:
    """A folder of results that appears whole or not at all.

    Used as a context manager::

        with OutputFolder("out") as out:
            write_image(warped, out.path("warped.nii.gz"))

    Files are made in a hidden folder inside it and move in place when the block ends. After an
    exception or Ctrl-C nothing of them is left, and what the folder held before is untouched.

    Args:
        folder: made, with its parents, where it does not exist.
        overwrite: allow a folder that holds files already. Files of the same name are replaced,
            others stay.

    Raises:
        OutputError: on entering, when the folder cannot be written, is a file, or holds files and
            ``overwrite`` is False; on leaving, when the files cannot be moved in place.
    """

    def __init__(self, folder: str | Path, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self._overwrite = overwrite
        self._made: list[Path] = []
        self._staging: Path | None = None

    def __enter__(self) -> OutputFolder:
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"{self.folder}: expected a folder for the results, got a file")
        try:
            self._require_free()
            self._make_folders()
            self._staging = _make_staging(self.folder, self.folder)
        except BaseException as error:
            self._remove_made()
            if isinstance(error, OSError):
                reason = error.strerror or str(error)
                raise OutputError(f"{self.folder}: cannot be written: {reason}") from error
            raise
        return self

    def path(self, name: str) -> Path:
        """Where to write the result called ``name``; folders in the name are made.

        Raises:
            OutputError: outside the ``with`` block, or a name that leaves the folder.
        """
        if self._staging is None:
            raise OutputError(f"{self.folder}: results are written inside the with block only")
        target = self._staging / "new" / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise OutputError(f"{self.folder}: expected a name inside the folder, got {name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = kind is not None
        try:
            if not failed:
                failed = True
                self._move_in_place()
                failed = False
        except OSError as problem:
            raise OutputError(f"{self.folder}: cannot be written: {problem}") from problem
        finally:
            if self._staging is not None:
                shutil.rmtree(self._staging, ignore_errors=True)
                self._staging = None
            if failed:
                self._remove_made()

    def _require_free(self) -> None:
        if self._overwrite or not self.folder.exists():
            return
        held = [f.name for f in self.folder.iterdir() if not f.name.startswith(STAGING_PREFIX)]
        if held:
            raise OutputError(
                f"{self.folder}: expected an empty folder, got one with {len(held)} entries "
                f"({min(held)}); ask for overwriting to replace files of the same name"
            )

    def _make_folders(self) -> None:
        missing = [f for f in (self.folder, *self.folder.parents) if not f.exists()]
        for folder in reversed(missing):
            folder.mkdir()
            self._made.append(folder)

    def _remove_made(self) -> None:
        for folder in reversed(self._made):
            try:
                folder.rmdir()
            except OSError:
                return
        self._made.clear()

    def _move_in_place(self) -> None:
        """Move each file, keeping what it replaces until all are moved; undo all on failure."""
        assert self._staging is not None
        new, old = self._staging / "new", self._staging / "old"
        moves = [(f, f.relative_to(new)) for f in sorted(new.rglob("*")) if f.is_file()]
        begun: list[Path] = []
        made: list[Path] = []
        try:
            for source, name in moves:
                target, kept = self.folder / name, old / name
                made += [f for f in target.parents if not f.exists()]
                target.parent.mkdir(parents=True, exist_ok=True)
                kept.parent.mkdir(parents=True, exist_ok=True)
                begun.append(name)
                if target.exists():
                    os.replace(target, kept)
                os.replace(source, target)
        except BaseException:
            for name in begun:
                self._put_back(new / name, old / name, self.folder / name)
            for folder in sorted(made, key=lambda f: -len(f.parts)):
                shutil.rmtree(folder, ignore_errors=True)
            raise

    @staticmethod
    def _put_back(source: Path, kept: Path, target: Path) -> None:
        if kept.exists():
            os.replace(kept, target)
        elif not source.exists():
            target.unlink(missing_ok=True)
