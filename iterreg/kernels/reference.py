"""The kernels in plain torch: their definition, and the fallback on every device.

Nothing here uses autograd or scatters: gradients are analytic and values are gathered, so the
results are deterministic on every device. Arrays have rank 3: a picture has one slice.

Longer than 300 lines because it is the contract of all backends; what runs over whole volumes
stands in :mod:`iterreg.kernels.volumes`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.kernels.blocks import (
    apply_blocks,
    correct_at_interfaces,
    edge_degree,
    invert_blocks,
    preconditioner_diagonal,
)
from iterreg.kernels.lattice import folds_among, surroundings, unfold
from iterreg.kernels.reach import mark_reached
from iterreg.kernels.samples import SampleGroup, Samples
from iterreg.kernels.types import (
    PAIRS,
    IndexMap,
    LinearSystem,
    NormalEquations,
    NormalJump,
    Workspace,
)
from iterreg.kernels.volumes import (
    block_majority,
    cheapest,
    cost_volume,
    folding_voxels,
    nearest_along,
    region_slope,
    self_similarity,
)

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

CHUNK_SAMPLES = 1_000_000
"""So many samples are handled at once: the gathered corners of all channels stay within 1 GB."""


def sample_with_slope(volume: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Linear interpolation and its slope, the border repeated outside.

    Args:
        volume: (Z, Y, X, C), channels last.
        index: (3, N) voxel indices (z, y, x).

    Returns:
        values (N, C); slopes (3, N, C) per voxel, zero along an axis where the index is outside;
        and how far outside each index is, (3, N). An axis of length 1 has coordinate 0. An index
        that is no number gives none.

    Example:
        >>> ramp = torch.arange(4.0).view(1, 1, 4, 1)
        >>> values, slopes, outside = sample_with_slope(ramp, torch.tensor([[0.0], [0.0], [1.5]]))
        >>> values.item(), slopes[2].item(), outside.flatten().tolist()
        (1.5, 1.0, [0.0, 0.0, 0.0])
    """
    size = index.new_tensor(volume.shape[:3]).unsqueeze(1)
    inside = torch.minimum(index.clamp(min=0), size - 1)
    outside = torch.where(size > 1, index - inside, torch.zeros_like(index))
    first = torch.minimum(inside.floor(), (size - 2).clamp(min=0)).nan_to_num()
    (tz, ty, tx) = (inside - first).unsqueeze(-1)
    (iz, iy, ix) = first.long()
    (jz, jy, jx) = torch.minimum(first + 1, size - 1).long()
    _, ny, nx, channels = volume.shape
    flat = volume.reshape(-1, channels)

    def corner(z: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return flat[(z * ny + y) * nx + x].to(index.dtype)

    sx, sy, sz = 1 - tx, 1 - ty, 1 - tz
    v000, v001 = corner(iz, iy, ix), corner(iz, iy, jx)
    v010, v011 = corner(iz, jy, ix), corner(iz, jy, jx)
    v100, v101 = corner(jz, iy, ix), corner(jz, iy, jx)
    v110, v111 = corner(jz, jy, ix), corner(jz, jy, jx)
    e00, e01 = v000 * sx + v001 * tx, v010 * sx + v011 * tx
    e10, e11 = v100 * sx + v101 * tx, v110 * sx + v111 * tx
    low, high = e00 * sy + e01 * ty, e10 * sy + e11 * ty
    front = (v001 - v000) * sy + (v011 - v010) * ty
    back = (v101 - v100) * sy + (v111 - v110) * ty
    slopes = torch.stack((high - low, (e01 - e00) * sz + (e11 - e10) * tz, front * sz + back * tz))
    slopes = slopes * (outside == 0).unsqueeze(-1)
    return low * sz + high * tz, slopes, outside


def normal_equations(residual: Tensor, slopes: Tensor, from_mm: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Newton gradient and curvature of ``sum_c residual_c^2 / 2``.

    Args:
        residual: (N, C).
        slopes: (3, N, C), of the residual, per voxel of the moving image.
        from_mm: (3, 3), moving voxels per mm of displacement.

    Returns:
        gradient (3, N) and curvature (6, N) for a displacement in mm.
    """
    jacobian = torch.einsum("jk,jnc->knc", from_mm, slopes)
    gradient = (jacobian * residual).sum(-1)
    curvature = torch.stack([(jacobian[a] * jacobian[b]).sum(-1) for a, b in PAIRS])
    return gradient, curvature


def outside_equations(
    outside: Tensor, from_mm: Tensor, outside_weight: float
) -> tuple[Tensor, Tensor]:
    """Gradient and curvature of ``outside_weight |outside|^2 / 2``.

    Args:
        outside: (3, N), voxels outside the moving image, as :func:`sample_with_slope` returns.
        from_mm: (3, 3), moving voxels per mm of displacement.
        outside_weight: energy per squared voxel.

    Returns:
        gradient (3, N) and curvature (6, N) for a displacement in mm.
    """
    is_outside = (outside != 0).to(outside.dtype)
    curvature = [(from_mm[:, a] * from_mm[:, b]) @ is_outside for a, b in PAIRS]
    return outside_weight * from_mm.T @ outside, outside_weight * torch.stack(curvature)


def squared_difference(
    samples: Samples, u_mm: Tensor, mapping: IndexMap, into: NormalEquations
) -> Tensor:
    """Energy ``sum_n weight |moving(q) - fixed|^2``; adds half its gradient and its curvature.

    q is the moving index of fixed voxel n under ``u_mm``. Outside the moving image the cost is
    that of the nearest voxel inside plus ``outside_weight`` times the squared distance in voxels,
    so that leaving the image never pays.

    Args:
        samples: what is compared.
        u_mm: (3, Z, Y, X), components (z, y, x), mm along the fixed grid's axes.
        mapping: from a fixed voxel and its displacement to a moving index.
        into: the equations that gradient and Gauss-Newton curvature are added to.

    Returns:
        The energy, a float64 scalar.
    """
    return _squared_difference(samples, u_mm, samples.own_map(mapping), into)


def _squared_difference(
    samples: Samples, u_mm: Tensor, mapping: IndexMap, into: NormalEquations
) -> Tensor:
    """The same, with a map to indices of the samples' own moving features."""
    energy = torch.zeros((), dtype=torch.float64, device=u_mm.device)
    gradient, curvature = into.gradient.view(3, -1), into.curvature.view(6, -1)
    _, _, ny, nx = u_mm.shape
    for first in range(0, len(samples.voxels), CHUNK_SAMPLES):
        part = slice(first, first + CHUNK_SAMPLES)
        at, weights = samples.voxels[part].T, samples.weights[part]
        flat = ((at[0] * ny + at[1]) * nx + at[2]).long()
        q = mapping.apply(at.to(u_mm.dtype), u_mm.view(3, -1)[:, flat])
        values, slopes, outside = sample_with_slope(samples.moving, q)
        residual = values - samples.fixed[part].to(values.dtype)
        g, h = normal_equations(residual, slopes, mapping.from_mm)
        outside_g, outside_h = outside_equations(outside, mapping.from_mm, samples.outside_weight)
        cost = residual.square().sum(-1) + samples.outside_weight * outside.square().sum(0)
        energy += (weights * cost).sum(dtype=torch.float64)
        gradient[:, flat] += weights * (g + outside_g)
        curvature[:, flat] += weights * (h + outside_h)
    return energy


def squared_differences(
    group: SampleGroup, u_mm: Tensor, mapping: IndexMap, into: NormalEquations
) -> Tensor:
    """The sum of :func:`squared_difference` over the parts of a group."""
    parts = zip(group.parts, group.own_maps(mapping), strict=True)
    return torch.stack([_squared_difference(part, u_mm, own, into) for part, own in parts]).sum()


def squared_residuals(group: SampleGroup, u_mm: Tensor, mapping: IndexMap) -> Tensor:
    """``|moving(q) - fixed|^2`` of each sample of a group, (N,), part after part.

    Args:
        group: the samples.
        u_mm, mapping: as for :func:`squared_difference`.
    """
    found = []
    for part, own in zip(group.parts, group.own_maps(mapping), strict=True):
        z, y, x = part.voxels.long().T
        q = own.apply(part.voxels.T.to(u_mm.dtype), u_mm[:, z, y, x])
        values, _, _ = sample_with_slope(part.moving, q)
        found.append((values - part.fixed).square().sum(-1))
    return torch.cat(found)


def laplacian(v: Tensor, edges: Tensor) -> Tensor:
    """``L v``: for each voxel the sum over its edges of weight times difference.

    Args:
        v: (C, Z, Y, X).
        edges: (3, Z, Y, X), the weight of the edge to the next voxel along each axis, 0 at the
            last one.

    Example:
        >>> edges = torch.zeros(3, 1, 1, 3)
        >>> edges[2, 0, 0, :2] = 1.0
        >>> laplacian(torch.tensor([[[[0.0, 1.0, 0.0]]]]), edges).flatten()
        tensor([-1.,  2., -1.])
    """
    out = torch.zeros_like(v)
    for axis in range(3):
        n = v.shape[axis + 1]
        if n == 1:
            continue
        low, high = v.narrow(axis + 1, 0, n - 1), v.narrow(axis + 1, 1, n - 1)
        flow = edges[axis].narrow(axis, 0, n - 1) * (high - low)
        out.narrow(axis + 1, 0, n - 1).sub_(flow)
        out.narrow(axis + 1, 1, n - 1).add_(flow)
    return out


def add_laplacian(v: Tensor, edges: Tensor, into: Tensor) -> Tensor:
    """Add ``L v`` to ``into`` and return ``v . L v``, a float64 scalar.

    Args:
        v: (3, Z, Y, X).
        edges: (3, Z, Y, X), as for :func:`laplacian`.
        into: (3, Z, Y, X), added to.
    """
    force = laplacian(v, edges)
    into += force
    return torch.dot(v.flatten(), force.flatten()).double()


def add_normal_jump(v: Tensor, jump: NormalJump, into: Tensor) -> Tensor:
    """Add ``J v`` to ``into`` and return ``v . J v``, the squared normal jumps, a float64 scalar.

    Args:
        v: (3, Z, Y, X).
        jump: the faces, and the direction that counts at each.
        into: (3, Z, Y, X), added to.
    """
    flat, out = v.view(3, -1), into.view(3, -1)
    total = torch.zeros((), dtype=torch.float64, device=v.device)
    for low, high, across in zip(jump.low, jump.high, jump.across, strict=True):
        normal = ((flat[:, high] - flat[:, low]) * across).sum(0)
        total += normal.square().sum(dtype=torch.float64)
        force = across * normal
        out[:, low] -= force
        out[:, high] += force
    return total


def conjugate_gradient(
    system: LinearSystem, residual: Tensor, steps: int, damping: float, workspace: Workspace
) -> Tensor:
    """Solve ``system step = residual`` roughly, with block preconditioning.

    The number of steps is fixed, and no value leaves the device. A backend may overwrite
    ``residual``, and may keep the step in the workspace until its next call.

    Args:
        system: the matrix.
        residual: (3, Z, Y, X), the right side.
        steps: conjugate-gradient steps.
        damping: added to the diagonal of the preconditioner, so that it can be inverted.
        workspace: memory that a backend may use again; this one takes none.

    Returns:
        step (3, Z, Y, X).
    """
    curvature, edges = system.curvature, system.edges
    diagonal = preconditioner_diagonal(system, damping)
    blocks = invert_blocks(curvature, diagonal)
    correct_at_interfaces(system, diagonal, blocks)
    x = torch.arange(edges.shape[3], device=edges.device)
    first, last = system.active_rows.view(*edges.shape[1:3], 2, 1).unbind(2)
    blocks = blocks * ((x >= first) & (x < last))
    step = torch.zeros_like(residual)
    residual = residual.clone()
    preconditioned = apply_blocks(blocks, residual)
    direction = preconditioned.clone()
    old = (residual * preconditioned).sum()
    for _ in range(steps):
        product = apply_blocks(curvature, direction) + laplacian(direction, edges)
        if system.normal_jump is not None:
            add_normal_jump(direction, system.normal_jump, product)
        alpha = old / (direction * product).sum().clamp(min=1e-30)
        step += alpha * direction
        residual -= alpha * product
        preconditioned = apply_blocks(blocks, residual)
        new = (residual * preconditioned).sum()
        direction = preconditioned + (new / old.clamp(min=1e-30)) * direction
        old = new
    return step


def upsample(
    coarse: Tensor,
    coarse_labels: Tensor,
    fine_labels: Tensor,
    scale: Tensor,
    shift: Tensor,
    affinity: Tensor,
) -> Tensor:
    """Label-aware linear interpolation of a coarse field on a fine grid.

    Each of the eight coarse corners counts by its linear weight times the affinity of its label
    to the fine voxel's, so that nothing leaks across an interface that slides.

    Args:
        coarse: (C, z, y, x). coarse_labels: (z, y, x) compact labels.
        fine_labels: (Z, Y, X) compact labels.
        scale, shift: (3,), coarse index = scale * fine index + shift, axis by axis.
        affinity: (labels, labels), positive, so that a voxel without a corner of its own label
            still takes a value.

    Returns:
        (C, Z, Y, X).
    """
    axes = []
    for axis in range(3):
        n = coarse.shape[axis + 1]
        at = torch.arange(fine_labels.shape[axis], device=coarse.device, dtype=coarse.dtype)
        at = (scale[axis] * at + shift[axis]).clamp(0, n - 1)
        low = at.floor()
        axes.append((low.long(), (low.long() + 1).clamp(max=n - 1), at - low))
    total = coarse.new_zeros(coarse.shape[0], *fine_labels.shape)
    mass = coarse.new_zeros(fine_labels.shape)
    fine = fine_labels.long()
    for corner in range(8):
        bits = (corner >> 2, (corner >> 1) & 1, corner & 1)
        iz, iy, ix = (axes[k][bit] for k, bit in enumerate(bits))
        wz, wy, wx = (axes[k][2] if bit else 1 - axes[k][2] for k, bit in enumerate(bits))
        there = coarse_labels[iz][:, iy][:, :, ix].long()
        weight = wz[:, None, None] * wy[None, :, None] * wx * affinity[fine, there]
        mass += weight
        total += weight * coarse[:, iz][:, :, iy][:, :, :, ix]
    return total / mass
