"""Write ITK's transform files: HDF5 without a date in it, and text that is known to be whole."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iterreg.displacement import Transform
from iterreg.geometry import apply_linear
from iterreg.io import in_steps, shuffled_and_deflated

if TYPE_CHECKING:
    import SimpleITK as sitk

BLOCK_BYTES = 1 << 24
"""By how much the memory of a file grows."""

TAIL_BYTES = 1 << 16
"""More than the last line of a text transform."""


def write_hdf5(transform: Transform, path: Path, most_step_mm: float = 0.0) -> None:
    """Write a composite of the affine and the field in ITK's HDF5 layout.

    ITK itself adds dates, so that no two of its files are equal. The file is made in memory: on a
    full disk the HDF5 library may end the process.

    Args:
        transform: fixed to moving.
        path: .h5 or .hdf5.
        most_step_mm: of the stored displacements; 0: float32 as it is.

    Raises:
        OSError: the file does not fit on the disk.

    Source: ITK 5.4, itkHDF5TransformIO.cxx.
    """
    import h5py

    grid, rank = transform.grid, transform.grid.rank
    space = {"driver": "core", "backing_store": False, "block_size": BLOCK_BYTES}
    with h5py.File("transform", "w", libver=("earliest", "v110"), **space) as file:
        for name in ("ITKVersion", "HDFVersion", "OSName", "OSVersion"):
            _put_text(file, name, "any")
        group = file.create_group("TransformGroup")
        affine = transform.affine_lps[:rank, :rank].ravel(), transform.affine_lps[:rank, rank]
        lattice = (grid.shape_zyx[::-1], grid.origin_lps_mm, grid.spacing_xyz_mm)
        _put_transform(group, 0, f"CompositeTransform_double_{rank}_{rank}")
        own = _put_transform(group, 1, f"AffineTransform_double_{rank}_{rank}")
        _put_numbers(own, "TransformFixedParameters", np.zeros(rank))
        _put_numbers(own, "TransformParameters", np.concatenate(affine))
        own = _put_transform(group, 2, f"DisplacementFieldTransform_double_{rank}_{rank}")
        directions = np.ravel(grid.direction_lps)
        _put_numbers(own, "TransformFixedParameters", np.concatenate([*lattice, directions]))
        _put_field(own, transform, most_step_mm)
        file.flush()
        image = file.id.get_file_image()
    path.write_bytes(image)


def write_text_transform(composite: sitk.CompositeTransform, path: Path) -> None:
    """Write ITK's text, and look whether its end arrived: ITK does not, and cuts it in silence.

    Args:
        composite: linear transforms and displacement fields.
        path: .tfm or .txt.

    Raises:
        OSError: the file does not fit on the disk.
    """
    import SimpleITK as sitk

    sitk.WriteTransform(composite, str(path))
    last = composite.GetNthTransform(composite.GetNumberOfTransforms() - 1)
    if not _ends_with(path, last.GetFixedParameters()):
        raise OSError(errno.ENOSPC, "no room for the whole file")


def _put_transform(group: Any, number: int, kind: str) -> Any:
    own = group.create_group(str(number))
    _put_text(own, "TransformType", kind)
    return own


def _put_field(group: Any, transform: Transform, most_step_mm: float) -> None:
    """Store the field in mm, LPS, components fastest, each slab packed as one chunk.

    The names of the transforms say double, as before: ITK converts what it reads.
    """
    vox, matrix = transform.field.vox.detach().cpu(), transform.grid.index_to_lps
    slab = vox[0, 0].numel() * len(vox)
    stored = group.create_dataset(
        "TransformParameters",
        (vox.numel(),),
        np.float32,
        chunks=(slab,),
        compression="gzip",
        shuffle=True,
        track_times=False,
    )
    for k in range(vox.shape[1]):
        mm = apply_linear(matrix, vox[:, k].double().numpy())
        numbers = in_steps(np.moveaxis(mm, 0, -1), most_step_mm)
        stored.id.write_direct_chunk((k * slab,), shuffled_and_deflated(numbers))


def _put_text(group: Any, name: str, text: str) -> None:
    import h5py

    group.create_dataset(name, data=[text], dtype=h5py.string_dtype("ascii"), track_times=False)


def _put_numbers(group: Any, name: str, numbers: Any) -> None:
    group.create_dataset(name, data=np.asarray(numbers, np.float64), track_times=False)


def _ends_with(path: Path, numbers: Sequence[float]) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = file.read().decode("ascii", "replace")
    key, colon, text = tail.rstrip("\n").rpartition("\n")[2].partition(":")
    if key != "FixedParameters" or not colon or not tail.endswith("\n"):
        return False
    try:
        return np.allclose([float(word) for word in text.split()], numbers, rtol=1e-9)
    except ValueError:
        return False
