"""NIfTI headers: read and checked before any library sees the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iterreg.errors import ImageContentError, ImageReadError

HEADER_BYTES = 540
"""Of NIfTI-2; NIfTI-1 takes 348."""

MAGIC = {348: b"n+1", 540: b"n+2"}

PACKED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
"""How files begin that another program compressed."""

MOST_AXIS = 1 << 31
"""More voxels along an axis are damage."""


@dataclass(frozen=True)
class NiftiHeader:
    """A header whose sizes and types are known to make sense.

    Args:
        fields: nibabel's header.
        shape: voxels along the axes of the image, first axis first, without trailing axes of 1.
        components: numbers per voxel: 1, or the length of the fifth axis.
        dtype: of a stored number; a colour is a structured type.
        start: byte where the voxels begin.
    """

    fields: Any
    shape: tuple[int, ...]
    components: int
    dtype: np.dtype[Any]
    start: int

    @property
    def count(self) -> int:
        """How many numbers (or colours) are stored."""
        total = self.components
        for n in self.shape:
            total *= n
        return total

    @property
    def end(self) -> int:
        """Byte where the voxels end."""
        return self.start + self.count * self.dtype.itemsize


def parse_header(path: Path, start: bytes) -> NiftiHeader:
    """Read a header.

    Args:
        path: for messages.
        start: the first bytes of the file, inflated.

    Raises:
        ImageReadError: it is not one, or its numbers cannot be true.
        ImageContentError: it describes something else than an image of real numbers.
    """
    fields = _fields(path, start)
    rank = int(fields["dim"][0])
    if not 1 <= rank <= 7:
        raise ImageReadError(f"{path}: expected a NIfTI image of 1 to 7 axes, got {rank} axes")
    sizes = [int(n) for n in fields["dim"][1 : 1 + rank]]
    # Some programs leave 0 behind in axes that hold nothing.
    sizes = [1 if k > 2 and n == 0 else n for k, n in enumerate(sizes)]
    if not all(0 < n < MOST_AXIS for n in sizes):
        told = " x ".join(map(str, sizes))
        raise ImageReadError(f"{path}: expected voxels along every axis, got size {told}")
    shape, components = _axes(sizes)
    return NiftiHeader(
        fields, shape, components, _number_type(path, fields), _voxel_offset(path, fields)
    )


def _fields(path: Path, start: bytes) -> Any:
    import nibabel

    kinds: dict[int, Any] = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    for order in ("little", "big"):
        size = int.from_bytes(start[:4], order)
        if size in kinds and len(start) >= size:
            header = kinds[size](start[:size], "<" if order == "little" else ">", check=False)
            magic = bytes(header["magic"].tobytes())[:3]
            if magic == MAGIC[size]:
                return header
            if magic[:2] == b"ni":
                raise ImageReadError(
                    f"{path}: expected a NIfTI image in one file, got a header whose voxels are in "
                    "another (.img): convert it to .nii.gz"
                )
            if size == 348:
                raise ImageReadError(
                    f"{path}: expected a NIfTI image, got an ANALYZE header, which does not say "
                    "where its voxels are: convert it to .nii.gz"
                )
    kind = next((name for magic, name in PACKED.items() if start.startswith(magic)), "")
    hint = f": it is packed by {kind}, and gzip alone is read" if kind else ""
    raise ImageReadError(f"{path}: expected a NIfTI image, but its content is not one{hint}")


def _axes(sizes: list[int]) -> tuple[tuple[int, ...], int]:
    """The shape of the image, and the numbers per voxel."""
    rank = len(sizes)
    if rank >= 5 and sizes[3] == 1 and sizes[4] > 1:
        components = sizes[4]
        if any(n > 1 for n in sizes[5:]):
            return tuple(sizes), 1
        return tuple(sizes[:2] if sizes[2] == 1 and components == 2 else sizes[:3]), components
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return tuple(sizes), 1


def _number_type(path: Path, fields: Any) -> np.dtype[Any]:
    import nibabel

    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    try:
        dtype = np.dtype(fields.get_data_dtype())
    except (nibabel.spatialimages.HeaderDataError, TypeError, KeyError) as error:
        raise ImageReadError(
            f"{path}: expected a number type of NIfTI, got datatype {code}"
        ) from error
    if dtype.itemsize == 0 or dtype.kind not in "iufcV":
        raise ImageReadError(f"{path}: expected a number type of NIfTI, got datatype {code}")
    if dtype.kind == "c":
        raise ImageContentError(f"{path}: expected real intensities, got complex ones")
    if bits != 8 * dtype.itemsize:
        name = "colours" if dtype.kind == "V" else dtype.name
        raise ImageReadError(
            f"{path}: expected {8 * dtype.itemsize} bits per voxel for {name} "
            f"(datatype {code}), got bitpix {bits}"
        )
    known: np.dtype[Any] = dtype
    return known


def _voxel_offset(path: Path, fields: Any) -> int:
    told = float(fields["vox_offset"])
    least = int(fields["sizeof_hdr"]) + 4
    if told == 0:  # Some programs leave it out; the voxels then follow the header.
        return least
    if not np.isfinite(told) or told < least or told != int(told):
        raise ImageReadError(
            f"{path}: expected the voxels at byte {least} or behind it, got vox_offset {told:g}"
        )
    return int(told)
