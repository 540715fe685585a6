"""The way back: a second registration, of moving to a fixed image that was stirred a little.

A method may be consistent for a poor reason: where it sees nothing it moves nothing, in either
direction. So the fixed image is displaced by a known amount first. What the second registration
misses of that and of the first one is its inconsistency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from iterreg.displacement import (
    DisplacementField,
    Transform,
    moving_index,
    resample_transform,
    warp_image,
    warp_labels,
)
from iterreg.evaluation import on_cpu
from iterreg.geometry import Grid, fixed_to_moving_index
from iterreg.image import Image, LabelMap
from iterreg.pair import optimize_pair
from iterreg.regions.field_of_view import field_of_view
from iterreg.registration import Registration
from iterreg.sampling import sample, sample_nearest

STIR_UNITS = 1.5
"""Length of the known displacement, in units (see :func:`unit_mm`)."""

WAVE_UNITS = 40.0
"""The direction of the known displacement turns once over this length."""


def unit_mm(registration: Registration) -> float:
    """The length in which errors are measured: the side of a voxel of the finest level."""
    grid = registration.transform.grid
    finest = registration.history[-1].spacing_zyx_mm[-grid.rank :]
    sides = [
        max(s, f)
        for n, s, f in zip(grid.shape_zyx, grid.spacing_zyx_mm, finest, strict=True)
        if n > 1
    ]
    return math.exp(sum(math.log(side) for side in sides) / len(sides))


@dataclass(frozen=True)
class WayBack:
    """The second registration.

    Args:
        transform: from the moving image to the stirred fixed one.
        stirred: the known map, from the stirred fixed image to the fixed one.
    """

    transform: Transform
    stirred: Transform


def register_back(registration: Registration, fixed: Image, moving: Image) -> WayBack:
    """Register the moving image to the stirred fixed one, as the pair was registered.

    Args:
        registration: of the pair.
        fixed, moving: the pair.

    Raises:
        IterregError: as :func:`iterreg.optimize_pair`.
    """
    stirred = stir(fixed.grid, unit_mm(registration))
    labels: tuple[LabelMap, LabelMap] | None = None
    if registration.fixed_labels.values:
        labels = (registration.moving_labels, warp_labels(registration.fixed_labels, stirred))
    pulled = warp_image(fixed, stirred, float(fixed.data.min()))
    config = registration.config
    back = optimize_pair(
        moving,
        replace(pulled, name=fixed.name),
        fixed_labels=None if labels is None else labels[0],
        moving_labels=None if labels is None else labels[1],
        preset=replace(
            config,
            segmenter="none",
            fixed_scanner=config.moving_scanner,
            moving_scanner=config.fixed_scanner,
        ),
        device=registration.device,
        seed=registration.seed,
        threads=registration.threads,
    )
    return WayBack(on_cpu(back.transform), stirred)


def stir(grid: Grid, unit: float) -> Transform:
    """A displacement of the same length everywhere, whose direction turns slowly.

    Args:
        grid: of the image.
        unit: mm.
    """
    places_mm = [
        torch.arange(float(n)).view(-1, *[1] * (grid.rank - 1 - axis)) * s
        for axis, (n, s) in enumerate(zip(grid.shape_zyx, grid.spacing_zyx_mm, strict=True))
    ]
    turn = 2 * math.pi / (WAVE_UNITS * unit)
    across = along = torch.zeros(grid.shape_zyx)
    for axis, place_mm in enumerate(reversed(places_mm)):
        across = across + place_mm * (1.0, 0.8, 0.6)[axis]
        along = along + place_mm * (0.7, -0.5, 1.0)[axis]
    angle, height = across * turn, along * (0.6 * turn)
    ways = [torch.cos(angle), torch.sin(angle)]
    if grid.rank == 3:
        ways = [torch.cos(height), *(torch.sin(height) * way for way in ways)]
    vox = torch.zeros(grid.rank, *grid.shape_zyx)
    for axis, (n, s) in enumerate(zip(grid.shape_zyx, grid.spacing_zyx_mm, strict=True)):
        if n > 1:
            vox[axis] = ways[axis] * (STIR_UNITS * unit / s)
    return Transform(np.eye(grid.rank + 1), DisplacementField(vox, grid))


def inconsistency_mm(
    registration: Registration, back: WayBack, grid: Grid, moving: Image
) -> tuple[Tensor, Tensor]:
    """How far a fixed point is from where it began, after the way there and back.

    Args:
        registration: of the pair.
        back: the second registration.
        grid: where it is wanted; a coarser grid of the fixed image.
        moving: the moving image.

    Returns:
        (*shape) mm on ``grid``, and (*shape) bool, whether the moving image shows the point.
    """
    there = moving_index(resample_transform(registration.transform, grid), moving.grid)
    seen = sample_nearest(field_of_view(moving).mask, there)
    stirred = _mapped(back.transform, there, back.stirred.grid)
    landed = _mapped(back.stirred, stirred, grid)
    apart = landed - _indices(grid)
    spacing = apart.new_tensor(grid.spacing_zyx_mm).view(-1, *[1] * grid.rank)
    return (apart * spacing).norm(dim=0), seen


def _mapped(transform: Transform, index: Tensor, onto: Grid) -> Tensor:
    """Indices of the transform's grid, mapped to indices of another grid."""
    u = sample(transform.field.vox, index)
    matrix = fixed_to_moving_index(transform.grid, transform.affine_lps, onto)
    rank = transform.grid.rank
    linear = index.new_tensor(matrix[:rank, :rank].tolist())
    shift = index.new_tensor(matrix[:rank, rank].tolist()).view(-1, *[1] * rank)
    return torch.einsum("ij,j...->i...", linear, index + u) + shift


def _indices(grid: Grid) -> Tensor:
    axes = [torch.arange(float(n)) for n in grid.shape_zyx]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))
