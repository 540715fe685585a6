"""NIfTI files: what ITK lets through or does not tell, the intensity scale, and compression."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iterreg.errors import GeometryError, ImageReadError
from iterreg.io.image_formats import Stored, extension_of
from iterreg.io.itk import GZIP_LEVEL, write_itk

if TYPE_CHECKING:
    import SimpleITK as sitk

FLOAT_CODES = (16, 64)
"""NIfTI's type codes of float32 and float64."""

PIECE_BYTES = 1 << 20
"""Files are scanned in pieces of this size."""


class GeometryWarning(UserWarning):
    """A file was read, but its header leaves the position of its voxels in doubt."""


def inspect_nifti(path: Path) -> Stored:
    """Refuse damage that ITK lets through, and find the stored number type and scale."""
    pieces = _gzip_pieces(path) if extension_of(path) == ".nii.gz" else _pieces(path)
    content = bytearray()
    header, floating, length = None, False, 0
    for piece in pieces:
        length += len(piece)
        if header is None or floating:
            content += piece
        if header is None and len(content) >= 540:
            header = _nifti_header(path, content)
            floating = header["datatype"] in FLOAT_CODES
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


def _nifti_scale(header: Any) -> Stored:
    import nibabel

    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    try:
        dtype = header.get_data_dtype()
    except nibabel.spatialimages.HeaderDataError:
        return Stored()
    if dtype.kind not in "iuf":
        return Stored()
    name = np.dtype(dtype).newbyteorder("=").name
    return Stored(name, slope, intercept if np.isfinite(intercept) else 0.0)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _gzip_pieces(path: Path) -> Iterator[bytes]:
    """The content of a gzip file, verified by its checksums: ITK fills missing parts with zeros."""
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


def write_nifti(
    image: sitk.Image, target: Path, scale: tuple[float, float], floating: bool
) -> None:
    """Write NIfTI through ITK, put the intensity scale into its header, and compress it.

    ITK always writes a scale of 1, and compresses floats in twice the time.
    """
    plain = target if target.suffix == ".nii" else target.with_suffix("")
    write_itk(image, plain, compress=False)
    if scale != (1.0, 0.0):
        with plain.open("r+b") as file:
            file.seek(112)  # scl_slope and scl_inter of NIfTI-1, which ITK writes natively
            file.write(np.asarray(scale, np.float32).tobytes())
    if plain != target:
        _gzip(plain, target, zlib.Z_RLE if floating else zlib.Z_DEFAULT_STRATEGY)
        plain.unlink()


def _gzip(source: Path, target: Path, strategy: int) -> None:
    """Compress without a time stamp, so that equal results are equal files.

    Floats hardly repeat: a search for runs alone is twice as fast, and the file no larger.
    """
    deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31, 9, strategy)
    with source.open("rb") as plain, target.open("wb") as packed:
        while chunk := plain.read(1 << 22):
            packed.write(deflate.compress(chunk))
        packed.write(deflate.flush())
