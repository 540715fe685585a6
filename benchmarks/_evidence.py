"""Evidence of whether a result can be trusted, from measures that the energy did not minimise.

It is gathered after the last level, on a coarse grid::

    similarity       of both images before and after, inside the common field of view
    consistency      |T_back(T(x)) - x|, T_back from a second registration of moving to fixed that
                     starts from scratch
    affine           volume and stretch of the affine
    regions          Dice of the regions
    common view      share of the fixed field of view that lands in the moving one
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from iterreg.config import Config
from iterreg.displacement import sample, sample_nearest
from iterreg.geometry import Matrix
from iterreg.metrics import dice
from iterreg.neighbourhood import box_mean, dilate
from iterreg.optimize.field import Field
from iterreg.optimize.levels import minimise
from iterreg.optimize.pair import Guidance, Pair
from iterreg.optimize.problem import Problem
from iterreg.optimize.solver import better_start
from iterreg.optimize.start import find_start

LEAST_VOXELS = 4000
"""The coarsest level with so many voxels is fine enough for the evidence."""

STRUCTURED = 0.5
"""Consistency is judged at this share of the voxels, those with the strongest edges: where an image
is flat, no method can know the motion."""

MOST_POINTS = 20_000


BINS = 32
LEAST_MASK_VOXELS = 30
WINDOW_RADIUS = 2
FLAT = 1e-4
"""Added to local variances of intensities scaled to 0 ... 1: 1 % of the range counts as flat."""


@dataclass(frozen=True)
class ImageSimilarity:
    """How alike two images are; 1 for identical images, 0 for unrelated ones.

    Args:
        ncc: correlation of all voxels, -1 to 1.
        lncc: mean squared correlation in local windows, 0 to 1, over the half of the windows with
            the most contrast.
        nmi: normalised mutual information (H(a) + H(b)) / H(a, b) - 1, 0 to 1.
    """

    ncc: float
    lncc: float
    nmi: float


def image_similarity(fixed: Tensor, warped: Tensor, mask: Tensor) -> ImageSimilarity:
    """Compare two images inside a mask.

    Args:
        fixed, warped: (Z, Y, X) float, intensities scaled to 0 ... 1.
        mask: (Z, Y, X) bool.

    Returns:
        All zero if the mask holds fewer than 30 voxels.

    Example:
        >>> ramp = torch.linspace(0, 1, 1000).view(10, 10, 10)
        >>> same = image_similarity(ramp, ramp, ramp >= 0)
        >>> round(same.ncc, 3), round(same.nmi, 3)
        (1.0, 1.0)
    """
    if int(mask.sum()) < LEAST_MASK_VOXELS:
        return ImageSimilarity(0.0, 0.0, 0.0)
    a, b = fixed[mask].double(), warped[mask].double()
    return ImageSimilarity(_ncc(a, b), _lncc(fixed, warped, mask), _nmi(a, b))


def _ncc(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))


def _lncc(fixed: Tensor, warped: Tensor, mask: Tensor) -> float:
    radius = [WINDOW_RADIUS if n > 2 * WINDOW_RADIUS else 0 for n in fixed.shape]
    inside = mask.double()
    f, w = fixed.double() * inside, warped.double() * inside

    def mean(volume: Tensor) -> Tensor:
        return box_mean(volume, radius, "zero") / share

    share = box_mean(inside, radius, "zero").clamp(min=1e-6)
    mean_f, mean_w = mean(f), mean(w)
    var_f = (mean(f * f) - mean_f**2).clamp(min=0)
    var_w = (mean(w * w) - mean_w**2).clamp(min=0)
    covariance = mean(f * w) - mean_f * mean_w
    correlation = covariance**2 / ((var_f + FLAT) * (var_w + FLAT))
    contrast = mask & (var_f >= var_f[mask].median())
    return float(correlation[contrast].mean())


def _nmi(a: Tensor, b: Tensor) -> float:
    joint = torch.bincount(_binned(a) * BINS + _binned(b), minlength=BINS * BINS).double()
    joint = joint.view(BINS, BINS) / len(a)
    alone = _entropy(joint.sum(0)) + _entropy(joint.sum(1))
    together = _entropy(joint.flatten())
    return alone / together - 1 if together > 0 else 0.0


def _binned(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp(min=1e-12) * BINS).long().clamp(0, BINS - 1)


def _entropy(p: Tensor) -> float:
    p = p[p > 0]
    return float(-(p * p.log()).sum())


@dataclass(frozen=True)
class Evidence:
    """Measures of a result that the energy did not minimise.

    Args:
        before, after: similarity of the images without and with the transform, inside the common
            field of view.
        inconsistency_median_mm, inconsistency_p95_mm: how far from its start a fixed point ends
            after this registration and a second one of moving to fixed, over points with structure
            (inside the regions if there are any); NaN without such points.
        affine_volume: determinant of the affine.
        affine_stretch: the larger of the longest stretch and the strongest compression, at least 1.
        common_view: share of the fixed field of view that lands in the moving one, 0 to 1.
        region_dice: Dice of each region by compact label.
    """

    before: ImageSimilarity
    after: ImageSimilarity
    inconsistency_median_mm: float
    inconsistency_p95_mm: float
    affine_volume: float
    affine_stretch: float
    common_view: float
    region_dice: dict[int, float]


def with_anatomy(level: Pair, fov: Tensor) -> Tensor:
    """A field of view without air, if the background is known to be air."""
    if not level.interfaces.empty_background:
        return fov
    return fov & dilate(level.fixed.labels > 0, 1)


@dataclass(frozen=True)
class Mapped:
    """A pair at one level with an affine and a displacement on its fixed side.

    Args:
        level: the pair.
        affine_lps: homogeneous, LPS mm.
        u_mm: (3, Z, Y, X).
    """

    level: Pair
    affine_lps: Matrix
    u_mm: Tensor

    def moving_index(self) -> Tensor:
        """(3, Z, Y, X): where each fixed voxel lands."""
        shape, device = self.level.fixed.shape, self.u_mm.device
        axes = [torch.arange(float(n), device=device) for n in shape]
        voxels = torch.stack(torch.meshgrid(*axes, indexing="ij")).view(3, -1)
        landed = self.level.index_map(self.affine_lps).apply(voxels, self.u_mm.reshape(3, -1))
        return landed.view(3, *shape)

    def common_fov(self) -> Tensor:
        """(Z, Y, X) bool: fixed voxels with anatomy that both images see."""
        mapping = self.level.index_map(self.affine_lps)
        return with_anatomy(self.level, self.level.common_fov(mapping, self.u_mm))

    def similarity(self) -> ImageSimilarity:
        """How alike the fixed and the warped image are, where both see."""
        moving = self.level.moving.image.mean(0, keepdim=True)
        warped = sample(moving, self.moving_index())[0]
        return image_similarity(self.level.fixed.image.mean(0), warped, self.common_fov())


def gather_evidence(pair: Pair, config: Config, affine_lps: Matrix, field: Field) -> Evidence:
    """Gather the evidence for a result.

    Args:
        pair: at full resolution.
        config: as it was registered with.
        affine_lps, field: the result.
    """
    spacing_mm = _spacing_mm(pair, config)
    level = pair.at(spacing_mm)
    ours = Mapped(level, affine_lps, field.on(level.fixed, pair.interfaces).u_mm)
    rank = level.fixed.grid.rank
    still = Mapped(level, np.eye(rank + 1), torch.zeros_like(ours.u_mm))
    common = ours.common_fov()
    inconsistency_mm = _inconsistency_mm(ours, register_back(pair, config, spacing_mm), common)
    median, p95 = _percentiles(inconsistency_mm)
    stretch = np.linalg.svd(np.asarray(affine_lps)[:rank, :rank], compute_uv=False)
    seen = with_anatomy(level, level.fixed.fov)
    return Evidence(
        before=still.similarity(),
        after=ours.similarity(),
        inconsistency_median_mm=median,
        inconsistency_p95_mm=p95,
        affine_volume=float(np.linalg.det(np.asarray(affine_lps)[:rank, :rank])),
        affine_stretch=float(max(stretch.max(), 1 / max(float(stretch.min()), 1e-6))),
        common_view=float(common.sum() / seen.sum().clamp(min=1)),
        region_dice=_region_dice(ours),
    )


def register_back(pair: Pair, config: Config, spacing_mm: float) -> Mapped:
    """Register moving to fixed on one coarse level, from scratch.

    Args:
        pair: at full resolution; without landmarks, which have been used once already.
        config: as the pair was registered with.
        spacing_mm: of the level.
    """
    rois = tuple(replace(r, fixed=r.moving, moving=r.fixed) for r in pair.guidance.rois)
    guidance = Guidance(rois, pair.guidance.by_labels)
    swapped = replace(pair, fixed=pair.moving, moving=pair.fixed, guidance=guidance)
    start = find_start(swapped, config)
    level = swapped.at(spacing_mm)
    field = start.field.on(level.fixed, swapped.interfaces)
    problem = Problem.of(config, level, start.affine_lps, None)
    field = Field(better_start(problem, field.u_mm), level.fixed)
    field, _, _ = minimise(problem, field, config.levels.steps[0], config.levels.tolerance)
    return Mapped(level, start.affine_lps, field.u_mm)


def _spacing_mm(pair: Pair, config: Config) -> float:
    """The coarsest level that is fine enough."""
    for spacing_mm in config.levels.spacing_mm:
        count = 1.0
        for n, s in zip(pair.fixed.shape, pair.fixed.spacing_mm, strict=True):
            count *= n * min(1.0, s / spacing_mm) if n > 1 else 1
        if count >= LEAST_VOXELS:
            return spacing_mm
    return config.levels.spacing_mm[-1]


def _inconsistency_mm(ours: Mapped, back: Mapped, common: Tensor) -> Tensor:
    """(N,): distance between fixed voxels and where both registrations bring them."""
    fixed = ours.level.fixed
    if ours.level.interfaces.label_count > 1:
        common = common & (fixed.labels > 0)
    voxels = _structured(fixed.image.mean(0), common).nonzero()
    voxels = voxels[:: max(1, len(voxels) // MOST_POINTS)].T
    z, y, x = voxels
    there = ours.moving_index()[:, z, y, x]
    u_back = sample(back.u_mm, there)
    landed = back.level.index_map(back.affine_lps).apply(there, u_back)
    spacing = landed.new_tensor(fixed.spacing_mm).view(3, 1)
    distance_mm: Tensor = ((landed - voxels) * spacing).norm(dim=0)
    return distance_mm


def _structured(image: Tensor, mask: Tensor) -> Tensor:
    """The voxels of a mask with the strongest edges."""
    edges = torch.zeros_like(image)
    for axis, n in enumerate(image.shape):
        if n > 1:
            edges += torch.gradient(image, dim=axis)[0].square()
    if not bool(mask.any()):
        return mask
    strong: Tensor = edges >= torch.quantile(_some(edges[mask]), 1 - STRUCTURED)
    return mask & strong


def _some(values: Tensor) -> Tensor:
    """A sample that torch can sort: a quantile takes at most 16 million values."""
    return values[:: max(1, len(values) // MOST_POINTS)]


def _percentiles(values: Tensor) -> tuple[float, float]:
    if len(values) == 0:
        return float("nan"), float("nan")
    median, p95 = np.percentile(values.cpu().numpy(), (50, 95))
    return float(median), float(p95)


def _region_dice(ours: Mapped) -> dict[int, float]:
    """Dice of each region that both sides hold."""
    warped = sample_nearest(ours.level.moving.labels, ours.moving_index())
    values = [v for v in ours.level.region_pairs() if v]
    return dice(ours.level.fixed.labels, warped, values)
