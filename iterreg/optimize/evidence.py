"""Gather the evidence for a result, from measures that the energy did not minimise.

All but the overlap of the regions is measured on a coarse level. See
:class:`iterreg.verdict.Evidence` for the measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from iterreg.config import Config
from iterreg.displacement import Transform
from iterreg.geometry import Matrix, apply_affine
from iterreg.labels import centroids, label_counts
from iterreg.metrics import dice
from iterreg.optimize.affine import shape_of
from iterreg.optimize.coarse import level_to_check, register_coarse
from iterreg.optimize.mapped import Mapped, anatomy
from iterreg.optimize.pair import Guidance, Pair
from iterreg.optimize.register import Solution
from iterreg.optimize.volumes import volume_ratio
from iterreg.sampling import sample, sample_nearest
from iterreg.to_device import on_device
from iterreg.verdict import Evidence

STRUCTURED = 0.5
"""Consistency is judged at this share of the voxels, those with the strongest edges: where an image
is flat, no method can know the motion."""

MOST_POINTS = 20_000
LEAST_POINTS = 30
SLAB_VOXELS = 1 << 20
"""So many voxels of the whole grid are mapped at once."""

LEAST_REGION_VOXELS = 30
"""Of a smaller region, the Dice is chance."""


def gather_evidence(
    pair: Pair,
    config: Config,
    solution: Solution,
    initial: Transform | None = None,
    names: Sequence[str] = (),
) -> Evidence:
    """Gather the evidence for a result.

    Args:
        pair: at full resolution.
        config: as it was registered with.
        solution: the result.
        initial: the transform that it started from, or None.
        names: of the regions, in the order of the compact labels 1 ... n.
    """
    spacing_mm = level_to_check(pair, config)
    level = pair.at(spacing_mm)
    u_mm = solution.field.on(level.fixed, pair.interfaces).u_mm
    ours = Mapped(level, solution.affine_lps, u_mm)
    still = Mapped.still(level, np.eye(level.fixed.grid.rank + 1))
    back = coarse_way_back(pair, config, spacing_mm, initial)
    median_mm, p95_mm = _percentiles(inconsistency_mm(ours, back))
    volume, stretch, shear_deg = shape_of(_affine_part(ours))
    seen = _SeenRegions.of(pair, solution, names)
    return Evidence(
        before=still.similarity(),
        after=ours.similarity(),
        inconsistency_median_mm=median_mm,
        inconsistency_p95_mm=p95_mm,
        affine_volume=volume,
        affine_stretch=stretch,
        affine_shear_deg=shear_deg,
        common_view=float(ours.common_fov.sum() / anatomy(level).sum().clamp(min=1)),
        region_dice=seen.dice(names),
        region_dice_before=_SeenRegions.of(pair, None, names).dice(names),
        region_distance_mm=seen.distance_mm(pair, names),
        region_volume=_volumes(pair, solution, names),
        landmarks_mm=_landmarks_mm(pair, solution),
        interior_folds=solution.folds,
        improved=solution.improved,
    )


def coarse_way_back(
    pair: Pair, config: Config, spacing_mm: float, initial: Transform | None = None
) -> Mapped:
    """Register moving to fixed on one coarse level, from scratch.

    Args:
        pair: at full resolution.
        config: as the pair was registered with.
        spacing_mm: of the level.
        initial: fixed to moving: the start that the user gave, or None.
    """
    rois = tuple(replace(r, fixed=r.moving, moving=r.fixed) for r in pair.guidance.rois)
    points = pair.guidance.landmarks
    landmarks = None if points is None else (points[1], points[0])
    guidance = Guidance(rois, pair.guidance.by_labels, landmarks)
    swapped = replace(pair, fixed=pair.moving, moving=pair.fixed, guidance=guidance)
    first = np.eye(pair.fixed.grid.rank + 1)
    if initial is not None:
        first = np.asarray(np.linalg.inv(initial.affine_lps), np.float64)
    return register_coarse(swapped, config, spacing_mm, first)


def inconsistency_mm(ours: Mapped, back: Mapped) -> Tensor:
    """Distance between fixed voxels and where there and back bring them.

    Args:
        ours: fixed to moving.
        back: moving to fixed.

    Returns:
        (N,): at voxels with structure in the common view, inside the regions if there are any.
    """
    fixed, common = ours.level.fixed, ours.common_fov
    if ours.level.interfaces.label_count > 1:
        common = common & (fixed.labels > 0)
    voxels = _structured(fixed.image.mean(0), common).nonzero()
    voxels = voxels[:: max(1, len(voxels) // MOST_POINTS)].T
    z, y, x = voxels
    there = ours.moving_index[:, z, y, x]
    u_back = sample(back.u_mm, there)
    landed = back.level.index_map(back.affine_lps).apply(there, u_back)
    spacing = on_device(fixed.spacing_mm, landed.device, landed.dtype).view(3, 1)
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


def _affine_part(ours: Mapped) -> Matrix:
    """(rank, rank): the linear map nearest to the whole one where both images see, in mm.

    The field can do what the affine does, so neither is judged alone.
    """
    rank = ours.level.fixed.grid.rank
    voxels = ours.common_fov.nonzero()
    if len(voxels) < LEAST_POINTS:
        return np.asarray(ours.affine_lps)[:rank, :rank]
    voxels = voxels[:: max(1, len(voxels) // MOST_POINTS)].T
    z, y, x = voxels
    fixed, moving = ours.level.fixed.grid, ours.level.moving.grid
    there = ours.moving_index[3 - rank :, z, y, x].T.double().cpu().numpy()
    here = voxels[3 - rank :].T.double().cpu().numpy()
    source = apply_affine(fixed.index_to_lps, here)
    target = apply_affine(moving.index_to_lps, there)
    source, target = source - source.mean(0), target - target.mean(0)
    # An axis of few voxels tells nothing of the map along it: the affine stands in.
    ridge = 1e-6 * np.trace(source.T @ source) * np.eye(rank)
    linear = np.asarray(ours.affine_lps)[:rank, :rank]
    cross = target.T @ source + linear @ ridge
    return np.asarray(cross @ np.linalg.inv(source.T @ source + ridge), np.float64)


@dataclass(frozen=True)
class _SeenRegions:
    """The labels where both images see.

    Args:
        fixed, warped: (Z, Y, X), 0 elsewhere.
        values: of the regions that both sides hold, and that are large enough to judge.
    """

    fixed: Tensor
    warped: Tensor
    values: tuple[int, ...]

    @classmethod
    def of(cls, pair: Pair, solution: Solution | None, names: Sequence[str]) -> _SeenRegions:
        """Without a solution, as the headers place the images."""
        values = [v for v in pair.shared_labels() if v <= len(names)]
        if not values:
            return cls(pair.fixed.labels, pair.moving.labels, ())
        fixed, warped = _seen_labels(pair, solution)
        counts = label_counts(fixed)
        kept = tuple(v for v in values if counts.get(v, 0) >= LEAST_REGION_VOXELS)
        return cls(fixed, warped, kept)

    def dice(self, names: Sequence[str]) -> dict[str, float]:
        """Dice of each region, by name."""
        if not self.values:
            return {}
        return {names[v - 1]: d for v, d in dice(self.fixed, self.warped, self.values).items()}

    def distance_mm(self, pair: Pair, names: Sequence[str]) -> dict[str, float]:
        """Distance of the centres of each region, by name."""
        if not self.values:
            return {}
        ours, theirs = (_centres_mm(m, pair, self.values) for m in (self.fixed, self.warped))
        apart_mm = (ours - theirs).norm(dim=1).tolist()
        return {names[v - 1]: d for v, d in zip(self.values, apart_mm, strict=True)}


def _volumes(pair: Pair, solution: Solution, names: Sequence[str]) -> dict[str, float]:
    """Ratio of the volumes of each region that must keep its own, by name."""
    return {
        names[v - 1]: volume_ratio(solution.field, pair, solution.affine_lps, v)
        for v in pair.preserved
        if v <= len(names)
    }


def _seen_labels(pair: Pair, solution: Solution | None) -> tuple[Tensor, Tensor]:
    """The fixed and the warped labels, (Z, Y, X) each, 0 where not both images see."""
    shape, device = pair.fixed.shape, pair.fixed.labels.device
    affine = np.eye(pair.fixed.grid.rank + 1) if solution is None else solution.affine_lps
    mapping = pair.index_map(affine)
    view = anatomy(pair)
    fixed, warped = torch.empty_like(pair.fixed.labels), torch.empty_like(pair.fixed.labels)
    # One look into the moving image tells both: 0 where it does not see, else one more than the
    # label.
    marked = torch.where(pair.moving.fov, pair.moving.labels + 1, 0)
    rows = [torch.arange(n, device=device) for n in shape[1:]]
    step = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    for first in range(0, shape[0], step):
        slab = slice(first, min(first + step, shape[0]))
        planes = torch.arange(slab.start, slab.stop, device=device)
        voxels = torch.cartesian_prod(planes, *rows).T.float()
        u_mm = torch.zeros_like(voxels)
        if solution is not None:
            u_mm = solution.field.u_mm[:, slab].reshape(3, -1)
        index = mapping.apply(voxels, u_mm)
        found = sample_nearest(marked, index).view_as(view[slab])
        seen = view[slab] & (found > 0)
        fixed[slab] = torch.where(seen, pair.fixed.labels[slab], 0)
        warped[slab] = torch.where(seen, found - 1, 0)
    return fixed, warped


def _centres_mm(labels: Tensor, pair: Pair, values: Sequence[int]) -> Tensor:
    """(N, 3): centre of each region in mm along the fixed axes; NaN for one without voxels."""
    spacing = on_device(pair.fixed.spacing_mm, labels.device, torch.float64)
    return centroids(labels, 1 + max(values))[list(values)] * spacing


def _landmarks_mm(pair: Pair, solution: Solution) -> float:
    """Mean distance that guiding landmarks end from their partners; NaN without any."""
    indices = pair.landmark_indices()
    if indices is None:
        return float("nan")
    fixed, moving = indices
    u = sample(solution.field.u_mm, fixed)
    landed = pair.index_map(solution.affine_lps).apply(fixed, u)
    spacing = on_device(pair.moving.spacing_mm, landed.device, landed.dtype).view(3, 1)
    return float(((landed - moving) * spacing).norm(dim=0).mean())
