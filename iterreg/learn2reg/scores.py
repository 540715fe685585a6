"""The Learn2Reg evaluator's metrics of one case, by its definitions.

Some differ from iterreg's own: labels are warped with scipy's rules for the border, HD95 has a
spacing of 1 voxel, TRE interpolates the field with a cubic spline, and SDlogJ hardly reacts to
folds. All arrays are in nibabel's order.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.errors import GeometryError, ImageContentError, ImageReadError
from iterreg.metrics import dice, hd95_by_label_mm, sdlogj_l2r

Labels = NDArray[np.int32]
Field = NDArray[np.floating[Any]]

ROWS_PER_SLAB = 16
"""Rows of the first axis that are warped at once, to limit the memory of the coordinates."""


def read_labels(path: str | Path) -> Labels:
    """Read a label map as the evaluator does: nibabel's array, without its geometry.

    Raises:
        ImageReadError: missing or unreadable.
        ImageContentError: not 3-D, or not whole numbers.
    """
    data = _load(Path(path))
    if data.dtype.kind not in "iu" and not np.array_equal(np.rint(data), data):
        raise ImageContentError(f"{path}: expected whole numbers as labels")
    return np.asfortranarray(data.astype(np.int32))


def read_points(path: str | Path) -> NDArray[np.float64]:
    """Read keypoints from a CSV without header: (n, 3) voxel indices in nibabel's order.

    Raises:
        ImageReadError: missing, or not three numbers per line.
    """
    try:
        points = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ImageReadError(f"{path}: expected a headerless CSV of points: {reason}") from error
    if points.size == 0 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ImageReadError(f"{path}: expected three numbers per line, got shape {points.shape}")
    return np.asarray(points, np.float64)


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read a mask as the evaluator does: voxels of exactly 1 are inside.

    Raises:
        ImageReadError, ImageContentError: as :func:`read_labels`.
    """
    return np.asarray(_load(Path(path)) == 1)


def read_spacing(path: str | Path) -> tuple[float, float, float]:
    """Read an image's voxel spacing in nibabel's order, mm.

    Raises:
        ImageReadError: missing or unreadable.
    """
    zooms = _open(Path(path)).header.get_zooms()
    return float(zooms[0]), float(zooms[1]), float(zooms[2])


def warp_labels_l2r(moving: Labels, displacement_l2r: Field) -> Labels:
    """Warp labels with ``scipy.ndimage.map_coordinates``, order 0; 0 beyond the outermost centres.

    Args:
        moving: (I', J', K').
        displacement_l2r: (I, J, K, 3) voxels.

    Returns:
        (I, J, K).
    """
    from scipy.ndimage import map_coordinates

    shape = displacement_l2r.shape[:3]
    warped: Labels = np.empty(shape, np.int32)
    for start in range(0, shape[0], ROWS_PER_SLAB):
        rows = slice(start, min(start + ROWS_PER_SLAB, shape[0]))
        at = np.indices((rows.stop - rows.start, *shape[1:]), np.float64)
        at[0] += start
        at += np.moveaxis(displacement_l2r[rows], -1, 0)
        warped[rows] = map_coordinates(moving, at, order=0, output=np.int32)
    return warped


def score_dice(fixed: Labels, moving: Labels, warped: Labels, labels: Sequence[int]) -> list[float]:
    """Compute Dice of each label; NaN if it is empty in the fixed or the unwarped moving labels."""
    by_label = dice(torch.from_numpy(fixed), torch.from_numpy(warped), labels)
    return [by_label[v] if _in_both(v, fixed, moving) else float("nan") for v in labels]


def score_hd95(fixed: Labels, moving: Labels, warped: Labels, labels: Sequence[int]) -> list[float]:
    """Compute HD95 of each label, with spacing 1 and DeepMind's surfaces; NaN as for Dice.

    A label of which no voxel is left after warping is infinitely far.
    """
    in_both = [v for v in labels if _in_both(v, fixed, moving)]
    by_label = hd95_by_label_mm(
        torch.from_numpy(fixed), torch.from_numpy(warped), in_both, (1.0, 1.0, 1.0)
    )
    lost = {v for v, distance in by_label.items() if np.isnan(distance)}
    return [float("inf") if v in lost else by_label.get(v, float("nan")) for v in labels]


def _in_both(value: int, fixed: Labels, moving: Labels) -> bool:
    return bool((fixed == value).any() and (moving == value).any())


def score_tre(
    fixed: NDArray[np.float64],
    moving: NDArray[np.float64],
    displacement_l2r: Field,
    moving_spacing: Sequence[float],
) -> NDArray[np.float64]:
    """Compute the TRE of each keypoint, mm in the moving image.

    Args:
        fixed, moving: (n, 3) voxel indices.
        displacement_l2r: (I, J, K, 3) voxels; interpolated with a cubic spline, 0 outside.
        moving_spacing: mm, in nibabel's order.

    Raises:
        GeometryError: the two sets differ in number.
    """
    from scipy.ndimage import map_coordinates

    if fixed.shape != moving.shape:
        raise GeometryError(f"keypoints: expected {len(fixed)} in both, got {len(moving)}")
    displacement = [map_coordinates(displacement_l2r[..., c], fixed.T) for c in range(3)]
    error_mm = (fixed + np.stack(displacement, axis=1) - moving) * np.asarray(moving_spacing)
    distance: NDArray[np.float64] = np.linalg.norm(error_mm, axis=1)
    return distance


def score_sdlogj_l2r(displacement_l2r: Field, mask: NDArray[np.bool_] | None) -> float:
    """Compute SDlogJ with 3 added and 2 voxels cropped, inside the mask if there is one."""
    return sdlogj_l2r(np.asarray(displacement_l2r), mask)


def _open(path: Path) -> Any:
    import nibabel

    try:
        return nibabel.load(path)
    except (OSError, nibabel.filebasedimages.ImageFileError) as error:
        raise ImageReadError(f"{path}: cannot be read: {error}") from error


def _load(path: Path) -> NDArray[Any]:
    try:
        data: NDArray[Any] = np.asanyarray(_open(path).dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())[:120]
        raise ImageReadError(f"{path}: cannot be read: {reason}") from error
    if data.ndim != 3:
        raise ImageContentError(f"{path}: expected 3-D, got {data.ndim}-D")
    return data
