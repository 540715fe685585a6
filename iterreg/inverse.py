"""The inverse of a transform: where in the fixed image a point of the moving image comes from.

The displacement field may jump between regions, so it is inverted region by region. For a moving
point y with z = A^-1(y), the branch of region r is the answer of x + u_r(x) = z, where u_r is the
field of region r continued smoothly outside it. A branch is *valid* where its answer lies in its
own region. The moving label of y chooses the branch; the other branches are asked where their
region lands near z, which is how overlaps show, and how a label that the registration did not
bring into place finds its true origin.

Promise: for interior points of a field with |grad u| < 0.8, in a region that does not fold, the
answer misses by less than :data:`TOLERANCE_VOX`. Within one voxel of an interface that slides, the
one dense field blends both sides, and the answer is that of the unblended side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.displacement import DisplacementField, Transform, sample, sample_nearest
from iterreg.errors import GeometryError
from iterreg.geometry import Grid, Matrix, Points, apply_affine
from iterreg.image import LabelMap

TOLERANCE_VOX = 0.01
"""Promised residual, in voxels of the fixed grid."""

CONVERGED_VOX = 0.005
"""Residual before the last step of a point: that step leaves |grad u| times as much."""

FIXED_POINT_STEPS = 12
"""Cheap steps, enough where |grad u| < 0.6; the points left over take Newton's."""

NEWTON_STEPS = 20
"""Damped Newton steps; they end early when every point has converged."""

DISTINCT_VOX = 0.5
"""Answers of two branches that are closer than this are one answer: a glued interface."""

CHUNK_POINTS = 10_000
"""Points that iterate together: few enough that they stay in the cache and that torch does not
split an operation on them. Chunks run in parallel instead, which a busy machine does not slow."""

SLAB_VOXELS = 1 << 19
"""Voxels whose float64 coordinates are in memory together."""

COARSEST = 20_000
"""Nodes below which a coarse inverse is solved from scratch."""

NO_REGION = -1


class InverseStatus(IntEnum):
    """How an answer was found."""

    OK = 0
    """One fixed point maps onto the moving point."""

    GAP = 1
    """None does: the regions drew apart here. The answer is that of the nearest branch."""

    OVERLAP = 2
    """Two regions slid over each other here. The answer is that of the moving label."""

    OUTSIDE = 3
    """It comes from outside the fixed grid."""


@dataclass(frozen=True)
class InversePoints:
    """Moving points taken back into the fixed image.

    Args:
        points: in fixed space, as many as were given.
        status: of each point.
        residual_mm: (n,) distance between the point given and where the whole transform takes the
            answer. Large at gaps and within one voxel of an interface that slides.
    """

    points: Points
    status: tuple[InverseStatus, ...]
    residual_mm: NDArray[np.float64]

    def __repr__(self) -> str:
        counts = [(s.name.lower(), self.status.count(s)) for s in InverseStatus]
        told = ", ".join(f"{n} {name}" for name, n in counts if n)
        worst = float(self.residual_mm.max()) if len(self.residual_mm) else 0.0
        return f"InversePoints({told or 'none'}; residual up to {worst:.2g} mm)"


def invert_points(
    transform: Transform,
    points: Points,
    fixed_labels: LabelMap | None = None,
    moving_labels: LabelMap | None = None,
) -> InversePoints:
    """Where in the fixed image points of the moving image come from.

    Args:
        transform: fixed to moving.
        points: in moving space.
        fixed_labels: the regions between which the field may jump, on the transform's grid. None:
            one region, and ``moving_labels`` is not used.
        moving_labels: the same labels in moving space, on any grid; they choose the branch.

    Raises:
        GeometryError: ``fixed_labels`` lies on another grid, or the ranks differ.
    """
    grid = transform.grid
    if points.lps.shape[1] != grid.rank:
        raise GeometryError(
            f"inverse: expected {grid.rank}-D points, got {points.lps.shape[1]}-D ones"
        )
    back = grid.lps_to_index @ np.linalg.inv(transform.affine_lps)
    z = torch.from_numpy(np.ascontiguousarray(apply_affine(back, points.lps).T)).float()
    own = None
    if fixed_labels is not None and moving_labels is not None:
        own = _labels_at(moving_labels, points)
    x, status = _invert(transform, z, fixed_labels, own)
    answer = Points(apply_affine(grid.index_to_lps, x.T.double().numpy()))
    landed = transform.map_points(answer).lps
    return InversePoints(
        answer,
        tuple(InverseStatus(s) for s in status.tolist()),
        np.linalg.norm(landed - points.lps, axis=1),
    )


def invert_to_grid(
    transform: Transform,
    moving_grid: Grid,
    fixed_labels: LabelMap | None = None,
    moving_labels: LabelMap | None = None,
) -> tuple[Transform, torch.Tensor]:
    """The inverse on every voxel of the moving grid, as a transform from moving to fixed.

    ``warp_image(fixed_image, inverse, fill)`` pulls the fixed image onto the moving grid.

    Args:
        transform: fixed to moving.
        moving_grid: where the inverse is wanted.
        fixed_labels, moving_labels: as in :func:`invert_points`.

    Returns:
        The inverse A^-1(y + w(y)), with w on ``moving_grid``, and (*moving shape) int8 with the
        :class:`InverseStatus` of each voxel.

    Raises:
        GeometryError: as :func:`invert_points`.
    """
    grid, rank = transform.grid, transform.grid.rank
    if moving_grid.rank != rank:
        raise GeometryError(f"inverse: expected a {rank}-D moving grid, got {moving_grid.rank}-D")
    forward = moving_grid.lps_to_index @ transform.affine_lps @ grid.index_to_lps
    backward = np.asarray(np.linalg.inv(forward), np.float64)
    z = torch.cat([_apply(backward, index) for _, index in _voxels(moving_grid)], dim=1)
    own = None
    if fixed_labels is not None and moving_labels is not None:
        own = _labels_on(moving_labels, moving_grid)
    x, status = _invert(transform, z, fixed_labels, own)
    w = torch.empty(rank, moving_grid.voxel_count)
    for part, index in _voxels(moving_grid):
        w[:, part] = _apply(forward, x[:, part]) - index
    # Where nothing moves the two roundings of z must cancel: motion below them is none.
    w[w.abs() < 1e-4] = 0.0
    field = DisplacementField(w.view(rank, *moving_grid.shape_zyx), moving_grid)
    back = np.asarray(np.linalg.inv(transform.affine_lps), np.float64)
    return Transform(back, field), status.view(moving_grid.shape_zyx)


# ------------------------------------------------------------------------- choosing among branches


class _Answers:
    """The best answer so far of each point.

    ``score`` is 0 for the valid branch of the point's own label, 1 for another valid branch, and
    2 to 3 for an answer outside its region, by its distance to it.
    """

    def __init__(self, z: torch.Tensor) -> None:
        count = z.shape[1]
        self.x = z.clone()
        self.score = torch.full((count,), 9.0)
        self.overlap = torch.zeros(count, dtype=torch.bool)

    def offer(self, which: torch.Tensor, x: torch.Tensor, score: torch.Tensor) -> None:
        """Keep the better of the held and the offered answers of the points ``which``."""
        held = self.score.index_select(0, which)
        both = torch.nonzero((held < 2) & (score < 2)).squeeze(1)
        if len(both):
            apart = _length(self.x[:, which[both]] - x[:, both]) > DISTINCT_VOX
            self.overlap[which[both[apart]]] = True
        better = torch.nonzero(score < held).squeeze(1)
        chosen = which[better]
        self.x.index_copy_(1, chosen, x.index_select(1, better))
        self.score.index_copy_(0, chosen, score.index_select(0, better))


def _invert(
    transform: Transform, z: torch.Tensor, fixed: LabelMap | None, own: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve x + u(x) = z for points in voxels of the fixed grid.

    Args:
        transform: whose field is u.
        z: (rank, n) float32, array order.
        fixed: the regions, or None for one region.
        own: (n,) label of each point, or None where unknown; :data:`UNKNOWN` for single points.

    Returns:
        x as z, and (n,) int8 statuses.
    """
    vox = transform.field.vox.detach().cpu().float()
    answers = _Answers(z)
    regions = None
    if fixed is not None:
        if not fixed.grid.same_space(transform.grid):
            raise GeometryError(f"{fixed.name}: expected the fixed grid, got {fixed.grid!r}")
        regions = _Regions(fixed, vox)
        _solve_regions(answers, vox, regions, z, own)
    rest = torch.nonzero(answers.score > 8).squeeze(1)
    if len(rest):
        x, residual = _Solver(vox, len(rest)).solve(z.index_select(1, rest))
        valid = (residual < TOLERANCE_VOX) & _inside(x, vox.shape[1:])
        answers.offer(rest, x, torch.where(valid, 1.0, 3.0))
    return _settle(answers, vox, z, regions)


UNKNOWN = torch.iinfo(torch.int32).min
"""Label of a point of which none is known: outside the moving label map."""


class _Regions:
    """The fixed regions, numbered from 0, with their boxes and where their voxels land."""

    def __init__(self, fixed: LabelMap, vox: torch.Tensor) -> None:
        from scipy import ndimage

        labels = fixed.data.detach().cpu()
        self.values = torch.unique(labels)
        self.number = torch.bucketize(labels, self.values).short()
        self.boxes = ndimage.find_objects((self.number + 1).numpy())
        self.landed = self._land(vox)

    def _land(self, vox: torch.Tensor) -> torch.Tensor:
        """(*shape) int64: flat index of the voxel nearest to x + u(x), -1 outside."""
        shape = vox.shape[1:]
        flat = torch.zeros(shape, dtype=torch.int64)
        inside = torch.ones(shape, dtype=torch.bool)
        for axis, size in enumerate(shape):
            along = [-1 if a == axis else 1 for a in range(len(shape))]
            index = torch.arange(size, dtype=torch.float32).view(along)
            place = (index + vox[axis]).round_().long()
            inside &= (place >= 0) & (place < size)
            flat = flat.mul_(size).add_(place)
        return flat.masked_fill_(~inside, -1)

    def numbers_of(self, labels: torch.Tensor) -> torch.Tensor:
        """Region numbers of labels, :data:`NO_REGION` for labels that the fixed map lacks."""
        place = torch.bucketize(labels, self.values).clamp_(max=len(self.values) - 1)
        return torch.where(self.values[place] == labels, place, NO_REGION).short()

    def mask(self, region: int, box: tuple[slice, ...]) -> torch.Tensor:
        """(*box) bool."""
        return self.number[box] == region

    def interface(self) -> torch.Tensor:
        """(*shape) bool: voxels with another region within one voxel."""
        number = self.number.numpy()
        return torch.from_numpy(_spread(number, np.minimum) != _spread(number, np.maximum))

    def range_landed(self) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
        """Lowest and highest region number that lands within a voxel of each voxel, flat.

        Where nothing lands the lowest is above the highest.
        """
        shape = tuple(self.number.shape)
        inside = self.landed >= 0
        where, what = self.landed[inside], self.number[inside].long()
        low = torch.full((self.number.numel(),), 32767)
        high = torch.full((self.number.numel(),), -1)
        low.scatter_reduce_(0, where, what, "amin")
        high.scatter_reduce_(0, where, what, "amax")
        lowest = _spread(low.short().view(shape).numpy(), np.minimum)
        highest = _spread(high.short().view(shape).numpy(), np.maximum)
        return lowest.ravel(), highest.ravel()

    def covered(self, region: int) -> NDArray[np.bool_]:
        """Flat bool: where a voxel of the region lands within a voxel."""
        box = self.boxes[region]
        landed = self.landed[box][self.mask(region, box)]
        cover = np.zeros(self.number.numel(), np.bool_)
        cover[landed[landed >= 0].numpy()] = True
        return _spread(cover.reshape(tuple(self.number.shape)), np.logical_or).ravel()


def _solve_regions(
    answers: _Answers,
    vox: torch.Tensor,
    regions: _Regions,
    z: torch.Tensor,
    own: torch.Tensor | None,
) -> None:
    """Offer each point the branch of its own region and of those that land near it."""
    numbers = torch.full((z.shape[1],), NO_REGION, dtype=torch.int16)
    if own is not None:
        numbers = regions.numbers_of(own)
    flat = _flat_nearest(z, vox.shape[1:])
    mixed, mixed_flat = _near_others(regions, numbers, flat)
    mixed_numbers = numbers[mixed]
    for region in range(len(regions.values)):
        mine = torch.nonzero(numbers == region).squeeze(1)
        if len(mixed):
            near = torch.from_numpy(regions.covered(region)[mixed_flat.numpy()])
            mine = torch.cat([mine, mixed[near & (mixed_numbers != region)]])
        if len(mine):
            branch = _Branch(vox, regions, region, len(mine))
            x, score = branch.answer(z.index_select(1, mine), numbers[mine] == region)
            answers.offer(mine, x, score)


def _near_others(
    regions: _Regions, numbers: torch.Tensor, flat: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The points near which another region than their own lands, and their flat voxels."""
    low, high = (torch.from_numpy(a) for a in regions.range_landed())
    inside = flat >= 0
    at = flat.clamp(min=0)
    lowest, highest = low[at], high[at]
    other = (lowest != numbers) | (highest != numbers)
    mixed = torch.nonzero(inside & other & (highest >= 0)).squeeze(1)
    return mixed, flat[mixed]


class _Branch:
    """The field of one region, continued outside it, on its padded box."""

    PAD = 3

    def __init__(self, vox: torch.Tensor, regions: _Regions, region: int, count: int) -> None:
        box = tuple(
            slice(max(0, s.start - self.PAD), min(n, s.stop + self.PAD))
            for s, n in zip(regions.boxes[region], vox.shape[1:], strict=True)
        )
        self.mask = regions.mask(region, box)
        self.corner = vox.new_tensor([s.start for s in box]).unsqueeze(1)
        self.solver = _Solver(_extended(vox[(slice(None), *box)], self.mask), count)

    def answer(self, z: torch.Tensor, is_own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The branch's answer (rank, n) for each point, and its score (n,)."""
        x, residual = self.solver.solve(z - self.corner)
        valid = (residual < TOLERANCE_VOX) & sample_nearest(self.mask, x)
        score = torch.where(is_own, 0.0, 1.0)
        out = ~valid
        if bool(out.any()):
            # An answer as far outside its region as another: the own label's is preferred.
            far = 2.9 - 0.9 * self._close(x[:, out]) - torch.where(is_own[out], 0.01, 0.0)
            score[out] = torch.where(residual[out] < TOLERANCE_VOX, far, 3.0)
        return x + self.corner, score

    def _close(self, x: torch.Tensor) -> torch.Tensor:
        """From 1 deep inside the region to 0 far outside: a blurred mask, linear at a plane."""
        blurred = self.mask.float().unsqueeze(0)
        for axis in range(1, blurred.ndim):
            blurred = _box_blur(blurred, axis, radius=2)
        return sample(blurred, x)[0]


def _settle(
    answers: _Answers, vox: torch.Tensor, z: torch.Tensor, regions: _Regions | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Polish what the whole field can answer, follow ITK's rule outside the grid, name the rest."""
    shape = vox.shape[1:]
    mixed = regions.interface() if regions is not None else None
    status = torch.empty(z.shape[1], dtype=torch.int8)

    def settle_part(part: slice) -> None:
        x, goal = answers.x[:, part], z[:, part]
        inside = _inside(x, shape)
        found = answers.score[part] < 2
        if mixed is not None:
            found |= _polish(vox, x, goal, inside & (~found | sample_nearest(mixed, x)))
        # Outside the grid u is zero, so x = z is the exact answer where z is outside too.
        alone = ~found & ~_inside(goal, shape)
        x[:, alone] = goal[:, alone]
        state = torch.where(found, int(InverseStatus.OK), int(InverseStatus.GAP))
        state[answers.overlap[part] & found] = int(InverseStatus.OVERLAP)
        state[alone | ~inside] = int(InverseStatus.OUTSIDE)
        status[part] = state.to(torch.int8)

    _in_parallel(z.shape[1], settle_part)
    return answers.x, status


def _polish(
    vox: torch.Tensor, x: torch.Tensor, z: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Improve ``x`` in place where the whole field is smooth; (n,) bool: which are now exact.

    Across a glued interface the whole field is better than a region's continuation. Where it
    jumps, these steps do not converge, or walk away, and the branch's answer stays.
    """
    exact = torch.zeros_like(wanted)
    todo = torch.nonzero(wanted).squeeze(1)
    if len(todo) == 0:
        return exact
    begin = x.index_select(1, todo)
    refined, size = _fixed_point(vox, z.index_select(1, todo), begin, steps=8)
    good = (_length(refined - begin) < 1.0) & (size < CONVERGED_VOX)
    good &= _inside(refined, vox.shape[1:])
    x[:, todo[good]] = refined[:, good]
    exact[todo[good]] = True
    return exact


# --------------------------------------------------------------------------- solving one equation


class _Solver:
    """Solves x + u(x) = z for one smooth field u, which repeats its border outside its box.

    Args:
        vox: (rank, *shape) field in voxels.
        count: how many points there will be. Many of them pay for a coarse inverse to start from.
    """

    def __init__(self, vox: torch.Tensor, count: int) -> None:
        self.vox = vox
        nodes = vox[0].numel() >> vox.shape[0]
        self.start = _coarse_inverse(vox, vox.shape[1:]) if count > nodes > COARSEST else None

    def solve(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The answers x (rank, n) of points z (rank, n), and (n,) bounds of their residuals."""
        return _solve_begun(self.vox, self.start, z)


def _coarse_inverse(vox: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Inverse displacement at about every second node of ``shape``, itself begun from coarser."""
    nodes = torch.Size([(n + 2) // 2 if n > 1 else 1 for n in shape])
    spans = [(n - 1) / max(c - 1, 1) for n, c in zip(vox.shape[1:], nodes, strict=True)]
    axes = [torch.arange(float(c)) * step for c, step in zip(nodes, spans, strict=True)]
    z = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(len(nodes), -1)
    start = _coarse_inverse(vox, nodes) if nodes.numel() > COARSEST else None
    x, _ = _solve_begun(vox, start, z)
    return (x - z).view(len(nodes), *nodes)


def _solve_begun(
    vox: torch.Tensor, start: torch.Tensor | None, z: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve, beginning from a coarse inverse where there is one."""
    x, residual = torch.empty_like(z), torch.empty(z.shape[1])
    scale = None if start is None else _node_scale(start, vox.shape[1:])

    def solve_part(part: slice) -> None:
        goal = z[:, part]
        if start is None or scale is None:
            begin = goal - sample(vox, goal)
        else:
            begin = goal + sample(start, goal * scale)
        x[:, part], residual[part] = _solve_from(vox, goal, begin)

    _in_parallel(z.shape[1], solve_part)
    return x, residual


def _in_parallel(count: int, work: Callable[[slice], None]) -> None:
    """Call ``work`` on runs of points; they must not share what they write."""
    parts = [slice(n, min(n + CHUNK_POINTS, count)) for n in range(0, count, CHUNK_POINTS)]
    workers = min(torch.get_num_threads(), len(parts))
    if workers < 2:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, parts):
            pass


def _node_scale(start: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """(rank, 1) nodes of a coarse inverse a voxel."""
    ratios = [(c - 1) / max(n - 1, 1) for c, n in zip(start.shape[1:], shape, strict=True)]
    return start.new_tensor(ratios).unsqueeze(1)


def _solve_from(
    vox: torch.Tensor, z: torch.Tensor, begin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    x, residual = _fixed_point(vox, z, begin, FIXED_POINT_STEPS)
    left = torch.nonzero(residual >= CONVERGED_VOX).squeeze(1)
    if len(left):
        x[:, left], residual[left] = _newton(vox, z[:, left], x[:, left])
    return x, residual


def _fixed_point(
    vox: torch.Tensor, z: torch.Tensor, begin: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Iterate x <- z - u(x) on the points that have not converged; the best iterate is kept.

    A point whose residual is below :data:`CONVERGED_VOX` takes one last step, which shrinks it.
    """
    step = z - begin - sample(vox, begin)
    size = _length(step)
    x, best = begin + step, size
    active = torch.nonzero(size >= CONVERGED_VOX).squeeze(1)
    now, goal = x.index_select(1, active), z.index_select(1, active)
    for _ in range(steps - 1):
        if len(active) == 0:
            break
        step = goal - now - sample(vox, now)
        size = _length(step)
        held = best.index_select(0, active)
        done = size < CONVERGED_VOX
        better = size < held
        now += torch.where(done, step, 0.0)
        gained = torch.nonzero(better).squeeze(1)
        x.index_copy_(1, active[gained], now.index_select(1, gained))
        best.index_copy_(0, active[gained], size[gained])
        # A point that got much worse diverges: its best iterate waits for Newton.
        going = torch.nonzero(~done & (size < 2 * held)).squeeze(1)
        active = active[going]
        now = (now + step).index_select(1, going)
        goal = goal.index_select(1, going)
    return x, best


def _length(vectors: torch.Tensor) -> torch.Tensor:
    # torch's vector_norm over a short first axis takes ten times as long.
    total = vectors[0].square()
    for component in vectors[1:]:
        total = total.addcmul(component, component)
    return total.sqrt_()


def _newton(
    vox: torch.Tensor, z: torch.Tensor, start: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Newton's steps with differences over half a voxel, halved until the residual falls."""
    x = start.clone()
    residual = z - x - sample(vox, x)
    size = _length(residual)
    damping = torch.ones_like(size)
    for _ in range(NEWTON_STEPS):
        act = torch.nonzero((size >= CONVERGED_VOX) & (damping > 0.05)).squeeze(1)
        if len(act) == 0:
            break
        step = _newton_step(vox, x[:, act], residual[:, act])
        trial = x[:, act] + damping[act] * step
        left = z[:, act] - trial - sample(vox, trial)
        length = _length(left)
        better = length < size[act]
        kept = act[better]
        x[:, kept], residual[:, kept] = trial[:, better], left[:, better]
        size[kept] = length[better]
        damping[act] = torch.where(better, (2 * damping[act]).clamp(max=1.0), damping[act] / 2)
    return x, size


def _newton_step(vox: torch.Tensor, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    rank, half = x.shape[0], 0.25
    jacobian = torch.empty(x.shape[1], rank, rank)
    for axis in range(rank):
        shift = torch.zeros(rank, 1)
        shift[axis] = half
        slope = (sample(vox, x + shift) - sample(vox, x - shift)) / (2 * half)
        slope[axis] += 1
        jacobian[:, :, axis] = slope.T
    # A nearly singular Jacobian would throw the point far away: no step above 4 voxels.
    solved, _ = torch.linalg.solve_ex(jacobian, residual.T.unsqueeze(-1))
    step: torch.Tensor = solved.squeeze(-1).T.nan_to_num(0.0, 0.0, 0.0)
    return step * (4.0 / _length(step).clamp(min=4.0))


# ---------------------------------------------------------------------------------------- helpers


def _extended(vox: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Keep a field inside a mask and continue it smoothly outside, by averages of averages.

    Each level halves the grid, averaging what is known; what is unknown is read from the level
    below. The cost is a few passes over the box, whatever the distance to fill.
    """
    if bool(mask.all()):
        return vox.contiguous()
    kernel = [min(2, n) for n in mask.shape]
    pool = torch.nn.functional.avg_pool3d if mask.ndim == 3 else torch.nn.functional.avg_pool2d
    weight: torch.Tensor = pool(mask.float().unsqueeze(0), kernel, ceil_mode=True)
    coarse = pool(vox * mask, kernel, ceil_mode=True) / weight.clamp(min=1e-6)
    filled = _extended(coarse, weight[0] > 0)
    mode = "trilinear" if mask.ndim == 3 else "bilinear"
    fine = torch.nn.functional.interpolate(filled.unsqueeze(0), size=mask.shape, mode=mode)
    return torch.where(mask, vox, fine[0])


def _spread(array: NDArray[Any], combine: np.ufunc) -> NDArray[Any]:
    """Combine each voxel with its neighbours within one voxel, axis by axis."""
    for axis in range(array.ndim):
        result = array.copy()
        head = tuple(slice(None, -1) if a == axis else slice(None) for a in range(array.ndim))
        tail = tuple(slice(1, None) if a == axis else slice(None) for a in range(array.ndim))
        result[head] = combine(result[head], array[tail])
        result[tail] = combine(result[tail], array[head])
        array = result
    return array


def _box_blur(values: torch.Tensor, axis: int, radius: int) -> torch.Tensor:
    """Mean over 2 * radius + 1 voxels along one axis, zero outside."""
    size = values.shape[axis]
    total = values.clone()
    for shift in range(1, min(radius, size - 1) + 1):
        total.narrow(axis, 0, size - shift).add_(values.narrow(axis, shift, size - shift))
        total.narrow(axis, shift, size - shift).add_(values.narrow(axis, 0, size - shift))
    return total / (2 * radius + 1)


def _inside(index: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    size = index.new_tensor(list(shape)).unsqueeze(1)
    return ((index >= -0.5) & (index <= size - 0.5)).all(0)


def _flat_nearest(index: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """(n,) flat index of the nearest voxel, -1 outside."""
    flat = torch.zeros(index.shape[1], dtype=torch.int64)
    inside = torch.ones(index.shape[1], dtype=torch.bool)
    for axis, size in enumerate(shape):
        place = index[axis].round().long()
        inside &= (place >= 0) & (place < size)
        flat = flat.mul_(size).add_(place)
    return flat.masked_fill_(~inside, -1)


def _voxels(grid: Grid) -> Iterator[tuple[slice, torch.Tensor]]:
    """Runs of flat voxels with their indices (rank, n) in float64."""
    row = grid.voxel_count // grid.shape_zyx[0]
    rows = max(1, SLAB_VOXELS // row)
    for start in range(0, grid.shape_zyx[0], rows):
        stop = min(start + rows, grid.shape_zyx[0])
        axes = [torch.arange(start, stop, dtype=torch.float64)]
        axes += [torch.arange(n, dtype=torch.float64) for n in grid.shape_zyx[1:]]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(grid.rank, -1)
        yield slice(start * row, stop * row), index


def _apply(matrix: Matrix, index: torch.Tensor) -> torch.Tensor:
    rank = index.shape[0]
    wide = index.double()
    linear = torch.from_numpy(np.ascontiguousarray(matrix[:rank, :rank]))
    shift = torch.from_numpy(np.ascontiguousarray(matrix[:rank, rank])).unsqueeze(1)
    return (linear @ wide + shift).float()


def _labels_at(labels: LabelMap, points: Points) -> torch.Tensor:
    """(n,) int32 label of the nearest voxel, :data:`UNKNOWN` outside."""
    index = torch.from_numpy(apply_affine(labels.grid.lps_to_index, points.lps).T.copy())
    found = sample_nearest(labels.data.detach().cpu(), index)
    return torch.where(_inside(index, labels.data.shape), found, UNKNOWN).int()


def _labels_on(labels: LabelMap, grid: Grid) -> torch.Tensor:
    """(n,) int32 label at each voxel of a grid, flat."""
    if labels.grid.same_space(grid):
        return labels.data.detach().cpu().reshape(-1)
    matrix = labels.grid.lps_to_index @ grid.index_to_lps
    parts = []
    for _, index in _voxels(grid):
        at = _apply(matrix, index)
        found = sample_nearest(labels.data.detach().cpu(), at)
        parts.append(torch.where(_inside(at, labels.data.shape), found, UNKNOWN).int())
    return torch.cat(parts)
