"""Choose among the branches of an inverse, one per region.

The branch of a region is the answer of x + u(x) = z for the region's own field, continued smoothly
outside it. It is *valid* if its answer lies in the region. Each point is offered the branch of its
own label and those of the regions that land near it; the best one is kept.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from iterreg.displacement import Transform
from iterreg.errors import GeometryError
from iterreg.image import LabelMap
from iterreg.inverse.mapped_regions import NO_REGION, MappedRegions, flat_nearest
from iterreg.inverse.newton import CONVERGED_VOX, FieldSolver, fixed_point, in_parallel, norm
from iterreg.neighbourhood import grow_box
from iterreg.sampling import is_inside, sample, sample_nearest

TOLERANCE_VOX = 0.01
"""Promised residual, in voxels of the fixed grid."""

BLENDED_VOX = 0.1
"""A larger residual, in voxels of the fixed grid, is not called ok."""

DISTINCT_VOX = 0.5
"""Answers of two branches that are closer than this are one answer: a glued interface."""

CONTINUED_VOX = 3
"""A region's field is continued over its box and this many voxels around it."""

POLISHING_STEPS = 8
"""Fixed-point steps of the whole field where regions meet."""

LARGEST_POLISH_VOX = 1.0
"""A polished answer that moved further than this belongs to another branch, and is dropped."""

OWN_BRANCH, OTHER_BRANCH, INVALID, UNSOLVED, NO_ANSWER = 0.0, 1.0, 2.0, 3.0, 9.0
"""Scores, lower is better. Invalid answers score INVALID to UNSOLVED by their distance from their
region."""


class InverseStatus(IntEnum):
    """How an answer was found."""

    OK = 0
    """One fixed point maps onto the moving point."""

    GAP = 1
    """No fixed point does: the regions drew apart. The answer is that of the nearest branch."""

    OVERLAP = 2
    """Two regions slid over each other here. The answer is that of the moving label."""

    OUTSIDE = 3
    """The answer lies outside the fixed grid."""

    BLENDED = 4
    """Next to a sliding interface: the answer is that of the point's own region, but the dense
    field, which blends both sides there, leads from it more than :data:`BLENDED_VOX` astray."""


def solve_branches(
    transform: Transform, z: Tensor, fixed: LabelMap | None, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Solve x + u(x) = z for points in voxels of the fixed grid.

    Args:
        transform: has the field u.
        z: (rank, n) float32, array order.
        fixed: the regions, or None for one region.
        own: (n,) label of each point, or None if unknown; a value that ``fixed`` lacks stands for
            an unknown label.

    Returns:
        x as z, and (n,) int8 statuses.

    Raises:
        GeometryError: ``fixed`` lies on another grid.
    """
    vox = transform.field.vox.detach().cpu().float()
    answers = _Answers(z)
    regions = None
    if fixed is not None:
        if not fixed.grid.same_space(transform.grid):
            raise GeometryError(f"{fixed.name}: expected the fixed grid, got {fixed.grid!r}")
        regions = MappedRegions(fixed, vox)
        _offer_branches(answers, vox, regions, z, own)
    rest = torch.nonzero(answers.score == NO_ANSWER).squeeze(1)
    if len(rest):
        x, residual = FieldSolver(vox, len(rest)).solve(z.index_select(1, rest))
        valid = (residual < TOLERANCE_VOX) & is_inside(x, vox.shape[1:])
        answers.offer(rest, x, torch.where(valid, OTHER_BRANCH, UNSOLVED))
    return _finish(answers, vox, z, regions)


class _Answers:
    """The best answer so far of each point, its score, and whether two branches were valid."""

    def __init__(self, z: Tensor) -> None:
        count = z.shape[1]
        self.x = z.clone()
        self.score = torch.full((count,), NO_ANSWER)
        self.overlap = torch.zeros(count, dtype=torch.bool)

    def offer(self, which: Tensor, x: Tensor, score: Tensor) -> None:
        """Keep the better of the present and the offered answers of the points ``which``."""
        present = self.score.index_select(0, which)
        both = torch.nonzero((present < INVALID) & (score < INVALID)).squeeze(1)
        if len(both):
            apart = norm(self.x[:, which[both]] - x[:, both]) > DISTINCT_VOX
            self.overlap[which[both[apart]]] = True
        better = torch.nonzero(score < present).squeeze(1)
        chosen = which[better]
        self.x.index_copy_(1, chosen, x.index_select(1, better))
        self.score.index_copy_(0, chosen, score.index_select(0, better))


def _offer_branches(
    answers: _Answers, vox: Tensor, regions: MappedRegions, z: Tensor, own: Tensor | None
) -> None:
    """Offer each point the branch of its own region and of those that land near it."""
    numbers = torch.full((z.shape[1],), NO_REGION, dtype=torch.int16)
    if own is not None:
        numbers = regions.numbers_of(own)
    mixed, mixed_voxels = _near_other_regions(regions, numbers, flat_nearest(z, vox.shape[1:]))
    mixed_numbers = numbers[mixed]
    for region in range(len(regions)):
        asked = torch.nonzero(numbers == region).squeeze(1)
        if len(mixed):
            near = regions.landed_nearby(region)[mixed_voxels]
            asked = torch.cat([asked, mixed[near & (mixed_numbers != region)]])
        if len(asked):
            branch = _Branch(vox, regions, region, len(asked))
            x, score = branch.answer(z.index_select(1, asked), numbers[asked] == region)
            answers.offer(asked, x, score)


def _near_other_regions(
    regions: MappedRegions, numbers: Tensor, voxels: Tensor
) -> tuple[Tensor, Tensor]:
    """Select the points near which a region other than their own lands, and their flat voxels."""
    low, high = regions.range_landed()
    at = voxels.clamp(min=0)
    lowest, highest = low[at], high[at]
    other = (lowest != numbers) | (highest != numbers)
    mixed = torch.nonzero((voxels >= 0) & other & (highest != NO_REGION)).squeeze(1)
    return mixed, voxels[mixed]


class _Branch:
    """The field of one region, continued outside it, on its padded box."""

    def __init__(self, vox: Tensor, regions: MappedRegions, region: int, count: int) -> None:
        box = grow_box(regions.boxes[region], CONTINUED_VOX, vox.shape[1:])
        self._mask = regions.mask(region, box)
        self._corner = vox.new_tensor([s.start for s in box]).unsqueeze(1)
        field = _continued(vox[(slice(None), *box)], self._mask)
        self._solver = FieldSolver(field, count)

    def answer(self, z: Tensor, is_own: Tensor) -> tuple[Tensor, Tensor]:
        """The branch's answer (rank, n) for each point, and its score (n,)."""
        x, residual = self._solver.solve(z - self._corner)
        valid = (residual < TOLERANCE_VOX) & sample_nearest(self._mask, x)
        score = torch.where(is_own, OWN_BRANCH, OTHER_BRANCH)
        out = ~valid
        if bool(out.any()):
            # Of two answers as far outside their regions, that of the point's own label wins.
            far = 2.9 - 0.9 * self._closeness(x[:, out]) - torch.where(is_own[out], 0.01, 0.0)
            score[out] = torch.where(residual[out] < TOLERANCE_VOX, far, UNSOLVED)
        return x + self._corner, score

    def _closeness(self, x: Tensor) -> Tensor:
        """1 deep inside the region to 0 far outside: a blurred mask, linear at a plane."""
        blurred = self._mask.float().unsqueeze(0)
        for axis in range(1, blurred.ndim):
            blurred = _box_mean(blurred, axis, radius=2)
        return sample(blurred, x)[0]


def _continued(vox: Tensor, mask: Tensor) -> Tensor:
    """Keep a field inside a mask, and continue it smoothly outside by averages of averages.

    Each level halves the grid and averages the values it has; the others are read from the level
    below. This takes a few passes over the box, whatever the distance to fill.
    """
    if bool(mask.all()):
        return vox.contiguous()
    kernel = [min(2, n) for n in mask.shape]
    pool = torch.nn.functional.avg_pool3d if mask.ndim == 3 else torch.nn.functional.avg_pool2d
    weight: Tensor = pool(mask.float().unsqueeze(0), kernel, ceil_mode=True)
    coarse = pool(vox * mask, kernel, ceil_mode=True) / weight.clamp(min=1e-6)
    filled = _continued(coarse, weight[0] > 0)
    mode = "trilinear" if mask.ndim == 3 else "bilinear"
    fine = torch.nn.functional.interpolate(filled.unsqueeze(0), size=mask.shape, mode=mode)
    return torch.where(mask, vox, fine[0])


def _box_mean(values: Tensor, axis: int, radius: int) -> Tensor:
    """Mean over 2 * radius + 1 voxels along one axis, zero outside."""
    size = values.shape[axis]
    total = values.clone()
    for shift in range(1, min(radius, size - 1) + 1):
        total.narrow(axis, 0, size - shift).add_(values.narrow(axis, shift, size - shift))
        total.narrow(axis, shift, size - shift).add_(values.narrow(axis, 0, size - shift))
    return total / (2 * radius + 1)


def _finish(
    answers: _Answers, vox: Tensor, z: Tensor, regions: MappedRegions | None
) -> tuple[Tensor, Tensor]:
    """Polish the answers near interfaces, follow ITK outside the grid, and set the statuses."""
    shape = vox.shape[1:]
    interface = regions.interface() if regions is not None else None
    status = torch.empty(z.shape[1], dtype=torch.int8)

    def finish_part(part: slice) -> None:
        x, goal = answers.x[:, part], z[:, part]
        inside = is_inside(x, shape)
        found = answers.score[part] < INVALID
        if interface is not None:
            found |= _polish(vox, x, goal, inside & (~found | sample_nearest(interface, x)))
        # Outside the grid u is zero, so x = z is the exact answer if z is outside too.
        unmoved = ~found & ~is_inside(goal, shape)
        x[:, unmoved] = goal[:, unmoved]
        state = torch.where(found, int(InverseStatus.OK), int(InverseStatus.GAP))
        astray = norm(goal - x - sample(vox, x, outside=0.0)) > BLENDED_VOX
        state[astray & found] = int(InverseStatus.BLENDED)
        state[answers.overlap[part] & found] = int(InverseStatus.OVERLAP)
        state[unmoved | ~inside] = int(InverseStatus.OUTSIDE)
        status[part] = state.to(torch.int8)

    in_parallel(z.shape[1], finish_part)
    return answers.x, status


def _polish(vox: Tensor, x: Tensor, z: Tensor, wanted: Tensor) -> Tensor:
    """Improve ``x`` in place where the whole field is smooth; (n,) bool: which are now exact.

    Across a glued interface the whole field is better than a region's continuation. If the field
    jumps, these steps do not converge, or walk away, and the branch's answer stays.
    """
    exact = torch.zeros_like(wanted)
    todo = torch.nonzero(wanted).squeeze(1)
    if len(todo) == 0:
        return exact
    begin = x.index_select(1, todo)
    refined, size = fixed_point(vox, z.index_select(1, todo), begin, POLISHING_STEPS)
    good = (norm(refined - begin) < LARGEST_POLISH_VOX) & (size < CONVERGED_VOX)
    good &= is_inside(refined, vox.shape[1:])
    x[:, todo[good]] = refined[:, good]
    exact[todo[good]] = True
    return exact
