"""Known motions: velocities on an image's grid, and the maps to which they flow.

A map is the flow of a velocity over one unit of time, so it has an inverse and does not fold,
however large the motion is. No velocity crosses a face of the grid: every point stays inside the
image, and the truth is visible everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iterreg.arguments import seed_of
from iterreg.displacement import ROWS_PER_SLAB
from iterreg.geometry import Grid, Matrix, apply_affine, apply_linear
from iterreg.sampling import sample

DIAPHRAGM = 0.3
"""Height of the largest motion above the lower end, as a share of the image."""

FORWARD = 0.3
"""Motion to the front, as a share of the motion along the body."""

WOBBLE = 0.25
"""Random part of the motion, as a share of the whole."""

WAVES = 4
EDGE = 0.15
"""Share of an axis, at either end, over which the motion fades."""

FEW_SLICES = 3
"""An axis with no more voxels than this has no motion along it."""

STEP_VOX = 1.0
"""A step of the flow is no longer than this."""


def breathing(grid: Grid, amplitude_mm: float, seed: int) -> Tensor:
    """Make a velocity as of breathing: along the body, largest in its lower half.

    In a volume the body's axis is the patient's, from the feet to the head; in a picture it is y,
    the lower end being that of large y.

    Args:
        grid: of the image.
        amplitude_mm: the longest velocity.
        seed: of the random part.

    Returns:
        (rank, *shape) float32, components in array order, voxels per unit of time.
    """
    places = _places_lps(grid)
    extent = np.ptp(grid.corners_lps_mm, axis=0).clip(min=1e-6)
    unit = (places - grid.corners_lps_mm.min(0).reshape(-1, *[1] * grid.rank)) / extent.reshape(
        -1, *[1] * grid.rank
    )
    height = unit[-1] if grid.rank == 3 else 1 - unit[-1]
    across = ((2 * unit[:-1] - 1) ** 2).sum(0)
    strength = _by_height(height) * (1 - 0.5 * np.minimum(across, 1))
    velocity_mm = np.zeros_like(places)
    velocity_mm[-1] = -strength if grid.rank == 3 else strength
    velocity_mm[-2] = -FORWARD * strength
    velocity_mm += WOBBLE * _waves(unit, seed)
    vox = apply_linear(grid.lps_to_index, velocity_mm)
    for axis, n in enumerate(grid.shape_zyx):
        vox[axis] *= _window(n).reshape(-1, *[1] * (grid.rank - 1 - axis))
    longest_mm = _longest_mm(vox, grid)
    return torch.from_numpy(vox * (amplitude_mm / max(longest_mm, 1e-12))).float()


@dataclass(frozen=True)
class Sliding:
    """How a region slides along its border.

    Args:
        border_mm: (*shape), distance to the border, negative inside the region.
        velocity: (rank, *shape), voxels per unit of time, inside the region; outside it is the
            opposite. It follows the surfaces of equal distance, so the border stays where it is.
    """

    border_mm: Tensor
    velocity: Tensor


def sliding(region: Tensor, grid: Grid, slide_mm: float) -> Sliding:
    """Make the velocity with which a region slides along what surrounds it.

    Args:
        region: (*shape) bool.
        grid: of the image.
        slide_mm: the jump at the border where it runs along the body; half of it on either side.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    spacing = np.array(grid.spacing_zyx_mm)
    mask = region.numpy()
    border = distance_transform_edt(~mask, spacing) - distance_transform_edt(mask, spacing)
    border = gaussian_filter(border, 2 * spacing.min() / spacing, mode="nearest")
    normal = np.stack(
        [
            np.gradient(border, s, axis=axis) if n > 1 else np.zeros_like(border)
            for axis, (n, s) in enumerate(zip(border.shape, spacing, strict=True))
        ]
    )
    # The body's axis in array order, mm; projecting it with the normal's own length makes the
    # velocity smooth where the normal turns over, in the middle of the region.
    along = np.asarray(grid.direction_lps)[-1, ::-1] * (1 if grid.rank == 2 else -1)
    moving = [n > FEW_SLICES for n in grid.shape_zyx]
    along = (along * moving).reshape(-1, *[1] * grid.rank)
    normal *= np.reshape(moving, along.shape)
    tangential = (normal**2).sum(0) * along - (normal * along).sum(0) * normal
    extent_mm = float(np.ptp(grid.corners_lps_mm, axis=0).max())
    reach_mm = max(2 * slide_mm, 0.15 * extent_mm)
    strength = slide_mm / 2 * np.exp(-0.5 * (border / reach_mm) ** 2)
    for axis, n in enumerate(grid.shape_zyx):
        if moving[axis]:
            strength = strength * _window(n).reshape(-1, *[1] * (grid.rank - 1 - axis))
    vox = tangential * strength / spacing.reshape(along.shape)
    return Sliding(torch.from_numpy(border).float(), torch.from_numpy(vox).float())


def flow(velocity: Tensor, index: Tensor) -> Tensor:
    """Move points with a velocity for one unit of time, by steps of the midpoint rule.

    Args:
        velocity: (rank, *shape), voxels per unit of time.
        index: (rank, ...) voxel indices.

    Returns:
        (rank, ...) voxel indices.

    Example:
        >>> velocity = torch.stack([torch.full((8, 8), 2.0), torch.zeros(8, 8)])
        >>> flow(velocity, torch.tensor([[1.0, 3.5], [4.0, 4.0]])).tolist()
        [[3.0, 5.5], [4.0, 4.0]]
    """
    steps = max(1, math.ceil(float(velocity.abs().max()) / STEP_VOX))
    for _ in range(steps):
        middle = index + sample(velocity, index) / (2 * steps)
        index = index + sample(velocity, middle) / steps
    return index


def known_map(grid: Grid, moved: Tensor, slide: Sliding | None) -> tuple[Tensor, Tensor]:
    """Where each voxel goes, and which voxels lie inside the sliding region.

    The smooth motion comes first. Then each side of the border slides along it, so both sides
    meet the border in the same points: no gap opens, and nothing overlaps.

    Args:
        grid: of the image.
        moved: the smooth velocity, (rank, *shape).
        slide: the sliding; None for none.

    Returns:
        (rank, *shape) float32 voxel indices, and (*shape) bool.
    """
    landed = torch.empty(grid.rank, *grid.shape_zyx)
    inside = torch.zeros(grid.shape_zyx, dtype=torch.bool)
    for first in range(0, grid.shape_zyx[0], ROWS_PER_SLAB):
        rows = slice(first, min(first + ROWS_PER_SLAB, grid.shape_zyx[0]))
        axes = [torch.arange(float(n)) for n in grid.shape_zyx]
        axes[0] = axes[0][rows]
        index = flow(moved, torch.stack(torch.meshgrid(*axes, indexing="ij")))
        if slide is not None:
            inside[rows] = sample(slide.border_mm.unsqueeze(0), index)[0] < 0
            ways = flow(slide.velocity, index), flow(-slide.velocity, index)
            index = torch.where(inside[rows], *ways)
        landed[:, rows] = index
    return landed, inside


def _places_lps(grid: Grid) -> Matrix:
    """(rank, *shape), LPS mm, components x first."""
    index = np.moveaxis(np.indices(grid.shape_zyx, np.float64), 0, -1)
    return np.moveaxis(apply_affine(grid.index_to_lps, index), -1, 0)


def _by_height(height: Matrix) -> Matrix:
    """1 at the diaphragm, falling to 0 at the lower end and slowly to 0 at the upper one."""
    above = np.clip((height - DIAPHRAGM) / (1 - DIAPHRAGM), 0, 1)
    below = np.clip((DIAPHRAGM - height) / DIAPHRAGM, 0, 1)
    return 0.5 * (1 + np.cos(np.pi * (above + below)))


def _waves(unit: Matrix, seed: int) -> Matrix:
    """Smooth random vectors, none longer than about 1; a wave is at least half the image long."""
    random = np.random.default_rng(seed_of(seed))
    found = np.zeros_like(unit)
    for _ in range(WAVES):
        number = random.uniform(-2, 2, len(unit))
        way = random.normal(size=len(unit))
        phase = np.tensordot(2 * np.pi * number / np.sqrt(len(unit)), unit, 1)
        wave = np.sin(phase + random.uniform(0, 2 * np.pi)) / WAVES
        found += (way / np.linalg.norm(way)).reshape(-1, *[1] * (unit.ndim - 1)) * wave
    return found


def _window(n: int) -> Matrix:
    """0 at both ends of an axis of n voxels, 1 in the middle, smooth."""
    if n <= FEW_SLICES:
        return np.zeros(n)
    end = np.minimum(np.arange(n), np.arange(n)[::-1]) / (EDGE * (n - 1))
    t = np.minimum(end, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float64)


def _longest_mm(vox: Matrix, grid: Grid) -> float:
    spacing = np.array(grid.spacing_zyx_mm).reshape(-1, *[1] * grid.rank)
    return float(np.sqrt(((vox * spacing) ** 2).sum(0)).max())
