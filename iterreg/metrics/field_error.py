"""Error of a transform where the true one is known, as in a phantom."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.displacement import Transform, moving_index, resample_transform
from iterreg.errors import GeometryError
from iterreg.labels import label_counts
from iterreg.metrics._shared import require_shape
from iterreg.metrics.landmarks import TreSummary, summarize_tre


@dataclass(frozen=True)
class FieldError:
    """How far a transform brings each point from where the known one does.

    Args:
        overall: over all voxels that count.
        by_label: the same inside each label, background left out; empty without a label map.
    """

    overall: TreSummary
    by_label: dict[int, TreSummary]


def field_error_mm(transform: Transform, known: Transform) -> Tensor:
    """Compute the distance between the points to which two transforms bring a fixed voxel.

    Args:
        transform: the one to judge. On another grid than ``known`` it is interpolated.
        known: the true one, on the grid where the error is wanted.

    Returns:
        (*shape) float32, mm, on the grid of ``known``.

    Raises:
        TransformError: the ranks differ.

    Example:
        >>> import numpy as np
        >>> from iterreg import DisplacementField, Grid
        >>> grid = Grid((2, 3), (1.0, 3.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> still = Transform(np.eye(3), DisplacementField.zero(grid))
        >>> moved = np.array([[1.0, 0.0, 3.0], [0.0, 1.0, 4.0], [0.0, 0.0, 1.0]])
        >>> field_error_mm(Transform(moved, DisplacementField.zero(grid)), still)[0].tolist()
        [5.0, 5.0, 5.0]
    """
    grid = known.grid
    ours = resample_transform(transform, grid)
    apart = moving_index(ours, grid).cpu() - moving_index(known, grid).cpu()
    linear = apart.new_tensor(grid.index_to_lps[: grid.rank, : grid.rank].tolist())
    distance_mm: Tensor = torch.einsum("ij,j...->i...", linear, apart).norm(dim=0)
    return distance_mm


def field_error(
    error_mm: Tensor, labels: Tensor | None = None, mask: Tensor | None = None
) -> FieldError:
    """Summarise the error of a field, overall and label by label.

    Args:
        error_mm: (*shape), from :func:`field_error_mm`.
        labels: (*shape) integers.
        mask: (*shape) bool, the voxels that count; None counts all.

    Raises:
        GeometryError: shapes differ, or no voxel counts.

    Example:
        >>> found = field_error(torch.tensor([0.0, 1.0, 5.0]), labels=torch.tensor([0, 2, 2]))
        >>> found.overall.mean_mm, found.by_label[2].mean_mm
        (2.0, 3.0)
    """
    counts = torch.ones_like(error_mm, dtype=torch.bool) if mask is None else mask.cpu()
    require_shape("field_error", "mask", counts, error_mm.shape)
    if not bool(counts.any()):
        raise GeometryError("field_error: mask: expected at least one voxel that counts, got none")
    by_label = {}
    if labels is not None:
        labels = labels.cpu()
        require_shape("field_error", "labels", labels, error_mm.shape)
        for value in label_counts(labels[counts]):
            if value != 0:
                inside = counts & (labels == value)
                by_label[value] = summarize_tre(error_mm[inside].double().numpy())
    return FieldError(summarize_tre(error_mm[counts].double().numpy()), by_label)
