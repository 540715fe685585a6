"""Images of other packages, recognised by their public attributes; none of them is imported.

=====================  ===============  ==================================================
nibabel's images       (i, j, k)        ``affine`` from an index to RAS mm
MONAI's ``MetaTensor``  (c, i, j, k)     ``affine`` to RAS mm, or to LPS if its meta data say so
torchio's images       (c, i, j, k)     ``affine`` to RAS mm
ANTs' images           (i, j, k)        ``spacing``, ``origin`` and ``direction`` of ITK, LPS mm
=====================  ===============  ==================================================

i, j and k run along the grid's x, y and z. SimpleITK's images are read by
:mod:`iterreg.io.reading`, as the files that SimpleITK reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.image.arrays import as_numpy
from iterreg.io.itk import to_itk

if TYPE_CHECKING:
    import SimpleITK as sitk

MM_PER_UNIT = {"meter": 1e3, "micron": 1e-3}
"""Of NIfTI headers; all others are millimetres."""

ACCEPTED = "a path, an image of SimpleITK, nibabel, MONAI, torchio or ANTs, or an iterreg value"


@dataclass(frozen=True)
class Foreign:
    """What an image of another package holds.

    Args:
        array: of numbers.
        axes: the letter of each of its axes, as :func:`iterreg.image.arrays.place` takes them.
        grid: where its voxels are.
        name: its file, or the argument's name.
        dtype: in which a result is stored; empty for the array's own.
        slope, intercept: of the stored numbers.
    """

    array: NDArray[Any]
    axes: str
    grid: Grid
    name: str
    dtype: str = ""
    slope: float = 1.0
    intercept: float = 0.0


def from_foreign(value: Any, name: str) -> Foreign:
    """Read an image of another package.

    Args:
        value: the image.
        name: the argument's name, for messages.

    Raises:
        GeometryError: an array or tensor that does not say where its voxels are, or a place that
            cannot be used.
        ImageContentError: 4-D, a batch, or no real numbers.
        TypeError: it is no image.
    """
    read = _reader(value)
    if read is None:
        raise _refusal(value, name)
    try:
        return read(value, name)
    except GeometryError as error:
        text = str(error)
        raise GeometryError(text if text.startswith(name) else f"{name}: {text}") from error


def _reader(value: Any) -> Callable[[Any, str], Foreign] | None:
    has = {a for a in _ATTRIBUTES if hasattr(value, a)}
    for needed, read in _READERS:
        if needed <= has:
            return read
    return None


def _refusal(value: Any, name: str) -> Exception:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
        return GeometryError(
            f"{name}: expected an image that says where its voxels are, got a bare {kind} of "
            f"shape {tuple(value.shape)}: make it one with iterreg.Image.from_array(array, "
            'axes="zyx", spacing_xyz_mm=...) or (array, axes="xyz", affine_ras=...), and labels '
            "with iterreg.LabelMap.from_array"
        )
    return TypeError(f"{name}: expected {ACCEPTED}, got {type(value).__name__}")


def _from_nibabel(value: Any, name: str) -> Foreign:
    name = _file_of(value, name)
    if value.affine is None:
        raise GeometryError(f"{name}: expected an image with an affine, got None")
    array = as_numpy(np.asanyarray(value.dataobj), name)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise ImageContentError(
            f"{name}: {array.ndim}-D, expected one volume, got shape {array.shape}; take one with "
            "image.slicer[..., 0]"
        )
    grid = Grid.from_affine_ras(array.shape[::-1], _in_mm(value))
    slope, intercept = _scale(value.dataobj)
    stored = np.dtype(value.get_data_dtype())
    dtype = stored.name if (slope, intercept) != (1.0, 0.0) and stored.kind in "iu" else ""
    if not dtype:
        slope, intercept = 1.0, 0.0
    return Foreign(array, "xyz", grid, name, dtype, slope, intercept)


def _scale(dataobj: Any) -> tuple[float, float]:
    """What nibabel has multiplied the stored numbers with, and added to them."""
    slope, intercept = getattr(dataobj, "slope", 1.0), getattr(dataobj, "inter", 0.0)
    return float(1.0 if slope is None else slope), float(0.0 if intercept is None else intercept)


def _in_mm(value: Any) -> NDArray[np.float64]:
    """The affine of a nibabel image in mm, whatever the unit of its header."""
    affine = np.array(value.affine, np.float64)
    units = getattr(value.header, "get_xyzt_units", None)
    if units is not None:
        affine[:3] *= MM_PER_UNIT.get(units()[0], 1.0)
    return affine


def _from_meta_tensor(value: Any, name: str) -> Foreign:
    meta = dict(value.meta)
    name = _of_one(meta.get("filename_or_obj")) or name
    array = as_numpy(value.as_tensor() if hasattr(value, "as_tensor") else value, name)
    rank = int(getattr(value, "spatial_ndim", min(3, array.ndim)))
    if array.ndim not in (rank, rank + 1) or rank not in (2, 3):
        raise ImageContentError(
            f"{name}: expected one item of shape (channels, x, y, z), got shape {array.shape}; "
            "take one item of a batch"
        )
    affine = _square(as_numpy(value.affine, f"{name}: affine"), rank)
    if str(getattr(meta.get("space"), "value", meta.get("space"))).upper() == "LPS":
        affine = np.diag([*(-1.0, -1.0, 1.0)[:rank], 1.0]) @ affine
    axes = ("c" if array.ndim > rank else "") + "xyz"[:rank]
    shape = array.shape[-rank:][::-1]
    return Foreign(array, axes, Grid.from_affine_ras(shape, affine), name)


def _square(affine: NDArray[Any], rank: int) -> NDArray[np.float64]:
    """The matrix of a picture without its row and column of z."""
    affine = np.asarray(affine, np.float64)
    if rank == 2 and affine.shape == (4, 4):
        return affine[np.ix_([0, 1, 3], [0, 1, 3])]
    return affine


def _from_torchio(value: Any, name: str) -> Foreign:
    name = _file_of(value, name)
    array = as_numpy(value.data, name)
    if array.ndim != 4:
        raise ImageContentError(
            f"{name}: expected a tensor (channels, x, y, z), got shape {array.shape}"
        )
    grid = Grid.from_affine_ras(array.shape[:0:-1], np.asarray(value.affine, np.float64))
    return Foreign(array, "cxyz", grid, name)


def _from_ants(value: Any, name: str) -> Foreign:
    array, rank = as_numpy(value.numpy(), name), int(value.dimension)
    if rank not in (2, 3):
        raise ImageContentError(f"{name}: {rank}-D, expected one volume, got shape {array.shape}")
    axes = "xyz"[:rank] + ("c" if array.ndim > rank else "")
    shape = array.shape[:rank]
    direction = np.asarray(value.direction, np.float64).reshape(rank, rank)
    grid = Grid(
        tuple(reversed(shape)),
        tuple(float(s) for s in value.spacing),
        tuple(float(o) for o in value.origin),
        tuple(tuple(row) for row in direction.tolist()),
    )
    return Foreign(array, axes, grid, name)


_READERS = (
    (frozenset({"affine", "dataobj", "header"}), _from_nibabel),
    (frozenset({"affine", "meta", "detach"}), _from_meta_tensor),
    (frozenset({"affine", "data", "spatial_shape"}), _from_torchio),
    (frozenset({"numpy", "spacing", "origin", "direction", "dimension"}), _from_ants),
)
"""The attributes that each kind of image has, and what reads it; the first that fits."""

_ATTRIBUTES = frozenset[str]().union(*(needed for needed, _ in _READERS))


def _file_of(value: Any, name: str) -> str:
    """The file that an image came from, else the name of the argument."""
    for attribute in ("get_filename", "path"):
        found = getattr(value, attribute, None)
        found = found() if callable(found) else found
        if isinstance(found, str) or hasattr(found, "__fspath__"):
            return str(found)
    return name


def _of_one(file: Any) -> str:
    """The file that meta data name, if it is one."""
    return str(file) if isinstance(file, str) or hasattr(file, "__fspath__") else ""


def to_nibabel(value: Image | LabelMap) -> Any:
    """A nibabel image of the same voxels; sform and qform both hold the place.

    Args:
        value: of rank 3; an image with one channel.

    Raises:
        GeometryError: a picture, or several channels.
    """
    import nibabel

    if value.grid.rank != 3:
        raise GeometryError(f"{value.name}: expected a volume for nibabel, got a picture")
    array = value.to_array("xyz")
    image = nibabel.Nifti1Image(array, value.grid.ijk_to_ras)
    image.header.set_xyzt_units("mm")
    image.set_sform(value.grid.ijk_to_ras, 1)
    image.set_qform(value.grid.ijk_to_ras, 1)
    return image


def to_simpleitk(value: Image | LabelMap) -> sitk.Image:
    """A SimpleITK image of the same voxels."""
    data = value.data.detach().cpu().numpy()
    if isinstance(value, LabelMap):
        return to_itk(data, value.grid)
    if len(data) == 1:
        return to_itk(data[0], value.grid)
    return to_itk(np.moveaxis(data, 0, -1), value.grid, vectors=True)
