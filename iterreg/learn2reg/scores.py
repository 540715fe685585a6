"""The Learn2Reg evaluator's metrics of one case, by its definitions.

They are not iterreg's own everywhere: labels are warped with scipy's rules for the border, HD95 has
a spacing of 1 voxel, TRE reads the field with a cubic spline, and a fold hardly shows in SDlogJ.
Arrays are in nibabel's order throughout.
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
"""Rows of the first axis that are warped together: bounds the coordinates' memory."""


def read_labels(path: str | Path) -> Labels:
    """A label map as the evaluator sees it: nibabel's array, its geometry ignored.

    Raises:
        ImageReadError: missing or unreadable.
        ImageContentError: not 3-D, or not whole numbers.
    """
    data = _load(Path(path))
    if data.dtype.kind not in "iu" and not np.array_equal(np.rint(data), data):
        raise ImageContentError(f"{path}: expected whole numbers as labels")
    return np.asfortranarray(data.astype(np.int32))


def read_points(path: str | Path) -> NDArray[np.float64]:
    """Keypoints: headerless CSV, (n, 3) voxel indices in nibabel's order.

    Raises:
        ImageReadError: missing, or not three numbers a line.
    """
    try:
        points = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ImageReadError(f"{path}: expected a headerless CSV of points: {reason}") from error
    if points.size == 0 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ImageReadError(f"{path}: expected three numbers a line, got shape {points.shape}")
    return np.asarray(points, np.float64)


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """A mask as the evaluator reads it: where it is exactly 1.

    Raises:
        ImageReadError, ImageContentError: as :func:`read_labels`.
    """
    return np.asarray(_load(Path(path)) == 1)


def read_spacing(path: str | Path) -> tuple[float, float, float]:
    """Voxel spacing of an image in nibabel's order, mm.

    Raises:
        ImageReadError: missing or unreadable.
    """
    zooms = _open(Path(path)).header.get_zooms()
    return float(zooms[0]), float(zooms[1]), float(zooms[2])


def warp_labels_l2r(moving: Labels, displacement_l2r: Field) -> Labels:
    """Pull labels with ``scipy.ndimage.map_coordinates``, order 0, 0 outside the outermost centres.

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
    """Dice of each label; NaN where it is empty in the fixed or the unwarped moving labels."""
    found = dice(torch.from_numpy(fixed), torch.from_numpy(warped), labels)
    return [found[v] if _counts(v, fixed, moving) else float("nan") for v in labels]


def score_hd95(fixed: Labels, moving: Labels, warped: Labels, labels: Sequence[int]) -> list[float]:
    """HD95 of each label, spacing 1, by DeepMind's surfaces; NaN as in :func:`score_dice`.

    A label that is warped out of sight is infinitely far.
    """
    wanted = [v for v in labels if _counts(v, fixed, moving)]
    found = hd95_by_label_mm(
        torch.from_numpy(fixed), torch.from_numpy(warped), wanted, (1.0, 1.0, 1.0)
    )
    lost = {v for v, distance in found.items() if np.isnan(distance)}
    return [float("inf") if v in lost else found.get(v, float("nan")) for v in labels]


def _counts(value: int, fixed: Labels, moving: Labels) -> bool:
    return bool((fixed == value).any() and (moving == value).any())


def score_tre(
    fixed: NDArray[np.float64],
    moving: NDArray[np.float64],
    displacement_l2r: Field,
    moving_spacing: Sequence[float],
) -> NDArray[np.float64]:
    """TRE of each keypoint, mm of the moving image.

    Args:
        fixed, moving: (n, 3) voxel indices.
        displacement_l2r: (I, J, K, 3) voxels; read by a cubic spline, 0 outside.
        moving_spacing: mm, in nibabel's order.

    Raises:
        GeometryError: the two sets differ in number.
    """
    from scipy.ndimage import map_coordinates

    if fixed.shape != moving.shape:
        raise GeometryError(f"keypoints: expected {len(fixed)} in both, got {len(moving)}")
    moved = [map_coordinates(displacement_l2r[..., c], fixed.T) for c in range(3)]
    apart = (fixed + np.stack(moved, axis=1) - moving) * np.asarray(moving_spacing)
    distance: NDArray[np.float64] = np.linalg.norm(apart, axis=1)
    return distance


def score_sdlogj(displacement_l2r: Field, mask: NDArray[np.bool_] | None) -> float:
    """SDlogJ with 3 added, 2 voxels cropped; inside the mask where there is one."""
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
