"""Solve x + u(x) = z for one smooth field u, at many points z.

Fixed-point steps x <- z - u(x) are cheap and enough for most points. The points they leave take
damped Newton steps. If there are many points, they start from a coarse inverse of the field.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from iterreg.sampling import sample

CONVERGED_VOX = 0.005
"""Residual at which a point takes its last step: that step leaves |grad u| times as much."""

FIXED_POINT_STEPS = 12
"""Enough where |grad u| < 0.6."""

NEWTON_STEPS = 20
"""Most damped Newton steps; they end early when every point has converged."""

LEAST_DAMPING = 0.05
"""Newton gives a point up when its step has been halved to less than this."""

LARGEST_STEP_VOX = 4.0
"""A nearly singular Jacobian would throw the point far away, so Newton's steps are cut to this."""

SLOPE_REACH_VOX = 0.25
"""Newton's Jacobian is a difference over this distance to both sides."""

CHUNK_POINTS = 10_000
"""Points that iterate together. Chunks of this size stay in the cache, and torch does not split
operations on them among threads. The chunks run in parallel instead, which is faster on a busy
machine."""

COARSEST_NODES = 20_000
"""Coarse inverses with fewer nodes than this are solved without a coarser one."""


class FieldSolver:
    """Solves x + u(x) = z for one smooth field u, which repeats its border outside its box.

    Args:
        vox: (rank, *shape) field in voxels.
        count: how many points there will be. Many of them pay for a coarse inverse.

    Example:
        >>> x, residual = FieldSolver(torch.full((2, 4, 5), 0.5), 1).solve(torch.ones(2, 1))
        >>> x.flatten().tolist()
        [0.5, 0.5]
    """

    def __init__(self, vox: Tensor, count: int) -> None:
        self._vox = vox
        nodes = vox[0].numel() >> vox.shape[0]
        many = count > nodes > COARSEST_NODES
        self._coarse = _coarse_inverse(vox, vox.shape[1:]) if many else None

    def solve(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The answers x (rank, n) of points z (rank, n), and (n,) bounds of their residuals."""
        return _solve_from_coarse(self._vox, self._coarse, z)


def fixed_point(vox: Tensor, z: Tensor, begin: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Iterate x <- z - u(x) on the points that have not converged, and keep the best iterate.

    A point whose residual is below :data:`CONVERGED_VOX` takes one last step, which shrinks it.

    Args:
        vox: (rank, *shape) field u in voxels.
        z: (rank, n) goals.
        begin: (rank, n) first iterates.
        steps: most steps.

    Returns:
        x (rank, n), and (n,) the residual before each point's last step.
    """
    step = z - begin - sample(vox, begin)
    size = norm(step)
    x, best = begin + step, size
    active = torch.nonzero(size >= CONVERGED_VOX).squeeze(1)
    now, goal = x.index_select(1, active), z.index_select(1, active)
    for _ in range(steps - 1):
        if len(active) == 0:
            break
        step = goal - now - sample(vox, now)
        size = norm(step)
        best_so_far = best.index_select(0, active)
        done = size < CONVERGED_VOX
        better = size < best_so_far
        now += torch.where(done, step, 0.0)
        gained = torch.nonzero(better).squeeze(1)
        x.index_copy_(1, active[gained], now.index_select(1, gained))
        best.index_copy_(0, active[gained], size[gained])
        # A point that got much worse diverges: its best iterate waits for Newton.
        going = torch.nonzero(~done & (size < 2 * best_so_far)).squeeze(1)
        active = active[going]
        now = (now + step).index_select(1, going)
        goal = goal.index_select(1, going)
    return x, best


def in_parallel(count: int, work: Callable[[slice], None]) -> None:
    """Call ``work`` on chunks of ``count`` points; they must not share what they write."""
    parts = [slice(n, min(n + CHUNK_POINTS, count)) for n in range(0, count, CHUNK_POINTS)]
    workers = min(torch.get_num_threads(), len(parts))
    if workers < 2:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, parts):
            pass


def norm(vectors: Tensor) -> Tensor:
    """Euclidean norm over the first axis. torch's own takes ten times as long on a short one."""
    total = vectors[0].square()
    for component in vectors[1:]:
        total = total.addcmul(component, component)
    return total.sqrt_()


def _coarse_inverse(vox: Tensor, shape: torch.Size) -> Tensor:
    """Inverse displacement at about every second node of ``shape``, from coarser ones in turn."""
    nodes = torch.Size([(n + 2) // 2 if n > 1 else 1 for n in shape])
    strides = [(n - 1) / max(c - 1, 1) for n, c in zip(vox.shape[1:], nodes, strict=True)]
    axes = [torch.arange(float(c)) * step for c, step in zip(nodes, strides, strict=True)]
    z = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(len(nodes), -1)
    coarser = _coarse_inverse(vox, nodes) if nodes.numel() > COARSEST_NODES else None
    x, _ = _solve_from_coarse(vox, coarser, z)
    return (x - z).view(len(nodes), *nodes)


def _solve_from_coarse(vox: Tensor, coarse: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor]:
    """Solve from a coarse inverse, or from z - u(z) if there is none."""
    x, residual = torch.empty_like(z), torch.empty(z.shape[1])
    scale = None if coarse is None else _nodes_per_voxel(coarse, vox.shape[1:])

    def solve_part(part: slice) -> None:
        goal = z[:, part]
        if coarse is None or scale is None:
            begin = goal - sample(vox, goal)
        else:
            begin = goal + sample(coarse, goal * scale)
        x[:, part], residual[part] = _solve_chunk(vox, goal, begin)

    in_parallel(z.shape[1], solve_part)
    return x, residual


def _nodes_per_voxel(coarse: Tensor, shape: torch.Size) -> Tensor:
    """(rank, 1) ratio of a coarse inverse's nodes to a field's voxels."""
    ratios = [(c - 1) / max(n - 1, 1) for c, n in zip(coarse.shape[1:], shape, strict=True)]
    return coarse.new_tensor(ratios).unsqueeze(1)


def _solve_chunk(vox: Tensor, z: Tensor, begin: Tensor) -> tuple[Tensor, Tensor]:
    x, residual = fixed_point(vox, z, begin, FIXED_POINT_STEPS)
    left = torch.nonzero(residual >= CONVERGED_VOX).squeeze(1)
    if len(left):
        x[:, left], residual[left] = _newton(vox, z[:, left], x[:, left])
    return x, residual


def _newton(vox: Tensor, z: Tensor, begin: Tensor) -> tuple[Tensor, Tensor]:
    """Take Newton steps, each halved until the residual falls."""
    x = begin.clone()
    residual = z - x - sample(vox, x)
    size = norm(residual)
    damping = torch.ones_like(size)
    for _ in range(NEWTON_STEPS):
        active = torch.nonzero((size >= CONVERGED_VOX) & (damping > LEAST_DAMPING)).squeeze(1)
        if len(active) == 0:
            break
        step = _newton_step(vox, x[:, active], residual[:, active])
        trial = x[:, active] + damping[active] * step
        left = z[:, active] - trial - sample(vox, trial)
        length = norm(left)
        better = length < size[active]
        kept = active[better]
        x[:, kept], residual[:, kept] = trial[:, better], left[:, better]
        size[kept] = length[better]
        doubled, halved = (2 * damping[active]).clamp(max=1.0), damping[active] / 2
        damping[active] = torch.where(better, doubled, halved)
    return x, size


def _newton_step(vox: Tensor, x: Tensor, residual: Tensor) -> Tensor:
    rank = x.shape[0]
    jacobian = torch.empty(x.shape[1], rank, rank)
    for axis in range(rank):
        shift = torch.zeros(rank, 1)
        shift[axis] = SLOPE_REACH_VOX
        slope = (sample(vox, x + shift) - sample(vox, x - shift)) / (2 * SLOPE_REACH_VOX)
        slope[axis] += 1
        jacobian[:, :, axis] = slope.T
    solved, _ = torch.linalg.solve_ex(jacobian, residual.T.unsqueeze(-1))
    step: Tensor = solved.squeeze(-1).T.nan_to_num(0.0, 0.0, 0.0)
    return step * (LARGEST_STEP_VOX / norm(step).clamp(min=LARGEST_STEP_VOX))
