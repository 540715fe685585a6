"""The hot loops in plain torch: the definition, the fallback, and what runs on a GPU.

No autograd and no scatter: gradients are analytic and everything is gathered, so the results are
deterministic on every device. Arrays have rank 3 (a picture has one slice).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from iterreg.kernels.contact import Contact

CHUNK_SAMPLES = 1_000_000
"""Samples handled at once, so that the gathered corners of all channels stay within 1 GB."""

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""The six entries of a symmetric 3 x 3 matrix, in the order (zz, zy, zx, yy, yx, xx)."""


@dataclass(frozen=True)
class IndexMap:
    """Fixed voxel i with displacement u lands on the moving index ``linear i + shift + from_mm u``.

    Args:
        linear: (3, 3), moving voxels per fixed voxel.
        shift: (3,), moving voxels.
        from_mm: (3, 3), moving voxels per mm along the fixed axes.
    """

    linear: Tensor
    shift: Tensor
    from_mm: Tensor

    def to_mm(self) -> Tensor:
        """(3, 3), mm along the fixed axes per moving voxel; nothing along an axis of length 1.

        Rounded, because linear algebra rounds by where its arguments lie in memory, and the same
        call has to give the same bytes.
        """
        inverse: Tensor = torch.linalg.pinv(self.from_mm.double().cpu())
        return torch.round(inverse, decimals=6).to(self.from_mm)

    def apply(self, voxels: Tensor, u_mm: Tensor) -> Tensor:
        """Moving indices (3, N) of fixed voxels (3, N) with displacements (3, N)."""
        return self.linear @ voxels + self.shift.unsqueeze(1) + self.from_mm @ u_mm


def sample_with_slope(volume: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Linear interpolation and its slope, the border repeated outside.

    Args:
        volume: (Z, Y, X, C), channels last.
        index: (3, N) voxel indices (z, y, x).

    Returns:
        values (N, C); slopes (3, N, C) per voxel, zero along an axis where the index is outside;
        and how far outside each index is, (3, N). An axis of length 1 has coordinate 0.
    """
    size = index.new_tensor(volume.shape[:3]).unsqueeze(1)
    inside = torch.minimum(index.clamp(min=0), size - 1)
    outside = torch.where(size > 1, index - inside, torch.zeros_like(index))
    first = torch.minimum(inside.floor(), (size - 2).clamp(min=0))
    (tz, ty, tx) = (inside - first).unsqueeze(-1)
    (iz, iy, ix) = first.long()
    (jz, jy, jx) = torch.minimum(first + 1, size - 1).long()
    _, ny, nx, channels = volume.shape
    flat = volume.reshape(-1, channels)

    def corner(z: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return flat[(z * ny + y) * nx + x]

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


def squared_difference(
    fixed: Tensor,
    moving: Tensor,
    voxels: Tensor,
    weights: Tensor,
    u_mm: Tensor,
    mapping: IndexMap,
    pull: float,
    gradient: Tensor,
    curvature: Tensor,
) -> Tensor:
    """Energy ``sum_n weight |moving(q) - fixed|^2``; adds half its gradient and its curvature.

    q is the moving index of fixed voxel n under ``u_mm``. Outside the moving image the cost is
    that of the nearest voxel inside plus ``pull`` times the squared distance in voxels, so
    leaving the image never pays.

    Args:
        fixed: (N, C) features of the samples. moving: (Z', Y', X', C) features.
        voxels: (N, 3) int32, the samples' fixed voxels, each at most once.
        weights: (N,), not negative.
        u_mm: (3, Z, Y, X), components (z, y, x), mm along the fixed grid's axes.
        mapping: from a fixed voxel and its displacement to a moving index.
        pull: energy per squared voxel outside.
        gradient: (3, Z, Y, X), added to. curvature: (6, Z, Y, X), Gauss-Newton's, added to.

    Returns:
        The energy, a float64 scalar.
    """
    energy = torch.zeros((), dtype=torch.float64, device=u_mm.device)
    flat_gradient, flat_curvature = gradient.view(3, -1), curvature.view(6, -1)
    _, _, ny, nx = u_mm.shape
    for first in range(0, len(voxels), CHUNK_SAMPLES):
        part = slice(first, first + CHUNK_SAMPLES)
        at = voxels[part].T
        flat = ((at[0] * ny + at[1]) * nx + at[2]).long()
        q = mapping.apply(at.to(u_mm.dtype), u_mm.view(3, -1)[:, flat])
        values, slopes, outside = sample_with_slope(moving, q)
        residual = values - fixed[part]
        g, h = normal_equations(residual, slopes, mapping.from_mm)
        pull_g, pull_h = _pull(outside, mapping.from_mm, pull)
        cost = residual.square().sum(-1) + pull * outside.square().sum(0)
        energy += (weights[part] * cost).sum(dtype=torch.float64)
        flat_gradient[:, flat] += weights[part] * (g + pull_g)
        flat_curvature[:, flat] += weights[part] * (h + pull_h)
    return energy


def _pull(outside: Tensor, from_mm: Tensor, pull: float) -> tuple[Tensor, Tensor]:
    """Gradient and curvature of ``pull |outside|^2 / 2``."""
    spill = (outside != 0).to(outside.dtype)
    curvature = [(from_mm[:, a] * from_mm[:, b]) @ spill for a, b in PAIRS]
    return pull * from_mm.T @ outside, pull * torch.stack(curvature)


def laplacian(v: Tensor, edges: Tensor) -> Tensor:
    """``L v``: for each voxel the sum over its edges of weight times difference.

    Args:
        v: (3, Z, Y, X).
        edges: (3, Z, Y, X), weight of the edge to the next voxel along each axis; last ones 0.
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


def add_contact(v: Tensor, contact: Contact, into: Tensor) -> Tensor:
    """Add ``C v`` to ``into`` and return ``v . C v``, a float64 scalar.

    Args:
        v: (3, Z, Y, X).
        contact: the edges C.
        into: (3, Z, Y, X), added to.
    """
    flat, out = v.view(3, -1), into.view(3, -1)
    total = torch.zeros((), dtype=torch.float64, device=v.device)
    for low, high, across in zip(contact.low, contact.high, contact.across, strict=True):
        jump = ((flat[:, high] - flat[:, low]) * across).sum(0)
        total += jump.square().sum(dtype=torch.float64)
        force = across * jump
        out[:, low] -= force
        out[:, high] += force
    return total


def edge_degree(edges: Tensor) -> Tensor:
    """Diagonal of the Laplacian, (Z, Y, X): the sum of the weights of a voxel's edges."""
    degree = edges.sum(0)
    for axis in range(3):
        n = edges.shape[axis + 1]
        if n > 1:
            degree.narrow(axis, 1, n - 1).add_(edges[axis].narrow(axis, 0, n - 1))
    return degree


def apply_blocks(blocks: Tensor, v: Tensor) -> Tensor:
    """Symmetric 3 x 3 blocks (6, ...) times vectors (3, ...)."""
    zz, zy, zx, yy, yx, xx = blocks
    z, y, x = v
    rows = ((zz, zy, zx), (zy, yy, yx), (zx, yx, xx))
    return torch.stack([a * z + b * y + c * x for a, b, c in rows])


def invert_blocks(blocks: Tensor, diagonal: Tensor) -> Tensor:
    """``(blocks + diagonal I)^-1`` per voxel."""
    zz, zy, zx, yy, yx, xx = blocks
    zz, yy, xx = zz + diagonal, yy + diagonal, xx + diagonal
    a, b, c = yy * xx - yx * yx, zx * yx - zy * xx, zy * yx - zx * yy
    scale = 1 / (zz * a + zy * b + zx * c)
    rest = torch.stack((zz * xx - zx * zx, zy * zx - zz * yx, zz * yy - zy * zy))
    inverse: Tensor = torch.cat((torch.stack((a, b, c)), rest)) * scale
    return inverse


ROUNDING = 1e-3
"""Share of its trace that is added to a block's diagonal: a block of one strong direction has, in
float32, no inverse; its determinant is to stay well over 1e-7 of the trace's cube."""


def block_diagonal(curvature: Tensor, edges: Tensor, damping: float) -> Tensor:
    """(Z, Y, X), what the preconditioner adds to the diagonal of each voxel's curvature."""
    trace = curvature[0] + curvature[3] + curvature[5]
    return edge_degree(edges).add_(damping).add_(trace, alpha=ROUNDING)


def conjugate_gradient(
    curvature: Tensor,
    edges: Tensor,
    residual: Tensor,
    spans: Tensor,
    steps: int,
    damping: float,
    contact: Contact | None = None,
) -> Tensor:
    """Solve ``(curvature + L + C) step = residual`` roughly, with block preconditioning.

    A fixed number of steps, and no value leaves the device.

    Args:
        curvature: (6, Z, Y, X). edges: (3, Z, Y, X). residual: (3, Z, Y, X).
        spans: (Z * Y, 2) int32, first and one past the last voxel of each row that may move; the
            others stay.
        steps: conjugate-gradient steps.
        damping: added to the diagonal of the preconditioner, so that it can be inverted.
        contact: the edges C across sliding interfaces, or None.

    Returns:
        step (3, Z, Y, X).
    """
    diagonal = block_diagonal(curvature, edges, damping)
    blocks = invert_blocks(curvature, diagonal)
    if contact is not None:
        contact.precondition(curvature, diagonal, blocks)
    x = torch.arange(edges.shape[3], device=edges.device)
    first, last = spans.view(*edges.shape[1:3], 2, 1).unbind(2)
    blocks = blocks * ((x >= first) & (x < last))
    step = torch.zeros_like(residual)
    residual = residual.clone()
    preconditioned = apply_blocks(blocks, residual)
    direction = preconditioned.clone()
    old = (residual * preconditioned).sum()
    for _ in range(steps):
        product = apply_blocks(curvature, direction) + laplacian(direction, edges)
        if contact is not None:
            add_contact(direction, contact, product)
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
        affinity: (labels, labels), positive: a voxel without a corner of its own takes the rest.

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


def cost_volume(
    fixed: Tensor, moving: Tensor, nodes: Tensor, centre: Tensor, offsets: Tensor
) -> Tensor:
    """Squared feature difference of each node to each offset around its place, (N, K).

    Args:
        fixed: (z, y, x, C). moving: (Z, Y, X, C).
        nodes: (N, 3) indices into ``fixed``. centre: (N, 3) their places in ``moving``.
        offsets: (K, 3) voxels of ``moving``; places outside take the border's features.
    """
    here = fixed[tuple(nodes.T)]
    last = centre.new_tensor(moving.shape[:3]) - 1
    out = fixed.new_empty(len(nodes), len(offsets))
    for k, offset in enumerate(offsets):
        at = torch.minimum((centre + offset).clamp(min=0), last)
        out[:, k] = (here - moving[tuple(at.T)]).square().sum(-1)
    return out


def cheapest(cost: Tensor, offsets_mm: Tensor, at_mm: Tensor, coupling: float) -> Tensor:
    """Index of the offset with the least ``cost + coupling |offset - at|^2``, node by node."""
    chosen = []
    for part in range(0, len(cost), 8192):
        rows = slice(part, part + 8192)
        apart = (offsets_mm.unsqueeze(0) - at_mm[rows].unsqueeze(1)).square().sum(-1)
        chosen.append((cost[rows] + coupling * apart).argmin(1))
    return torch.cat(chosen)


def nearest_along(squared: Tensor, axis: int, costs: Tensor) -> Tensor:
    """The least of ``squared`` plus ``costs[k]`` over voxels k steps away on an axis.

    Args:
        squared: (Z, Y, X), squared distances so far.
        axis: 0, 1 or 2.
        costs: (K,), squared distance of k steps, from k = 0 on; fewer than the axis has voxels.
    """
    n = squared.shape[axis]
    nearest = squared.clone()
    for k, cost in enumerate(costs.tolist()[1:], 1):
        low, high = squared.narrow(axis, 0, n - k), squared.narrow(axis, k, n - k)
        ahead, behind = nearest.narrow(axis, 0, n - k), nearest.narrow(axis, k, n - k)
        torch.minimum(ahead, high + cost, out=ahead)
        torch.minimum(behind, low + cost, out=behind)
    return nearest


def self_similarity(
    volume: Tensor, first: Tensor, second: Tensor, radius: Tensor, clamp: tuple[float, float]
) -> Tensor:
    """``exp(-D / V)`` of patch distances D between pairs of shifted copies of a volume.

    Args:
        volume: (Z, Y, X).
        first, second: (P, 3) integer shifts of each pair.
        radius: (3,) half-width of the patch in voxels.
        clamp: V, the mean of D over the pairs, stays within these multiples of its image mean.

    Returns:
        (Z, Y, X, P), the largest entry of a voxel being 1.
    """
    distances = torch.stack(
        [
            _box_sum((_shifted(volume, a) - _shifted(volume, b)).square(), radius.tolist())
            for a, b in zip(first.tolist(), second.tolist(), strict=True)
        ],
        -1,
    )
    distances -= distances.min(-1, keepdim=True).values
    variance = distances.mean(-1, keepdim=True)
    typical = variance.mean(dtype=torch.float64).to(variance.dtype).clamp(min=1e-12)
    variance = torch.minimum(variance.clamp(min=0), typical * clamp[1])
    return torch.exp(-distances / torch.maximum(variance, typical * clamp[0]))


def _shifted(volume: Tensor, shift: list[int]) -> Tensor:
    for axis, amount in enumerate(shift):
        if amount:
            n = volume.shape[axis]
            at = torch.arange(n, device=volume.device).add(amount).clamp(0, n - 1)
            volume = volume.index_select(axis, at)
    return volume


def _box_sum(volume: Tensor, radius: list[int]) -> Tensor:
    for axis, reach in enumerate(radius):
        shift = [0, 0, 0]
        total = volume
        for amount in range(1, reach + 1):
            shift[axis] = amount
            total = total + _shifted(volume, shift)
            shift[axis] = -amount
            total = total + _shifted(volume, shift)
        volume = total
    return volume
