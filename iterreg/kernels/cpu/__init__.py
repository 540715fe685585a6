"""The kernels on the CPU: loops that numba compiles, and plain torch if there is no loop.

Names and signatures are those of :mod:`iterreg.kernels.reference`, which defines them. The loops
stand in modules by what they do. A compiled loop takes C-contiguous NumPy views of torch tensors
one by one, because numba compiles for arrays and not for dataclasses; this module unpacks them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from iterreg.kernels import reference
from iterreg.kernels.blocks import correct_at_interfaces, preconditioner_diagonal
from iterreg.kernels.cpu import features, folds, linear_algebra, reach, sampling, upsampling
from iterreg.kernels.cpu._threads import set_threads as set_threads
from iterreg.kernels.reach import numbers
from iterreg.kernels.reference import (
    apply_blocks,
    edge_degree,
    folds_among,
    laplacian,
    normal_equations,
    outside_equations,
    sample_with_slope,
    squared_residuals,
    surroundings,
    unfold,
)
from iterreg.kernels.samples import SampleGroup, Samples
from iterreg.kernels.types import IndexMap, LinearSystem, NormalEquations, NormalJump, Workspace

__all__ = [
    "add_laplacian",
    "add_normal_jump",
    "apply_blocks",
    "block_majority",
    "cheapest",
    "conjugate_gradient",
    "cost_volume",
    "edge_degree",
    "folding_voxels",
    "folds_among",
    "laplacian",
    "mark_reached",
    "nearest_along",
    "normal_equations",
    "outside_equations",
    "region_slope",
    "sample_with_slope",
    "self_similarity",
    "squared_difference",
    "squared_differences",
    "squared_residuals",
    "surroundings",
    "unfold",
    "upsample",
]


def squared_difference(
    samples: Samples, u_mm: Tensor, mapping: IndexMap, into: NormalEquations
) -> Tensor:
    """See :func:`iterreg.kernels.reference.squared_difference`."""
    return _squared_difference(samples, u_mm, samples.own_map(mapping), into)


def _squared_difference(
    samples: Samples, u_mm: Tensor, mapping: IndexMap, into: NormalEquations
) -> Tensor:
    """The same, with a map to indices of the samples' own moving features."""
    energy = torch.zeros(-(-len(samples.voxels) // sampling.CHUNK_SAMPLES), dtype=torch.float64)
    what = (samples.fixed, samples.moving, samples.voxels, samples.weights, u_mm)
    where = (mapping.linear, mapping.shift, mapping.from_mm)
    sampling.squared_difference(
        len(energy),
        *[t.numpy() for t in (*what, *where)],
        _float32(samples.outside_weight),
        *[t.numpy() for t in (into.gradient, into.curvature, energy)],
    )
    return energy.sum()


def squared_differences(
    group: SampleGroup, u_mm: Tensor, mapping: IndexMap, into: NormalEquations
) -> Tensor:
    """See :func:`iterreg.kernels.reference.squared_differences`."""
    parts = zip(group.parts, group.own_maps(mapping), strict=True)
    return torch.stack([_squared_difference(part, u_mm, own, into) for part, own in parts]).sum()


def add_laplacian(v: Tensor, edges: Tensor, into: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.add_laplacian`."""
    row_dot = _one_per_row(v)
    linear_algebra.add_laplacian(len(row_dot), *[t.numpy() for t in (v, edges, into, row_dot)])
    return row_dot.sum()


def add_normal_jump(v: Tensor, jump: NormalJump, into: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.add_normal_jump`."""
    faces = jump.by_voxel
    chunks = -(-len(faces.voxels) // linear_algebra.CHUNK_VOXELS)
    energy = torch.zeros(chunks, dtype=torch.float64)
    operands = (v.view(3, -1), faces.voxels, *faces.by_rows, into.view(3, -1), energy)
    linear_algebra.add_normal_jump(chunks, *[t.numpy() for t in operands])
    return energy.sum()


def folding_voxels(total_vox: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.folding_voxels`; flat fields and NaN are left to it."""
    shape = total_vox.shape[1:]
    is_plain = total_vox.dtype == torch.float32 and bool(total_vox.sum().isfinite())
    if len(shape) < 3 or min(shape) < 2 or not is_plain:
        return reference.folding_voxels(total_vox)
    out = torch.empty(shape, dtype=torch.bool)
    folds.folding_voxels(shape[0] * shape[1], total_vox.contiguous().numpy(), out.numpy())
    return out


def conjugate_gradient(
    system: LinearSystem, residual: Tensor, steps: int, damping: float, workspace: Workspace
) -> Tensor:
    """See :func:`iterreg.kernels.reference.conjugate_gradient`.

    ``residual`` is overwritten, and the step lives in the workspace until the next call.
    """
    curvature, edges, active_rows = system.curvature, system.edges, system.active_rows.numpy()
    blocks = workspace.zeros("blocks", curvature, 6)
    step, product, preconditioned, direction = (
        workspace.zeros(name, residual)
        for name in ("step", "product", "preconditioned", "direction")
    )
    row_dot = _one_per_row(residual)
    rows = len(row_dot)
    diagonal = preconditioner_diagonal(system, damping)
    linear_algebra.invert_blocks(rows, curvature.numpy(), diagonal.numpy(), blocks.numpy())
    correct_at_interfaces(system, diagonal, blocks)
    along, rest = [t.numpy() for t in (step, direction, preconditioned)], preconditioned.numpy()
    remaining = [t.numpy() for t in (residual, product, blocks)]
    operator = [t.numpy() for t in (direction, edges, curvature)]

    def update(alpha: float) -> float:
        linear_algebra.cg_update(
            rows, *remaining, active_rows, _float32(alpha), rest, row_dot.numpy()
        )
        return float(row_dot.sum())

    alpha, beta, old = 0.0, 0.0, update(0.0)
    for number in range(steps):
        linear_algebra.cg_direction(rows, *along, active_rows, _float32(alpha), _float32(beta))
        linear_algebra.edge_product(rows, *operator, active_rows, product.numpy(), row_dot.numpy())
        length = float(row_dot.sum())
        if system.normal_jump is not None:
            length += float(add_normal_jump(direction, system.normal_jump, product))
        alpha = old / max(length, 1e-30)
        if number < steps - 1:
            new = update(alpha)
            beta, old = new / max(old, 1e-30), new
    return step.add_(direction, alpha=alpha)


def upsample(
    coarse: Tensor,
    coarse_labels: Tensor,
    fine_labels: Tensor,
    scale: Tensor,
    shift: Tensor,
    affinity: Tensor,
) -> Tensor:
    """See :func:`iterreg.kernels.reference.upsample`."""
    out = coarse.new_empty(coarse.shape[0], *fine_labels.shape)
    arrays = (coarse, coarse_labels, fine_labels, scale, shift, affinity, out)
    upsampling.upsample(math.prod(fine_labels.shape[:2]), *[t.contiguous().numpy() for t in arrays])
    return out


def cost_volume(
    fixed: Tensor, moving: Tensor, nodes: Tensor, centre: Tensor, offsets: Tensor
) -> Tensor:
    """See :func:`iterreg.kernels.reference.cost_volume`."""
    out = fixed.new_empty(len(nodes), len(offsets))
    features.cost_volume(
        len(nodes), *[t.numpy() for t in (fixed, moving, nodes, centre, offsets, out)]
    )
    return out


def cheapest(cost: Tensor, offsets_mm: Tensor, at_mm: Tensor, coupling: float) -> Tensor:
    """See :func:`iterreg.kernels.reference.cheapest`."""
    out = torch.empty(len(cost), dtype=torch.int64)
    arrays = [t.numpy() for t in (cost, offsets_mm, at_mm)]
    features.cheapest(len(cost), *arrays, _float32(coupling), out.numpy())
    return out


def block_majority(labels: Tensor, axes: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """See :func:`iterreg.kernels.reference.block_majority`."""
    out = torch.empty([len(first) for first, _ in axes], dtype=torch.int32)
    tables = [t.numpy() for axis in axes for t in axis]
    count, rows = int(labels.max()) + 1, math.prod(out.shape[:2])
    features.block_majority(rows, labels.contiguous().numpy(), count, *tables, out.numpy())
    return out


def region_slope(
    labels: Tensor, voxels: Tensor, reach: int, sigma: float, spacing_zyx_mm: tuple[float, ...]
) -> Tensor:
    """See :func:`iterreg.kernels.reference.region_slope`."""
    steps = torch.arange(-reach, reach + 1).square()
    squared = steps.view(-1, 1, 1) + steps.view(-1, 1) + steps
    shares = torch.exp(-squared / (2 * sigma**2))
    out = torch.empty(3, len(voxels))
    arrays = (labels.contiguous(), voxels, shares, torch.tensor(spacing_zyx_mm), out)
    features.region_slope(len(voxels), *[t.numpy() for t in arrays])
    return out


def mark_reached(region: Tensor, mapped: Tensor, goal: Tensor, reached: Tensor) -> None:
    """See :func:`iterreg.kernels.reference.mark_reached`."""
    arrays = (region.contiguous(), numbers(mapped).contiguous(), goal.contiguous(), reached)
    reach.mark_reached(region.numel(), *[t.numpy() for t in arrays])


def nearest_along(
    squared: Tensor, shapes: Sequence[tuple[int, ...]], axis: int, costs: Tensor
) -> Tensor:
    """See :func:`iterreg.kernels.reference.nearest_along`."""
    out, first = torch.empty_like(squared), 0
    for shape in shapes:
        part = slice(first, first + math.prod(shape))
        boxes = [t[part].view(shape).numpy() for t in (squared, out)]
        features.nearest_along(
            math.prod(shape[:2]), boxes[0], axis, costs[: shape[axis]].numpy(), boxes[1]
        )
        first = part.stop
    return out


def self_similarity(
    copies: Tensor,
    first: Tensor,
    second: Tensor,
    patch: Sequence[Tensor],
    clamp: tuple[float, float],
) -> Tensor:
    """See :func:`iterreg.kernels.reference.self_similarity`."""
    shape = copies.shape[1:]
    out = copies.new_empty(*shape, len(first))
    row_sum = torch.empty(shape[0] * shape[1], dtype=torch.float64)
    arrays = (copies.contiguous(), first, second, *(w.float() for w in patch), out, row_sum)
    features.patch_distances(shape[0], *[t.numpy() for t in arrays])
    typical = max(float(row_sum.sum()) / shape.numel(), 1e-12)
    features.exponentiate(
        len(row_sum), out.numpy(), _float32(typical * clamp[0]), _float32(typical * clamp[1])
    )
    return out


def _one_per_row(v: Tensor) -> Tensor:
    """(Z * Y,) float64, a partial sum for each row of (C, Z, Y, X)."""
    return torch.empty(v.shape[1] * v.shape[2], dtype=torch.float64)


def _float32(number: float) -> object:
    """A float32 scalar: numba would widen the whole loop to float64 for a Python float."""
    return np.float32(number)
