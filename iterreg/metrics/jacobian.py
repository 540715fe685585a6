"""The Jacobian of x + d(x): its determinant, its spread (SDlogJ), and the change of volume.

``d`` is the total displacement in voxels. An axis of length 1 has no part in a Jacobian. Two kinds
of determinants are used. Those of *central* differences (one-sided at the border) are written and
averaged here. Those of *simplices* decide where the map folds: see ``folding.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.kernels.simplices import moving_axes, slab_bounds
from iterreg.labels import compact_labels, label_counts
from iterreg.metrics._determinants import central_determinants
from iterreg.metrics._shared import ratio, require_shape

LOG_FLOOR = 1e-9
"""Determinants are clipped here before their logarithm is taken (Learn2Reg's value)."""


def det_jacobian(total_vox: Tensor) -> Tensor:
    """Compute the determinant of the Jacobian of x + d(x) by central differences.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.

    Returns:
        (*shape), in the dtype of the displacement.

    Raises:
        GeometryError: ``total_vox`` has another rank than its components say.

    Example:
        >>> stretched = torch.stack([0.5 * torch.arange(3.0).view(3, 1).expand(3, 3),
        ...                          torch.zeros(3, 3)])
        >>> det_jacobian(stretched)[1]
        tensor([1.5000, 1.5000, 1.5000])
    """
    (det,) = central_determinants(moving_axes(total_vox), [None])
    return det.reshape(total_vox.shape[1:])


def det_jacobian_within(total_vox: Tensor, labels: Tensor) -> Tensor:
    """Compute the determinant of the Jacobian from differences inside each region.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.
        labels: (*shape) integer labels of the fixed image.

    Returns:
        (*shape). A voxel without a neighbour of its label along an axis takes any.

    Raises:
        GeometryError: the shapes disagree.

    Example:
        >>> labels = torch.tensor([[1, 1, 2, 2]]).expand(3, 4)
        >>> slid = torch.stack([torch.zeros(3, 4), 5.0 * (labels == 2)])
        >>> det_jacobian_within(slid, labels)[1], det_jacobian(slid)[1]
        (tensor([1., 1., 1., 1.]), tensor([1.0000, 3.5000, 3.5000, 1.0000]))
    """
    return both_determinants(total_vox, labels, "det_jacobian_within")[1]


def both_determinants(total_vox: Tensor, labels: Tensor, function: str) -> tuple[Tensor, Tensor]:
    """:func:`det_jacobian` and :func:`det_jacobian_within`, from one walk through the field.

    Args:
        total_vox, labels: as theirs.
        function: that is named if the shapes disagree.
    """
    require_shape(function, "labels", labels, total_vox.shape[1:])
    field = moving_axes(total_vox)
    both = central_determinants(field, [None, labels.reshape(field.shape[1:])])
    whole, within = (det.reshape(labels.shape) for det in both)
    return whole, within


def sdlogj(total_vox: Tensor, mask: Tensor | None = None) -> float:
    """Compute the standard deviation of log det J, with det J clipped at 1e-9 from below.

    This is not Learn2Reg's number of that name; see :func:`sdlogj_l2r`.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.
        mask: (*shape) bool, the voxels to use (such as :func:`interior_mask`); None uses all.

    Returns:
        The population standard deviation; NaN if no voxel is used.

    Example:
        >>> sdlogj(torch.zeros(2, 4, 5))
        0.0
    """
    return spread_of_logs(det_jacobian(total_vox), mask)


def spread_of_logs(det: Tensor, mask: Tensor | None = None) -> float:
    """:func:`sdlogj` from determinants that are there already, slab by slab.

    Args:
        det: (*shape), from :func:`det_jacobian`.
        mask: as in :func:`sdlogj`.
    """
    count, about, sums = 0, None, det.new_zeros(2, dtype=torch.float64)
    for start, stop in slab_bounds(det.unsqueeze(0)):
        part = det[start:stop] if mask is None else det[start:stop][mask[start:stop]]
        if part.numel() == 0:
            continue
        logs = part.to(torch.float64, copy=True).clamp_(min=LOG_FLOOR).log_().flatten()
        about = logs[0].clone() if about is None else about
        logs.sub_(about)
        count += len(logs)
        sums += torch.stack((logs.sum(), logs.dot(logs)))
    if count == 0:
        return float("nan")
    mean, square = (sums / count).tolist()
    return math.sqrt(max(0.0, square - mean**2))


def sdlogj_l2r(
    displacement_l2r: NDArray[np.floating] | Tensor, mask: NDArray[np.bool_] | Tensor | None = None
) -> float:
    """Compute SDlogJ as the Learn2Reg evaluator does: the std of log(clip(det J + 3, 1e-9, 1e9)).

    It takes central differences and crops two voxels at each side. The 3 that it adds makes folds
    hardly visible and all values small. Papers report this number; compare it with nothing else.

    Args:
        displacement_l2r: (I, J, K, 3), moving index minus fixed index; (I, J, 2) in 2-D.
        mask: (I, J, K) bool, the fixed voxels to use; None uses all.

    Returns:
        The population standard deviation; NaN if an axis has fewer than five voxels.

    Example:
        >>> sdlogj_l2r(np.zeros((6, 6, 6, 3)))
        0.0
    """
    field = torch.as_tensor(displacement_l2r).movedim(-1, 0)
    used = None if mask is None else torch.as_tensor(mask, dtype=torch.bool)
    return sdlogj_l2r_of(field, used)


def sdlogj_l2r_of(field: Tensor, mask: Tensor | None = None) -> float:
    """:func:`sdlogj_l2r` of a field with its components first.

    Args:
        field: (rank, *shape), moving index minus fixed index. Axes and components have one order,
            whichever: a determinant does not depend on it.
        mask: (*shape) bool.
    """
    if min(field.shape[1:]) < 5:
        return float("nan")
    inner = (slice(2, -2),) * (field.ndim - 1)
    det = central_determinants(field, [None], torch.float64)[0][inner]
    used = None if mask is None else mask[inner]
    return spread_of_logs(det.add_(3).clamp_(max=1 / LOG_FLOOR), used)


def volume_change(
    total_vox: Tensor, labels: Tensor, values: Iterable[int] | None = None
) -> dict[int, float]:
    """Compute the volume of each mapped region over its volume in the fixed image.

    This is the mean of det J over the region. Differences are taken inside the region if a voxel
    has a neighbour there, so a jump at a sliding interface does not count as a change of volume.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.
        labels: (*shape) integer labels of the fixed image.
        values: the labels to measure; None takes those that occur, without background.

    Returns:
        The ratio for each label (1 if nothing changes); NaN if the label is empty.

    Raises:
        GeometryError: the shapes disagree.

    Example:
        >>> volume_change(torch.zeros(2, 4, 5), torch.full((4, 5), 7))
        {7: 1.0}
    """
    require_shape("volume_change", "labels", labels, total_vox.shape[1:])
    found = [v for v in label_counts(labels) if v != 0] if values is None else values
    return mean_by_label(det_jacobian_within(total_vox, labels), labels, found)


def mean_by_label(det: Tensor, labels: Tensor, values: Iterable[int]) -> dict[int, float]:
    """:func:`volume_change` from determinants that are there already.

    Args:
        det: (*shape), from :func:`det_jacobian_within`.
        labels, values: as in :func:`volume_change`.
    """
    wanted = sorted(set(values))
    index = compact_labels(labels, wanted).flatten().cpu()
    # On the CPU, because a weighted count on a GPU adds in no fixed order.
    total = torch.bincount(index, det.flatten().cpu().double(), minlength=len(wanted) + 1)
    count = torch.bincount(index, minlength=len(wanted) + 1)
    return {v: ratio(float(total[k]), int(count[k])) for k, v in enumerate(wanted, start=1)}
