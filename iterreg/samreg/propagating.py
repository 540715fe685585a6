"""Carry labels from one image to the other by ROI pairs alone, without a displacement field.

Each fixed ROI is mapped onto its moving partner by matching centroids and, along each axis, the
standard deviations. Its voxels take the labels found there. If ROIs overlap, the smallest wins;
voxels outside all ROIs get 0.

Source: SAMReg (arXiv 2410.14083), section 3.1.5: correspondence without a dense field.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.errors import NoRoiPairsError
from iterreg.geometry import Matrix, apply_affine
from iterreg.image import LabelMap, Mask, RoiPair, require_same_space
from iterreg.io import as_label_map
from iterreg.samreg.roi_files import read_roi_pairs

if TYPE_CHECKING:
    from iterreg.image.kinds import LabelsLike

Floats = NDArray[np.float64]


def propagate_labels(labels: LabelsLike, roi_pairs: str | Path | Sequence[RoiPair]) -> LabelMap:
    """Carry labels of the moving image to the fixed image through ROI pairs, without a field.

    Args:
        labels: of the moving image, on its grid; any kind of image, or its path.
        roi_pairs: at least one, from :func:`iterreg.match_rois`, or the file ``roi_pairs.json``.

    Returns:
        A label map on the fixed grid, with the same names; 0 outside every ROI.

    Raises:
        NoRoiPairsError: there are no pairs.
        ImageReadError: a file cannot be read.
        GeometryError: the labels are on another grid than the moving image.

    Source:
        SAMReg (arXiv 2410.14083), section 3.1.5.

    Example:
        >>> from iterreg.geometry import Grid
        >>> def strip(values):
        ...     grid = Grid((1, 6), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        ...     return LabelMap(torch.tensor([values], dtype=torch.int32), grid)
        >>> pair = RoiPair(strip([1, 1, 1, 0, 0, 0]), strip([0, 0, 1, 1, 1, 0]), 0.9)
        >>> propagate_labels(strip([9, 9, 5, 5, 7, 9]), [pair]).data.tolist()
        [[5, 5, 7, 0, 0, 0]]
    """
    given = as_label_map(labels, "labels")
    pairs = read_roi_pairs(roi_pairs) if isinstance(roi_pairs, str | Path) else list(roi_pairs)
    if not pairs:
        whose = roi_pairs if isinstance(roi_pairs, str | Path) else "roi_pairs"
        raise NoRoiPairsError(f"{whose}: expected at least one ROI pair, got none")
    require_same_space(given, pairs[0].moving)
    grid = pairs[0].fixed.grid
    result = np.zeros(grid.shape_zyx, np.int32)
    source = given.data.cpu().numpy()
    by_size = sorted(pairs, key=lambda pair: -int(pair.fixed.data.sum()))
    for pair in by_size:
        here = _indices(pair.fixed)
        fixed_lps = apply_affine(grid.index_to_lps, here.astype(float))
        moving_lps = apply_affine(given.grid.index_to_lps, _indices(pair.moving).astype(float))
        landed = apply_affine(_between(fixed_lps, moving_lps), fixed_lps)
        index = np.rint(apply_affine(given.grid.lps_to_index, landed)).astype(int)
        last = np.array(source.shape) - 1
        inside = ((index >= 0) & (index <= last)).all(1)
        taken = source[tuple(index.clip(0, last).T)] * inside
        result[tuple(here.T)] = taken
    return LabelMap(torch.from_numpy(result), grid, dict(given.names), given.name)


def _indices(mask: Mask | LabelMap) -> NDArray[np.int64]:
    return np.stack(np.nonzero(mask.data.cpu().numpy()), 1)


def _between(fixed: Floats, moving: Floats) -> Matrix:
    """Match centroids, and standard deviations along the image's axes."""
    rank = fixed.shape[1]
    spread, other = fixed.std(0), moving.std(0)
    scale = np.where(spread > 1e-6, other / np.maximum(spread, 1e-6), 1.0)
    onto = np.eye(rank + 1)
    onto[:rank, :rank] = np.diag(np.where(scale > 0, scale, 1.0))
    onto[:rank, rank] = moving.mean(0) - onto[:rank, :rank] @ fixed.mean(0)
    return onto
