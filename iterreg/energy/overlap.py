"""The mask-wise term L_m: boundaries matched from both sides, or the paper's Dice and EDT losses.

Source: SegReg, eq. 3-5. Composed Dice alone is nearly a tautology (a region may collapse onto a
corner of its partner and still score 1), so the default compares signed distances in a band
around each region's boundary, inside and outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.config import Overlap
from iterreg.energy.distance import distance_mm, signed_distance_mm
from iterreg.energy.region import Region
from iterreg.energy.terms import NormalEquations, SquaredDifference, Term
from iterreg.kernels import IndexMap, normal_equations, sample_with_slope
from iterreg.neighbourhood import Box

THICK = 2.0
"""Slices this much thicker than a voxel is wide are thick."""

DICE_SHARE, EDT_SHARE = 0.5, 50.0
"""L_m = (L_Dice + 100 L_EDT) / 2: SegReg, "Datasets and Implementation Details"."""


@dataclass(frozen=True)
class RegionPair:
    """One region in both images, at the resolution of a level.

    Args:
        fixed, moving: on the grids of their images.
        weight: of this pair.
        in_slices: whether it was found slice by slice, so that where it ends between thick slices
            it has no boundary.
    """

    fixed: Region
    moving: Region
    weight: float = 1.0
    in_slices: bool = False


@dataclass(frozen=True)
class Frame:
    """What the overlap of every pair shares.

    Args:
        fixed_spacing_mm, moving_spacing_mm: (z, y, x).
        fixed_known, moving_known: (Z, Y, X) bool, the fields of view.
        gate: (Z, Y, X) bool, fixed voxels that may be sampled.
        margin_mm: how far a boundary may move: crops keep it around the region.
    """

    fixed_spacing_mm: tuple[float, ...]
    moving_spacing_mm: tuple[float, ...]
    fixed_known: Tensor
    moving_known: Tensor
    gate: Tensor
    margin_mm: float


def overlap_terms(config: Overlap, pairs: Sequence[RegionPair], frame: Frame) -> list[Term]:
    """The overlap of all pairs at a level.

    Args:
        config: kind, weight and band.
        pairs: they may overlap each other.
        frame: the level's grids.
    """
    if config.weight == 0:
        return []
    spacings = zip(frame.fixed_spacing_mm, frame.gate.shape, strict=True)
    band = max(config.band_mm, 2 * min(s for s, n in spacings if n > 1))
    terms: list[Term] = []
    for pair in pairs:
        if config.kind == "boundary":
            terms += _boundary(config, band, pair, frame)
        if config.kind in ("dice", "dice+edt"):
            share = DICE_SHARE if config.kind == "dice+edt" else 1.0
            terms += _dice(config.weight * share, band, pair, frame)
        if config.kind in ("edt", "dice+edt"):
            share = EDT_SHARE if config.kind == "dice+edt" else 1.0
            terms += _edt(config.weight * share, pair, frame)
    return terms


UNSEEN = 0.25
"""A boundary is left out where the image does not show this share of it."""

SEEN_REACH_MM = 4.0
"""Half-width of the box over which that is counted, so that a noisy voxel does not decide."""

MEDIAN_STRIDE = 7
"""What is usual in a region is told by every seventh voxel, where one falls on it."""


def unseen_boundaries(
    image: Tensor, labels: Tensor, label_count: int, spacing_mm: Sequence[float]
) -> Tensor:
    """Voxels near boundaries that the image does not show.

    A boundary is seen between two voxels whose intensities lie on both sides of the middle between
    what is usual in their regions.

    Args:
        image: (C, Z, Y, X) intensities.
        labels: (Z, Y, X) compact labels.
        label_count: how many there are.
        spacing_mm: (z, y, x).

    Returns:
        (Z, Y, X) bool.
    """
    values = image.mean(0)
    usual = torch.stack([_usual(values, labels, v) for v in range(label_count)])
    faces, unseen = torch.zeros_like(values), torch.zeros_like(values)
    for axis in range(3):
        n = labels.shape[axis] - 1
        first, second = labels.narrow(axis, 0, n).long(), labels.narrow(axis, 1, n).long()
        middle = 0.5 * (usual[first] + usual[second])
        below = (values.narrow(axis, 0, n) < middle) == (values.narrow(axis, 1, n) < middle)
        apart = first != second
        for start in (0, 1):
            faces.narrow(axis, start, n).add_(apart)
            unseen.narrow(axis, start, n).add_(apart & below)
    hidden = _box_mean(unseen, spacing_mm)
    return (hidden > 0) & (hidden > UNSEEN * _box_mean(faces, spacing_mm))


def _usual(values: Tensor, labels: Tensor, value: int) -> Tensor:
    """The median intensity of a region, NaN where it is empty."""
    flat, marks = values.flatten(), labels.flatten()
    some = flat[::MEDIAN_STRIDE][marks[::MEDIAN_STRIDE] == value]
    return (some if len(some) else flat[marks == value]).median()


def _box_mean(volume: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    for axis, (n, spacing) in enumerate(zip(volume.shape, spacing_mm, strict=True)):
        reach = min(max(1, round(SEEN_REACH_MM / spacing)), (n - 1) // 2)
        if reach:
            size, pad = [1, 1, 1], [0, 0, 0]
            size[axis], pad[axis] = 2 * reach + 1, reach
            volume = torch.nn.functional.avg_pool3d(volume[None], size, 1, pad)[0]
    return volume


def _boundary(config: Overlap, band: float, pair: RegionPair, frame: Frame) -> list[Term]:
    """Signed distances, in units of the preset's band, wherever the fixed one is not clamped.

    What lies beyond the edge of the moving view may be the region and may be its surroundings. So
    a voxel of the fixed region finds no boundary at the edge, and a voxel around it may leave the
    view to get out of the region: a heart's base that moves out of the stack of slices takes with
    it what lay above it.
    """
    spacing_mm, moving_spacing_mm = frame.fixed_spacing_mm, frame.moving_spacing_mm
    if pair.in_slices:
        spacing_mm = _within_slices(spacing_mm, pair.fixed.shape)
        moving_spacing_mm = _within_slices(moving_spacing_mm, pair.moving.shape)
    region = pair.fixed.grown(_voxels(band, spacing_mm))
    fixed = signed_distance_mm(region.mask, frame.fixed_known[region.box], spacing_mm, band)
    near = pair.moving.grown(_voxels(band, moving_spacing_mm))
    moving = signed_distance_mm(near.mask, frame.moving_known[near.box], moving_spacing_mm, band)
    wide = near.grown(_voxels(frame.margin_mm, moving_spacing_mm))
    chosen = (fixed.abs() < band) & frame.gate[region.box]
    scale = config.weight * pair.weight / config.band_mm**2
    moving = near.spread(moving, wide.box, band)
    if not _is_cut(pair.moving, frame.moving_known, moving_spacing_mm):
        return [_sampled(fixed, moving, chosen, region.box, wide.box, scale, frame)]
    own, around = chosen & (fixed <= 0), chosen & (fixed > 0)
    open_box = _widened(pair.moving, _voxels(band, moving_spacing_mm))
    mask = pair.moving.spread(pair.moving.mask, open_box, False)
    ended = signed_distance_mm(mask, None, moving_spacing_mm, band)
    return [
        _sampled(fixed, moving, own, region.box, wide.box, scale, frame),
        _sampled(fixed, ended, around, region.box, open_box, scale, frame),
    ]


def _is_cut(region: Region, known: Tensor, spacing_mm: Sequence[float]) -> bool:
    """Whether the region may reach the edge of the view, along an axis that has spacing."""
    sides = list(zip(region.box, region.shape, spacing_mm, strict=True))
    beside = [0 if n == 1 or math.isinf(s) else 1 for _, n, s in sides]
    at_edge = any(
        step and (part.start == 0 or part.stop == n)
        for step, (part, n, _) in zip(beside, sides, strict=True)
    )
    return at_edge or not bool(known[region.grown(beside).box].all())


def _widened(region: Region, margins: Sequence[int]) -> Box:
    """The region's box, wider by so many voxels even where the grid ends."""
    return tuple(
        slice(part.start - margin, part.stop + margin) if n > 1 else part
        for part, margin, n in zip(region.box, margins, region.shape, strict=True)
    )


def is_thick(spacing_mm: Sequence[float], shape: Sequence[int]) -> list[bool]:
    """Per axis, whether its slices are so thick that nothing is interpolated between them."""
    thin = min(s for s, n in zip(spacing_mm, shape, strict=True) if n > 1)
    return [s >= THICK * thin and n > 1 for s, n in zip(spacing_mm, shape, strict=True)]


def _within_slices(spacing_mm: Sequence[float], shape: Sequence[int]) -> tuple[float, ...]:
    """The spacing, with thick slices infinitely far apart."""
    thick = is_thick(spacing_mm, shape)
    return tuple(math.inf if t else s for s, t in zip(spacing_mm, thick, strict=True))


def _edt(weight: float, pair: RegionPair, frame: Frame) -> list[Term]:
    """SegReg's eq. 4: distance inside the region over its largest, at the region's own voxels."""
    box = pair.fixed.box
    wide = pair.moving.grown(_voxels(frame.margin_mm, frame.moving_spacing_mm))
    fixed = _normalised_depth(pair.fixed.mask, frame.fixed_spacing_mm)
    moving = _normalised_depth(pair.moving.mask, frame.moving_spacing_mm)
    chosen = pair.fixed.mask & frame.gate[box]
    spread = pair.moving.spread(moving, wide.box, 0.0)
    return [_sampled(fixed, spread, chosen, box, wide.box, weight * pair.weight, frame)]


def _normalised_depth(mask: Tensor, spacing_mm: tuple[float, ...]) -> Tensor:
    padded = torch.nn.functional.pad(mask, (1,) * 6)
    reach = 0.5 * max(n * s for n, s in zip(padded.shape, spacing_mm, strict=True)) + 1
    depth = distance_mm(~padded, spacing_mm, reach)[1:-1, 1:-1, 1:-1]
    return depth / depth.max().clamp(min=1e-6)


def _sampled(
    fixed: Tensor,
    moving: Tensor,
    chosen: Tensor,
    box: Box,
    moving_box: Box,
    weight: float,
    frame: Frame,
) -> SquaredDifference:
    """Samples of a fixed crop against a moving crop; outside the crop its distance is added."""
    voxels = _voxels_of(chosen, box).int()
    step = sum(frame.moving_spacing_mm) / len(frame.moving_spacing_mm)
    return SquaredDifference(
        fixed[chosen].unsqueeze(-1),
        moving.unsqueeze(-1).contiguous(),
        voxels,
        torch.full((len(voxels),), weight, device=fixed.device),
        outside_weight=step * step,
        corner=_corner(moving_box, fixed.device),
    )


def _dice(weight: float, band: float, pair: RegionPair, frame: Frame) -> list[Term]:
    region = pair.fixed.grown(_voxels(band, frame.fixed_spacing_mm))
    moving = pair.moving.grown((1, 1, 1))
    near = distance_mm(region.mask, frame.fixed_spacing_mm, band) < band
    chosen = near & frame.gate[region.box]
    return [
        SoftDice(
            region.mask[chosen].float(),
            moving.mask.float().unsqueeze(-1),
            _voxels_of(chosen, region.box).T,
            weight * pair.weight,
            _corner(moving.box, chosen.device),
        )
    ]


@dataclass(frozen=True)
class SoftDice:
    """1 - Dice of the fixed region and the linearly warped moving one, near the fixed region.

    The gradient is Dice's own; the curvature is that of the squared difference, which has the
    same least where masks are binary. Scaled by the region's voxels, so that it weighs against
    the sums over voxels that the other terms are.

    Args:
        fixed: (N,) 0 or 1. moving: (Z, Y, X, 1) 0 or 1.
        voxels: (3, N). weight: of the term.
        corner: (3,), moving index of the crop's first voxel.
    """

    fixed: Tensor
    moving: Tensor
    voxels: Tensor
    weight: float
    corner: Tensor | None = None

    def without_outside_cost(self) -> SoftDice:
        """See :class:`iterreg.energy.terms.Term`."""
        return self

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """See :class:`Term`."""
        z, y, x = self.voxels
        q = mapping.apply(self.voxels.to(u_mm.dtype), u_mm[:, z, y, x])
        if self.corner is not None:
            q = q - self.corner.unsqueeze(1)
        values, slopes, _ = sample_with_slope(self.moving, q)
        warped = values.squeeze(-1)
        both, size = (warped * self.fixed).sum(), warped.sum() + self.fixed.sum()
        dice = 2 * both / size.clamp(min=1e-6)
        scale = self.weight * self.fixed.sum()
        derivative = -(2 * self.fixed - dice) / size.clamp(min=1e-6)
        residual = (derivative * scale).unsqueeze(-1)
        gradient, curvature = normal_equations(residual, slopes, mapping.from_mm)
        into.gradient[:, z, y, x] += 0.5 * gradient
        into.curvature[:, z, y, x] += curvature * (scale / size.clamp(min=1e-6))
        return (scale * (1 - dice)).double()


def _voxels(margin_mm: float, spacing_mm: Sequence[float]) -> list[int]:
    """A margin in voxels along each axis, and one more; none to what is infinitely far."""
    return [0 if math.isinf(s) else int(margin_mm / s) + 1 for s in spacing_mm]


def _corner(box: Box, device: torch.device) -> Tensor:
    """(3,), index of a box's first voxel."""
    return torch.tensor([float(part.start) for part in box], device=device)


def _voxels_of(chosen: Tensor, box: Box) -> Tensor:
    """(N, 3), indices of the voxels that are chosen in a box."""
    return chosen.nonzero() + torch.tensor([part.start for part in box], device=chosen.device)
