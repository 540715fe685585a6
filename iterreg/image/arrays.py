"""Arrays of any axis order, put on a grid.

An array does not say which axis is which, nor where its voxels are. Both have to be told: the axes
as a word of letters, such as ``zyx`` or ``xyz``, and the place as a spacing, a matrix or a grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import Grid
from iterreg.image.space import OnGrid

CHANNEL = "c"
STORED_AS = {"bool": "uint8", "float16": "float32", "bfloat16": "float32"}
"""What files store instead of types that they do not have."""


def as_numpy(array: Any, name: str) -> NDArray[Any]:
    """A NumPy array, or a torch tensor of any device, as a NumPy array.

    Raises:
        ImageContentError: it is neither, or holds no real numbers.
    """
    if isinstance(array, torch.Tensor):
        tensor = array.detach().cpu()
        array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if not isinstance(array, np.ndarray):
        raise ImageContentError(
            f"{name}: expected a NumPy array or a torch tensor, got {type(array).__name__}"
        )
    if array.dtype.kind not in "biuf":
        raise ImageContentError(f"{name}: expected real numbers, got {array.dtype}")
    return array


def place(
    array: NDArray[Any],
    axes: str,
    name: str,
    *,
    spacing_xyz_mm: ArrayLike | None = None,
    affine_ras: Any = None,
    grid: Grid | OnGrid | None = None,
) -> tuple[NDArray[Any], Grid]:
    """Order an array's axes, and find where its voxels are.

    Args:
        array: of numbers.
        axes: a letter for each axis, in the array's order: x, y, z, and c for channels.
        name: of the argument, for messages.
        spacing_xyz_mm, affine_ras, grid: exactly one of them.

    Returns:
        The array as (C, *shape), axes slowest first, and its grid.

    Raises:
        GeometryError: the axes do not fit the array, not exactly one place is given, or it does
            not fit.

    Example:
        >>> data, grid = place(np.zeros((4, 3, 2)), "xyz", "ct", spacing_xyz_mm=(1.0, 1.5, 3.0))
        >>> data.shape, grid
        ((1, 2, 3, 4), Grid(4 x 3 x 2 voxels (x first) of 1 x 1.5 x 3 mm, axes LPS))
    """
    _require_axes(array, axes, name)
    order = [axes.index(letter) for letter in "czyx" if letter in axes]
    ordered = array.transpose(order)
    if CHANNEL not in axes:
        ordered = ordered[None]
    given = {"spacing_xyz_mm": spacing_xyz_mm, "affine_ras": affine_ras, "grid": grid}
    named = [key for key, value in given.items() if value is not None]
    if len(named) != 1:
        raise GeometryError(
            f"{name}: expected one of {', '.join(given)}, which say where the voxels are, got "
            f"{' and '.join(named) or 'none'}"
        )
    shape = tuple(ordered.shape[1:])
    try:
        own = _grid(shape, spacing_xyz_mm, affine_ras) if grid is None else grid
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from error
    found = getattr(own, "grid", own)
    if not isinstance(found, Grid):
        raise GeometryError(f"{name}: grid: expected an iterreg.Grid, got {type(own).__name__}")
    if found.shape_zyx != shape:
        raise GeometryError(
            f"{name}: expected an array of shape {_in_words(found.shape_zyx, axes)} with axes "
            f"{axes!r}, as the grid has it, got {array.shape}"
        )
    return ordered, found


def ordered(data: NDArray[Any], axes: str, name: str) -> NDArray[Any]:
    """Order the axes of (C, *shape) by letters: the way back from :func:`place`.

    Raises:
        GeometryError: other letters, or several channels and no ``c``.

    Example:
        >>> ordered(np.zeros((1, 2, 3, 4)), "xyz", "ct").shape
        (4, 3, 2)
    """
    letters = "czyx" if data.ndim == 4 else "cyx"
    axes = axes if isinstance(axes, str) else ""
    if CHANNEL not in axes and len(data) > 1:
        raise GeometryError(f"{name}: axes: {len(data)} channels need a letter c, got {axes!r}")
    if CHANNEL not in axes:
        data, letters = data[0], letters[1:]
    if sorted(axes) != sorted(letters):
        raise GeometryError(f"{name}: axes: expected the letters {letters!r}, got {axes!r}")
    return np.ascontiguousarray(data.transpose([letters.index(letter) for letter in axes]))


def _require_axes(array: NDArray[Any], axes: str, name: str) -> None:
    letters = sorted(axes.replace(CHANNEL, "", 1)) if isinstance(axes, str) else []
    if letters not in (["x", "y"], ["x", "y", "z"]):
        raise GeometryError(
            f"{name}: axes: expected a letter for each axis of the array, such as 'zyx' "
            "(SimpleITK's arrays), 'xyz' (nibabel's), 'cxyz' with channels, or 'yx' for a picture, "
            f"got {axes!r}"
        )
    if array.ndim != len(axes):
        raise GeometryError(
            f"{name}: expected an array of {len(axes)} axes ({axes!r}), got shape {array.shape}"
        )
    if array.size == 0:
        raise GeometryError(f"{name}: expected an array with voxels, got shape {array.shape}")


def _grid(shape: tuple[int, ...], spacing_xyz_mm: Any, affine_ras: Any) -> Grid:
    if spacing_xyz_mm is None:
        return Grid.from_affine_ras(shape, affine_ras)
    rank = len(shape)
    return Grid(shape, spacing_xyz_mm, (0.0,) * rank, tuple(map(tuple, np.eye(rank).tolist())))


def _in_words(shape_zyx: tuple[int, ...], axes: str) -> str:
    sizes = dict(zip("zyx"[-len(shape_zyx) :], map(str, shape_zyx), strict=True))
    return "(" + ", ".join(sizes.get(letter, "channels") for letter in axes) + ")"


def require_whole_numbers(stored: NDArray[Any], name: str) -> None:
    """Refuse labels that are no whole numbers of 32 bits.

    Raises:
        ImageContentError: NaN, infinite or fractional values, or too large ones.
    """
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
            whole = f"labels of 32 bits, {limits.min} to {limits.max}"
            raise ImageContentError(f"{name}: expected {whole}, got {low} to {high}")
