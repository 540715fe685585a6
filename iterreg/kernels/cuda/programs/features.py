"""Triton programs of features: self-similarity, the search's costs, distances, majorities."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _within(index, size):
    """An index moved to the border where it lies beyond."""
    return tl.minimum(tl.maximum(index, 0), size - 1)


@triton.jit
def patch_distances(
    copies, first, second, weights, out, partial, count, nz, ny, nx,
    WZ: tl.constexpr, WY: tl.constexpr, WX: tl.constexpr,
    P: tl.constexpr, PP: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Patch distances of all pairs less the least of their voxel; partial sums of their means.

    ``weights`` holds those of z, then of y, then of x.
    """
    n = tl.program_id(0) * B + tl.arange(0, B)
    p = tl.arange(0, PP)
    real = p < P
    z, y, x = (n // (ny * nx))[:, None], (n // nx % ny)[:, None], (n % nx)[:, None]
    mask = (n < count)[:, None] & real[None, :]
    one = tl.load(first + p, mask=real, other=0)[None, :].to(tl.int64) * count
    other = tl.load(second + p, mask=real, other=0)[None, :].to(tl.int64) * count
    total = tl.zeros((B, PP), tl.float32)
    for k in range(WZ * WY * WX):
        kz, ky, kx = k // (WY * WX), k // WX % WY, k % WX
        pz = _within(z + kz - WZ // 2, nz)
        py = _within(y + ky - WY // 2, ny)
        px = _within(x + kx - WX // 2, nx)
        at = (pz * ny + py) * nx + px
        apart = tl.load(copies + one + at, mask=mask, other=0.0) - tl.load(
            copies + other + at, mask=mask, other=0.0
        )
        weight = tl.load(weights + kz) * tl.load(weights + WZ + ky)
        total += weight * tl.load(weights + WZ + WY + kx) * apart * apart
    least = tl.min(tl.where(real[None, :], total, float("inf")), 1)
    total = tl.where(mask, total - least[:, None], 0.0)
    tl.store(out + n[:, None].to(tl.int64) * P + p[None, :], total, mask=mask)
    mean = tl.sum(total, 1) / P
    tl.store(partial + tl.program_id(0), tl.sum(mean.to(tl.float64), 0))


@triton.jit
def exponentiate(
    distances, out, typical, count, low, high, P: tl.constexpr, PP: tl.constexpr, B: tl.constexpr
):
    """``exp(-D / V)``; V, the voxel's mean, stays within ``low`` and ``high`` typical ones."""
    n = tl.program_id(0) * B + tl.arange(0, B)
    p = tl.arange(0, PP)
    mask = (n < count)[:, None] & (p < P)[None, :]
    at = n[:, None].to(tl.int64) * P + p[None, :]
    d = tl.load(distances + at, mask=mask, other=0.0)
    usual = tl.maximum(tl.load(typical).to(tl.float32), 1e-12)
    variance = tl.minimum(tl.maximum(tl.sum(d, 1) / P, usual * low), usual * high)
    tl.store(out + at, tl.exp(-d / variance[:, None]), mask=mask)


@triton.jit
def cost_volume(
    fixed, moving, nodes, centre, offsets, out, shifts, fy, fx, mz, my, mx,
    C: tl.constexpr, CP: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The squared difference of one node at a block of offsets."""
    node = tl.program_id(0)
    k = tl.program_id(1) * B + tl.arange(0, B)
    mask = k < shifts
    c = tl.arange(0, CP)
    real = c < C
    z, y, x = (
        tl.load(nodes + 3 * node),
        tl.load(nodes + 3 * node + 1),
        tl.load(nodes + 3 * node + 2),
    )
    here = tl.load(fixed + ((z * fy + y) * fx + x) * C + c, mask=real, other=0.0)
    pz = _within(tl.load(centre + 3 * node) + tl.load(offsets + 3 * k, mask=mask, other=0), mz)
    py = _within(
        tl.load(centre + 3 * node + 1) + tl.load(offsets + 3 * k + 1, mask=mask, other=0), my
    )
    px = _within(
        tl.load(centre + 3 * node + 2) + tl.load(offsets + 3 * k + 2, mask=mask, other=0), mx
    )
    at = ((pz * my + py) * mx + px) * C
    both = mask[:, None] & real[None, :]
    there = tl.load(moving + at[:, None] + c[None, :], mask=both, other=0.0)
    apart = tl.where(both, there - here[None, :], 0.0)
    tl.store(out + node.to(tl.int64) * shifts + k, tl.sum(apart * apart, 1), mask=mask)


@triton.jit
def cheapest(cost, offsets_mm, at_mm, out, coupling, shifts, B: tl.constexpr):
    """The index of a node's least ``cost + coupling |offset - at|^2``; the first one wins ties."""
    node = tl.program_id(0)
    az, ay, ax = (
        tl.load(at_mm + 3 * node),
        tl.load(at_mm + 3 * node + 1),
        tl.load(at_mm + 3 * node + 2),
    )
    best = tl.full((B,), float("inf"), tl.float32)
    where = tl.zeros((B,), tl.int32)
    for first in range(0, shifts, B):
        k = first + tl.arange(0, B)
        mask = k < shifts
        dz = tl.load(offsets_mm + 3 * k, mask=mask, other=0.0) - az
        dy = tl.load(offsets_mm + 3 * k + 1, mask=mask, other=0.0) - ay
        dx = tl.load(offsets_mm + 3 * k + 2, mask=mask, other=0.0) - ax
        value = tl.load(cost + node.to(tl.int64) * shifts + k, mask=mask, other=float("inf"))
        value += coupling * (dz * dz + dy * dy + dx * dx)
        better = value < best
        best = tl.where(better, value, best)
        where = tl.where(better, k, where)
    least = tl.min(best, 0)
    tl.store(out + node, tl.min(tl.where(best == least, where, shifts), 0).to(tl.int64))


@triton.jit(do_not_specialize=["parts"])
def nearest_along(squared, out, boxes, parts, step_cost, steps, count, B: tl.constexpr):
    """The least of ``squared`` plus the cost of k steps along an axis, both ways, box by box.

    ``boxes`` (3, parts) has the length of each box along the axis, its stride, and where it begins.
    """
    n = tl.program_id(0) * B + tl.arange(0, B)
    mask = n < count
    low, high = tl.zeros((B,), tl.int32), tl.zeros((B,), tl.int32) + parts
    # The box of each voxel is the last one that begins no later.
    left = parts
    while left > 1:
        middle = (low + high) // 2
        later = tl.load(boxes + 2 * parts + middle, mask=mask & (middle < parts), other=0) > n
        high = tl.where(later, middle, high)
        low = tl.where(later, low, middle)
        left = (left + 1) // 2
    size = tl.load(boxes + low, mask=mask, other=1)
    stride = tl.load(boxes + parts + low, mask=mask, other=1)
    place = (n - tl.load(boxes + 2 * parts + low, mask=mask, other=0)) // stride % size
    nearest = tl.load(squared + n, mask=mask, other=0.0)
    for k in range(1, steps + 1):
        cost = step_cost * (k * k)
        after, before = mask & (place + k < size), mask & (place >= k)
        ahead = tl.load(squared + n + k * stride, mask=after, other=float("inf"))
        behind = tl.load(squared + n - k * stride, mask=before, other=float("inf"))
        nearest = tl.minimum(nearest, tl.minimum(ahead, behind) + cost)
    tl.store(out + n, nearest, mask=mask)


@triton.jit
def _share_of(labels, wanted, first_z, shares_z, first_y, shares_y, first_x, shares_x,
              bz, by, bx, mask, nz, ny, nx, wz, wy, wx, B: tl.constexpr):  # fmt: skip
    """The share of each block that a label fills, and the next greater label in the block."""
    share = tl.zeros((B,), tl.float32)
    after = tl.full((B,), 2147483647, tl.int32)
    z0 = tl.load(first_z + bz, mask=mask, other=0)
    y0 = tl.load(first_y + by, mask=mask, other=0)
    x0 = tl.load(first_x + bx, mask=mask, other=0)
    for k in range(wz * wy * wx):
        i, j, m = k // (wy * wx), k // wx % wy, k % wx
        weight = tl.load(shares_z + bz * wz + i, mask=mask, other=0.0)
        weight *= tl.load(shares_y + by * wy + j, mask=mask, other=0.0)
        weight *= tl.load(shares_x + bx * wx + m, mask=mask, other=0.0)
        z, y, x = _within(z0 + i, nz), _within(y0 + j, ny), _within(x0 + m, nx)
        label = tl.load(labels + (z * ny + y) * nx + x, mask=mask, other=0)
        counts = weight > 0
        share += tl.where(label == wanted, weight, 0.0)
        after = tl.minimum(after, tl.where(counts & (label > wanted), label, 2147483647))
    return share, after


@triton.jit
def block_majority(
    labels, first_z, shares_z, first_y, shares_y, first_x, shares_x, out, count, by, bx,
    nz, ny, nx, wz, wy, wx, B: tl.constexpr,
):  # fmt: skip
    """The label that fills most of each block; labels are tried from the least to the greatest."""
    n = tl.program_id(0) * B + tl.arange(0, B)
    mask = n < count
    z, y, x = n // (by * bx), n // bx % by, n % bx
    most = tl.zeros((B,), tl.float32)
    winner = tl.zeros((B,), tl.int32)
    wanted = tl.full((B,), -1, tl.int32)
    left = 1
    while left > 0:
        share, after = _share_of(
            labels, wanted, first_z, shares_z, first_y, shares_y, first_x, shares_x,
            z, y, x, mask, nz, ny, nx, wz, wy, wx, B,
        )  # fmt: skip
        wins = share > most + 1e-6
        most = tl.where(wins, share, most)
        winner = tl.where(wins, wanted, winner)
        wanted = after
        left = tl.sum(tl.where(mask & (after < 2147483647), 1, 0), 0)
    tl.store(out + n, winner, mask=mask)


@triton.jit
def region_slope(
    labels, voxels, spacing, out, faces, nz, ny, nx, decay,
    RZ: tl.constexpr, RY: tl.constexpr, RX: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The smoothed slope of each voxel's own region, along z, y and x."""
    e = tl.program_id(0) * B + tl.arange(0, B)
    mask = e < faces
    n = tl.load(voxels + e, mask=mask, other=0)
    z, y, x = n // (ny * nx), n // nx % ny, n % nx
    own = tl.load(labels + n, mask=mask, other=0)
    WY: tl.constexpr = 2 * RY + 1
    WX: tl.constexpr = 2 * RX + 1
    sz, sy, sx = tl.zeros((B,), tl.float32), tl.zeros((B,), tl.float32), tl.zeros((B,), tl.float32)
    for k in range((2 * RZ + 1) * WY * WX):
        dz, dy, dx = k // (WY * WX) - RZ, k // WX % WY - RY, k % WX - RX
        at = (_within(z + dz, nz) * ny + _within(y + dy, ny)) * nx + _within(x + dx, nx)
        same = tl.load(labels + at, mask=mask, other=0) == own
        power = tl.zeros((B,), tl.float32) + decay * (dz * dz + dy * dy + dx * dx)
        share = tl.where(same, tl.exp(power), 0.0)
        sz += share * dz
        sy += share * dy
        sx += share * dx
    tl.store(out + e, sz / tl.load(spacing), mask=mask)
    tl.store(out + faces + e, sy / tl.load(spacing + 1), mask=mask)
    tl.store(out + 2 * faces + e, sx / tl.load(spacing + 2), mask=mask)
