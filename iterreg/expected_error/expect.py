"""``expected_error_mm``: the bounds on the fixed grid."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from iterreg.displacement import ROWS_PER_SLAB, moving_index
from iterreg.evaluation import on_cpu
from iterreg.expected_error.features import features_of
from iterreg.expected_error.model import bounds_mm
from iterreg.expected_error.way_back import register_back
from iterreg.geometry import apply_linear
from iterreg.image import Image
from iterreg.io import as_image
from iterreg.regions.field_of_view import field_of_view
from iterreg.registration import Registration
from iterreg.sampling import sample, sample_nearest

if TYPE_CHECKING:
    from iterreg.inputs import ImageLike

UNKNOWN_MM = -1.0
"""Stands for the error of a point that one of the images does not show."""


def expected_error_mm(
    registration: Registration, fixed: ImageLike | None = None, moving: ImageLike | None = None
) -> Image:
    """Estimate the error of a registration at every voxel.

    It registers the moving image back to the fixed one, which takes about as long as the
    registration itself did. Label maps take part in that; landmarks, masks, ROI pairs and an
    initial transform do not.

    Args:
        registration: of the pair.
        fixed, moving: the pair it was made from; None takes those that it holds.

    Returns:
        Two channels on the fixed grid, mm: half of the errors lie below the first, nine in ten
        below the second, over points such as landmarks and boundaries. -1 where one of the images
        does not show the point: ITK reads NaN from a file as 0.

    Raises:
        IterregError: as :func:`iterreg.optimize_pair`.

    Example:
        >>> import iterreg, numpy
        >>> from scipy.ndimage import gaussian_filter
        >>> texture = gaussian_filter(numpy.random.default_rng(0).random((20, 20, 20)), 1.5)
        >>> texture -= texture.mean()
        >>> texture[:, :, 10:] *= 0.02
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = iterreg.Grid((20, 20, 20), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> image = iterreg.Image(torch.from_numpy(texture).float().unsqueeze(0), grid)
        >>> result = iterreg.optimize_pair(image, image, preset="general")
        >>> median, upper = iterreg.expected_error_mm(result).data
        >>> bool((median <= upper).all())
        True
        >>> bool(upper[8:12, 8:12, 15:18].mean() > 2 * upper[8:12, 8:12, 3:6].mean())
        True
    """
    if not isinstance(registration, Registration):
        raise TypeError(
            f"registration: expected an iterreg.Registration, got {type(registration).__name__}"
        )
    fixed = as_image(registration.fixed if fixed is None else fixed, "fixed")
    moving = as_image(registration.moving if moving is None else moving, "moving")
    registration = replace(registration, transform=on_cpu(registration.transform))
    back = register_back(registration, fixed, moving)
    features = features_of(registration, back, fixed, moving)
    coarse, grid = bounds_mm(features), fixed.grid
    data = torch.empty(len(coarse), *grid.shape_zyx)
    to_coarse = features.grid.lps_to_index @ grid.index_to_lps
    shift = torch.from_numpy(to_coarse[: grid.rank, grid.rank]).view(-1, *[1] * grid.rank)
    for first in range(0, grid.shape_zyx[0], ROWS_PER_SLAB):
        rows = slice(first, min(first + ROWS_PER_SLAB, grid.shape_zyx[0]))
        axes = [torch.arange(n, dtype=torch.float64) for n in grid.shape_zyx]
        axes[0] = axes[0][rows]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        there = torch.from_numpy(apply_linear(to_coarse, index.numpy())) + shift
        data[:, rows] = sample(coarse, there.float())
    landed = moving_index(registration.transform, moving.grid)
    seen = field_of_view(fixed).mask & sample_nearest(field_of_view(moving).mask, landed)
    data[:, ~seen] = UNKNOWN_MM
    return Image(data, grid, name="expected error")
