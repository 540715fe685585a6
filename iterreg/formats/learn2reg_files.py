"""Files of Learn2Reg fields: written whole or not at all, checked in pieces without loading."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from iterreg.atomic import write_aside
from iterreg.errors import ImageContentError, ImageReadError, IterregError, OutputError
from iterreg.formats.headers import shape_text
from iterreg.geometry import Matrix
from iterreg.io import GZIP_LEVEL, PIECE_BYTES, extension_of, gzip_file

Shape = tuple[int, int, int]
Field = NDArray[np.floating[Any]]

FIELD_EXTENSIONS = (".nii.gz", ".npz")
"""Suffixes that the evaluator reads; it looks for .npz first."""

DTYPES = ("float32", "float16")
"""Types of the numbers. float16 is exact to 1/16 voxel above 64 voxels; NIfTI does not have it."""


def write_field(
    displacement_l2r: Field, path: str | Path, affine_ras: Matrix, dtype: str = "float32"
) -> None:
    """Write a field in the evaluator's format; the file appears whole or not at all.

    Equal fields give equal files. The new file is checked before it takes its final name.

    Args:
        displacement_l2r: (I, J, K, 3) voxels.
        path: .nii.gz or .npz.
        affine_ras: (4, 4), nibabel's matrix of the fixed image. Viewers use it; the
            evaluator does not.
        dtype: float32, or float16 in .npz.

    Raises:
        OutputError: unknown extension or type, or the file cannot be written.
        ImageContentError: the field holds NaN or infinite values, in its type.
    """
    extension = extension_of(path)
    check_format(extension, dtype)
    with np.errstate(over="ignore"):  # overflow becomes infinite, which check_field refuses
        field = np.asarray(displacement_l2r, dtype)
    shape: Shape = (field.shape[0], field.shape[1], field.shape[2])

    def write(target: Path) -> None:
        if extension == ".npz":
            _write_npz(field, target)
        else:
            _write_nifti(field, target, affine_ras)
        check_field(target, shape)

    write_aside(path, write)


def check_format(extension: str, dtype: str) -> None:
    """Refuse an extension or a type that the evaluator cannot read.

    Raises:
        OutputError: the extension, the type, or the two together are not possible.
    """
    if extension not in FIELD_EXTENSIONS:
        raise OutputError(
            f"field: expected {' or '.join(FIELD_EXTENSIONS)}, got {extension or 'no extension'}"
        )
    if dtype not in DTYPES:
        raise OutputError(f"field: expected {' or '.join(DTYPES)}, got {dtype}")
    if extension == ".nii.gz" and dtype == "float16":
        raise OutputError("field: NIfTI cannot hold float16: use .npz, or float32")


def _write_npz(field: Field, target: Path) -> None:
    entry = zipfile.ZipInfo("displacement.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(target, "w", compresslevel=GZIP_LEVEL) as packed:
        # An entry without its own level gets the default, which is three times slower.
        entry._compresslevel = GZIP_LEVEL  # type: ignore[attr-defined]
        with packed.open(entry, "w", force_zip64=True) as file:
            np.lib.format.write_array(file, field, allow_pickle=False)


def _write_nifti(field: Field, target: Path, affine_ras: Matrix) -> None:
    import nibabel

    image = nibabel.Nifti1Image(field, affine_ras)
    image.header.set_xyzt_units("mm")
    plain = target.with_suffix("")
    nibabel.save(image, plain)
    gzip_file(plain, target)
    plain.unlink()


def read_field(path: str | Path, shape_ijk: Shape | None = None) -> Field:
    """Read a field in the type that the evaluator would use.

    Args:
        path: .nii.gz or .npz.
        shape_ijk: the expected shape without the components; any if None.

    Returns:
        (I, J, K, 3) float32 voxels, or float64 where the file stores that.

    Raises:
        ImageReadError: the file is missing, truncated, or in another format.
        ImageContentError: pickled data, several arrays, a wrong shape, NaN or infinite values.
    """
    path = Path(path)
    check_field(path, shape_ijk)
    if extension_of(path) == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[arrays.files[0]], np.float32)
    import nibabel

    image: Any = nibabel.load(path)
    double = image.get_data_dtype() == np.float64
    return np.asarray(image.dataobj, np.float64 if double else np.float32)


def check_field(path: str | Path, shape_ijk: Shape | None = None) -> float:
    """Read a field in pieces and refuse what the leaderboard would, or should, refuse.

    Args:
        path: .nii.gz or .npz.
        shape_ijk: the expected shape without the components; any if None.

    Returns:
        The largest absolute component, voxels.

    Raises:
        ImageReadError: the file is missing, truncated, or in another format.
        ImageContentError: pickled data, several arrays, a wrong shape, NaN or infinite values.
    """
    path = Path(path)
    extension = extension_of(path)
    if extension not in FIELD_EXTENSIONS:
        raise ImageReadError(f"{path.name}: expected {' or '.join(FIELD_EXTENSIONS)}")
    with _unreadable_named(path):
        return _check_npz(path, shape_ijk) if extension == ".npz" else _check_nifti(path, shape_ijk)


@contextmanager
def _unreadable_named(path: Path) -> Iterator[None]:
    """Turn the errors of zip, gzip, numpy and nibabel into one ImageReadError."""
    try:
        yield
    except IterregError:
        raise
    except FileNotFoundError as error:
        raise ImageReadError(f"{path}: no such file") from error
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        RuntimeError,
        zlib.error,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        reason = " ".join(str(error).split())[:120]
        raise ImageReadError(f"{path.name}: cannot be read: {reason}") from error


def _check_npz(path: Path, shape_ijk: Shape | None) -> float:
    with zipfile.ZipFile(path) as packed:
        names = packed.namelist()
        if len(names) != 1:
            raise ImageContentError(
                f"{path.name}: expected one array, got {len(names)}: {', '.join(names[:5])}"
            )
        with packed.open(names[0]) as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0}
            header = read.get(version, np.lib.format.read_array_header_2_0)
            shape, _, dtype = header(file)
            if dtype.hasobject:
                raise ImageContentError(
                    f"{path.name}: expected an array of numbers, got pickled Python objects, "
                    "which are never loaded"
                )
            _require_field(path, shape, dtype, shape_ijk)
            return _largest(path, file, dtype, int(np.prod(shape)))


def _check_nifti(path: Path, shape_ijk: Shape | None) -> float:
    import nibabel

    with cast(IO[bytes], gzip.open(path)) as file:
        start = file.read(348)
        header: Any = nibabel.Nifti1Header(start, check=False)
        if header["magic"].item() not in (b"n+1", b"ni1"):
            raise ImageReadError(f"{path.name}: expected a NIfTI file")
        dtype, shape = header.get_data_dtype(), header.get_data_shape()
        _require_field(path, shape, dtype, shape_ijk)
        skip = int(header["vox_offset"]) - 348
        if skip < 0 or len(file.read(skip)) != skip:
            raise ImageReadError(f"{path.name}: its NIfTI header is wrong")
        slope, intercept = header.get_slope_inter()
        largest = _largest(path, file, dtype, int(np.prod(shape)))
        return float(abs(largest * (slope or 1.0)) + abs(intercept or 0.0))


def _require_field(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], shape_ijk: Shape | None
) -> None:
    if len(shape) == 5 and shape[-1] == 3:
        raise ImageContentError(
            f"{path.name}: expected I x J x K x 3 (voxels), got ITK's 5-D vector image (mm, LPS): "
            "iterreg convert turns one into the other"
        )
    if len(shape) != 4 or shape[-1] != 3 or (shape_ijk and shape[:3] != shape_ijk):
        wanted = shape_text((*shape_ijk, 3)) if shape_ijk else "I x J x K x 3"
        raise ImageContentError(f"{path.name}: expected {wanted}, got {shape_text(shape)}")
    if dtype.kind not in "fiu":
        raise ImageContentError(f"{path.name}: expected real numbers, got {dtype}")


def _largest(path: Path, file: IO[bytes], dtype: np.dtype[Any], count: int) -> float:
    """Return the largest of ``count`` numbers; reads to the end, where checksums are verified."""
    largest, left = 0.0, count * dtype.itemsize
    step = PIECE_BYTES // dtype.itemsize * dtype.itemsize
    while left > 0:
        piece = file.read(min(step, left))
        if not piece or len(piece) % dtype.itemsize:
            raise ImageReadError(f"{path.name}: truncated: {left} bytes are missing")
        left -= len(piece)
        values = np.frombuffer(piece, dtype)
        if not np.isfinite(values).all():
            raise ImageContentError(f"{path.name}: holds NaN or infinite displacements")
        largest = max(largest, float(np.abs(values).max()))
    if len(file.read(PIECE_BYTES)) == PIECE_BYTES:
        raise ImageReadError(f"{path.name}: longer than its header says")
    return largest
