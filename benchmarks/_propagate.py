"""Propagate labels from one image to the other by ROI pairs alone, without a displacement field.

Each fixed ROI is mapped onto its moving partner by matching centroids and, along each axis, the
standard deviations. Its voxels take the labels found there. If ROIs overlap, the smallest wins;
voxels outside all ROIs get 0.

Source: SAMReg (arXiv 2410.14083), section 3.1.5: correspondence without a dense field.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.errors import GeometryError
from iterreg.geometry import Matrix, apply_affine
from iterreg.image import LabelMap, Mask, RoiPair, require_same_space

Floats = NDArray[np.float64]


def propagate_labels(labels: LabelMap, pairs: Sequence[RoiPair]) -> LabelMap:
    """Propagate the moving image's labels to the fixed image.

    Args:
        labels: of the moving image.
        pairs: at least one.

    Returns:
        A label map on the fixed grid; 0 outside every ROI.

    Raises:
        GeometryError: no pairs, or labels on another grid than the moving image.
    """
    if not pairs:
        raise GeometryError(f"{labels.name}: expected at least one ROI pair to propagate by")
    require_same_space(labels, pairs[0].moving)
    grid = pairs[0].fixed.grid
    result = np.zeros(grid.shape_zyx, np.int32)
    source = labels.data.cpu().numpy()
    by_size = sorted(pairs, key=lambda pair: -int(pair.fixed.data.sum()))
    for pair in by_size:
        here = _indices(pair.fixed)
        fixed_lps = apply_affine(grid.index_to_lps, here.astype(float))
        moving_lps = apply_affine(labels.grid.index_to_lps, _indices(pair.moving).astype(float))
        landed = apply_affine(_between(fixed_lps, moving_lps), fixed_lps)
        index = np.rint(apply_affine(labels.grid.lps_to_index, landed)).astype(int)
        last = np.array(source.shape) - 1
        inside = ((index >= 0) & (index <= last)).all(1)
        taken = source[tuple(index.clip(0, last).T)] * inside
        result[tuple(here.T)] = taken
    return LabelMap(torch.from_numpy(result), grid, dict(labels.names), labels.name)


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
