"""What tells how large the error at a voxel is, from the images and the two registrations.

Every feature is a pure number: lengths are in units of the finest level's voxels, intensities in
those of the images' own structure. So the same few coefficients serve images of any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.displacement import resample_transform, total_displacement_vox, warp_image
from iterreg.expected_error.way_back import WayBack, inconsistency_mm, unit_mm
from iterreg.features import normalise_intensities
from iterreg.geometry import Grid
from iterreg.image import Image
from iterreg.metrics import local_correlation
from iterreg.neighbourhood import box_mean
from iterreg.optimize.side import Side
from iterreg.regions.field_of_view import field_of_view
from iterreg.regions.hounsfield import clip_limits, hounsfield_offset
from iterreg.registration import Registration

NAMES = ("localisation", "inconsistency", "mismatch", "strain", "unseen")
"""The features, in the order of the coefficients."""

NEAR_UNITS, WIDE_UNITS = 1.5, 5.0
"""Half-widths of the windows."""

NOISE = 0.01
"""Intensities are uncertain by this share of their range at least."""

LEAST = 0.05
"""Added to lengths in units before the logarithm."""

LIMITS = (-3.0, 3.0)
"""Features that are logarithms are kept within these."""


@dataclass(frozen=True)
class Features:
    """The features of a registration.

    Args:
        values: (features, *shape), in the order of :data:`NAMES`.
        grid: the finest level's.
        unit_mm: the length in which features are measured.
    """

    values: Tensor
    grid: Grid
    unit_mm: float

    @property
    def error_unit_mm(self) -> float:
        """The length in which errors are measured: in a picture they have fewer components."""
        axes = sum(n > 1 for n in self.grid.shape_zyx)
        return self.unit_mm * math.sqrt(axes / 3)


def features_of(registration: Registration, back: WayBack, fixed: Image, moving: Image) -> Features:
    """Compute the features on the finest level's grid.

    Args:
        registration: of the pair.
        back: the second registration.
        fixed, moving: the pair.
    """
    unit = unit_mm(registration)
    level_mm = registration.config.levels.spacing_mm[-1] * registration.length_scale
    ours, theirs = (_side(image, registration).at(level_mm) for image in (fixed, moving))
    grid = ours.grid
    there = resample_transform(registration.transform, grid)
    warped = warp_image(Image(_of_rank(theirs.image, grid.rank), theirs.grid), there, 0.0)
    image, pulled = ours.image[0], _volume(warped.data, grid.rank)[0]
    lost, seen = inconsistency_mm(registration, back, grid, moving)
    lost, seen = _volume(lost, grid.rank) / unit, _volume(seen, grid.rank) & ours.fov
    near, wide = (_radius(ours, k * unit) for k in (NEAR_UNITS, WIDE_UNITS))
    correlation, unexplained = _agreement(image, pulled, near)
    weights = seen.float()
    values = torch.stack(
        [
            _log(_localisation(image, unexplained, ours, near) / unit),
            _log(_mean_of(lost, weights, wide)),
            1 - _mean_of(correlation, weights, wide),
            _log(_strain(total_displacement_vox(there), ours)),
            1 - box_mean(weights, wide, "repeat"),
        ]
    )
    return Features(_of_rank(values, grid.rank), grid, unit)


def _side(image: Image, registration: Registration) -> Side:
    config = registration.config
    offset = hounsfield_offset(image) if config.hounsfield else 0.0
    scaled = normalise_intensities(image.data, clip_limits(config, offset))
    grey = _volume(scaled.mean(0, keepdim=True), image.grid.rank)
    view = _volume(field_of_view(image).mask, image.grid.rank)
    return Side(grey, torch.zeros(view.shape, dtype=torch.int32), view, image.grid)


def _volume(data: Tensor, rank: int) -> Tensor:
    """(..., Z, Y, X): a picture becomes a volume of one slice."""
    return data.unsqueeze(-3) if rank == 2 else data


def _of_rank(data: Tensor, rank: int) -> Tensor:
    return data.squeeze(-3) if rank == 2 else data


def _radius(side: Side, radius_mm: float) -> tuple[int, ...]:
    """Half-width of a window in voxels; 1 at least along an axis that has room for it."""
    return tuple(
        min(max(1, round(radius_mm / s)), (n - 1) // 2)
        for n, s in zip(side.shape, side.spacing_mm, strict=True)
    )


def _log(values: Tensor) -> Tensor:
    return (values + LEAST).log().clamp(*LIMITS)


def _mean_of(values: Tensor, weights: Tensor, radius: tuple[int, ...]) -> Tensor:
    """Mean over a window of the voxels that are seen."""
    share = box_mean(weights, radius, "zero")
    return box_mean(values * weights, radius, "zero") / share.clamp(min=1e-3)


def _agreement(image: Tensor, pulled: Tensor, radius: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Squared local correlation, 0 to 1, and the fixed image's variance that it leaves over."""
    correlation, variance = local_correlation(
        image.double(), pulled.double(), lambda volume: box_mean(volume, radius, "repeat")
    )
    return correlation.float(), (variance * (1 - correlation) + NOISE**2).float()


def _localisation(
    image: Tensor, unexplained: Tensor, side: Side, radius: tuple[int, ...]
) -> Tensor:
    """The standard error of a displacement that this window alone would determine, mm.

    Source:
        The Cramer-Rao bound sigma^2 (sum of grad grad^T)^-1, with the variance that the other
        image leaves over as sigma^2.
    """
    axes = [axis for axis, n in enumerate(image.shape) if n > 1]
    slopes = [torch.gradient(image, spacing=side.spacing_mm[a], dim=a)[0].double() for a in axes]
    floor = (NOISE / 100) ** 2 / side.least_spacing_mm**2
    tensor = [
        [box_mean(one * two, radius, "repeat") + (floor if one is two else 0.0) for two in slopes]
        for one in slopes
    ]
    count = math.prod(2 * r + 1 for r in radius)
    variance = _trace_of_inverse(tensor).clamp(min=0) * unexplained / count
    return variance.sqrt().float()


def _trace_of_inverse(matrix: list[list[Tensor]]) -> Tensor:
    """Trace of the inverse of a symmetric positive matrix per voxel, of 1 to 3 rows.

    Example:
        >>> matrix = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]])
        >>> rows = [list(row) for row in matrix]
        >>> torch.allclose(_trace_of_inverse(rows), matrix.inverse().trace())
        True
    """
    if len(matrix) == 1:
        return 1 / matrix[0][0]
    if len(matrix) == 2:
        (a, b), (_, d) = matrix
        return (a + d) / (a * d - b * b)
    (a, b, c), (_, d, e), (_, _, f) = matrix
    minors = d * f - e * e, a * f - c * c, a * d - b * b
    determinant = a * minors[0] - b * (b * f - c * e) + c * (b * e - c * d)
    return (minors[0] + minors[1] + minors[2]) / determinant


def _strain(total_vox: Tensor, side: Side) -> Tensor:
    """Length of the displacement's gradient, a pure number."""
    total = _volume(total_vox, side.grid.rank)
    spacing = side.spacing_mm[-len(total) :]
    square = torch.zeros(side.shape)
    for axis, n in enumerate(side.shape):
        if n > 1:
            for component, s in zip(total, spacing, strict=True):
                slope = torch.gradient(component.reshape(side.shape), dim=axis)[0] * (
                    s / side.spacing_mm[axis]
                )
                square += slope.square()
    return square.sqrt()
