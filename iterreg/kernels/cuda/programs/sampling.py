"""Triton programs that sample the moving image: squared differences."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _axis(q, size):
    """Along an axis: the lower corner, the share of the upper one, and how far q is outside."""
    inside = tl.minimum(tl.maximum(q, 0.0), size - 1.0)
    low = tl.minimum(inside.to(tl.int32), tl.maximum(size - 2, 0))
    outside = tl.where(size > 1, q - inside, 0.0)
    return low, inside - low, outside


@triton.jit
def squared_difference(
    fixed, moving, voxels, weights, u, linear, shift, from_mm, gradient, curvature, partial,
    outside_weight, samples, count, ny, nx, mz, my, mx,
    C: tl.constexpr, CP: tl.constexpr, WIDE: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """A block of samples, a few channels at a time; no voxel is sampled twice."""
    n = tl.program_id(0) * B + tl.arange(0, B)
    mask = n < samples
    z = tl.load(voxels + 3 * n, mask=mask, other=0)
    y = tl.load(voxels + 3 * n + 1, mask=mask, other=0)
    x = tl.load(voxels + 3 * n + 2, mask=mask, other=0)
    flat = (z * ny + y) * nx + x
    weight = tl.load(weights + n, mask=mask, other=0.0)
    uz = tl.load(u + flat, mask=mask, other=0.0)
    uy = tl.load(u + count + flat, mask=mask, other=0.0)
    ux = tl.load(u + 2 * count + flat, mask=mask, other=0.0)
    m00, m01, m02 = tl.load(from_mm), tl.load(from_mm + 1), tl.load(from_mm + 2)
    m10, m11, m12 = tl.load(from_mm + 3), tl.load(from_mm + 4), tl.load(from_mm + 5)
    m20, m21, m22 = tl.load(from_mm + 6), tl.load(from_mm + 7), tl.load(from_mm + 8)
    qz = tl.load(linear) * z + tl.load(linear + 1) * y + tl.load(linear + 2) * x
    qy = tl.load(linear + 3) * z + tl.load(linear + 4) * y + tl.load(linear + 5) * x
    qx = tl.load(linear + 6) * z + tl.load(linear + 7) * y + tl.load(linear + 8) * x
    qz = qz + tl.load(shift) + (m00 * uz + m01 * uy + m02 * ux)
    qy = qy + tl.load(shift + 1) + (m10 * uz + m11 * uy + m12 * ux)
    qx = qx + tl.load(shift + 2) + (m20 * uz + m21 * uy + m22 * ux)
    iz, tz, oz = _axis(qz, mz)
    iy, ty, oy = _axis(qy, my)
    ix, tx, ox = _axis(qx, mx)
    tz, ty, tx = tz[:, None], ty[:, None], tx[:, None]
    sz, sy, sx = 1.0 - tz, 1.0 - ty, 1.0 - tx
    if WIDE:
        iz, n = iz.to(tl.int64), n.to(tl.int64)
    at = (((iz * my + iy) * mx + ix) * C)[:, None]
    ours = (n * C)[:, None]
    dx = tl.where(mx > 1, C, 0)
    dy = tl.where(my > 1, mx * C, 0)
    dz = tl.where(mz > 1, my * mx * C, 0)
    iz1 = tl.where(oz != 0, 0.0, 1.0)
    iy1 = tl.where(oy != 0, 0.0, 1.0)
    ix1 = tl.where(ox != 0, 0.0, 1.0)
    cost = outside_weight * (oz * oz + oy * oy + ox * ox)
    gz, gy, gx = outside_weight * oz, outside_weight * oy, outside_weight * ox
    hzz, hyy = outside_weight * (1 - iz1), outside_weight * (1 - iy1)
    hxx = outside_weight * (1 - ix1)
    zero = tl.zeros((B,), tl.float32)
    hzy, hzx, hyx = zero, zero, zero
    for start in range(0, C, CP):
        c = (start + tl.arange(0, CP))[None, :]
        both = mask[:, None] & (c < C)
        base = at + c
        v0 = tl.load(moving + base, mask=both, other=0.0).to(tl.float32)
        v1 = tl.load(moving + base + dx, mask=both, other=0.0).to(tl.float32)
        e0, f0 = v0 * sx + v1 * tx, v1 - v0
        v0 = tl.load(moving + base + dy, mask=both, other=0.0).to(tl.float32)
        v1 = tl.load(moving + base + dy + dx, mask=both, other=0.0).to(tl.float32)
        e1, f1 = v0 * sx + v1 * tx, v1 - v0
        low, low_y, low_x = e0 * sy + e1 * ty, e1 - e0, f0 * sy + f1 * ty
        v0 = tl.load(moving + base + dz, mask=both, other=0.0).to(tl.float32)
        v1 = tl.load(moving + base + dz + dx, mask=both, other=0.0).to(tl.float32)
        e0, f0 = v0 * sx + v1 * tx, v1 - v0
        v0 = tl.load(moving + base + dz + dy, mask=both, other=0.0).to(tl.float32)
        v1 = tl.load(moving + base + dz + dy + dx, mask=both, other=0.0).to(tl.float32)
        e1, f1 = v0 * sx + v1 * tx, v1 - v0
        high = e0 * sy + e1 * ty
        residual = (
            low * sz + high * tz - tl.load(fixed + ours + c, mask=both, other=0.0).to(tl.float32)
        )
        pz = (high - low) * iz1[:, None]
        py = (low_y * sz + (e1 - e0) * tz) * iy1[:, None]
        px = (low_x * sz + (f0 * sy + f1 * ty) * tz) * ix1[:, None]
        cost += tl.sum(residual * residual, 1)
        gz += tl.sum(residual * pz, 1)
        gy += tl.sum(residual * py, 1)
        gx += tl.sum(residual * px, 1)
        hzz += tl.sum(pz * pz, 1)
        hzy += tl.sum(pz * py, 1)
        hzx += tl.sum(pz * px, 1)
        hyy += tl.sum(py * py, 1)
        hyx += tl.sum(py * px, 1)
        hxx += tl.sum(px * px, 1)
    tl.store(partial + tl.program_id(0), tl.sum((weight * cost).to(tl.float64), 0))
    for k in tl.static_range(3):
        a, b, d = tl.load(from_mm + k), tl.load(from_mm + 3 + k), tl.load(from_mm + 6 + k)
        at = gradient + k * count + flat
        old = tl.load(at, mask=mask, other=0.0)
        tl.store(at, old + weight * (a * gz + b * gy + d * gx), mask=mask)
        az = hzz * a + hzy * b + hzx * d
        ay = hzy * a + hyy * b + hyx * d
        ax = hzx * a + hyx * b + hxx * d
        for j in tl.static_range(k, 3):
            at = curvature + (3 * k + j - (k * (k + 1)) // 2) * count + flat
            value = tl.load(from_mm + j) * az
            value += tl.load(from_mm + 3 + j) * ay + tl.load(from_mm + 6 + j) * ax
            tl.store(at, tl.load(at, mask=mask, other=0.0) + weight * value, mask=mask)


@triton.jit
def _sampled_voxels(voxels, starts, u, sampled, count, ny, nx, B: tl.constexpr):
    """A block of voxels: which there are, where their samples begin and end, and their motion."""
    v = tl.program_id(0) * B + tl.arange(0, B)
    here = v < sampled
    flat = tl.load(voxels + v, mask=here, other=0)
    first = tl.load(starts + v, mask=here, other=0)
    last = tl.load(starts + v + 1, mask=here, other=0)
    z, y, x = flat // (ny * nx), flat // nx % ny, flat % nx
    uz = tl.load(u + flat, mask=here, other=0.0)
    uy = tl.load(u + count + flat, mask=here, other=0.0)
    ux = tl.load(u + 2 * count + flat, mask=here, other=0.0)
    return here, flat, first, last, z, y, x, uz, uy, ux


@triton.jit
def _sample(n, mask, terms, fixed, moving, places, sizes, maps, z, y, x, uz, uy, ux):
    """One sample of each voxel: its residual, slopes, what is outside, term and map in mm."""
    term = tl.load(terms + n, mask=mask, other=0)
    own = maps + 21 * term
    m00 = tl.load(own + 12, mask=mask, other=0.0)
    m01 = tl.load(own + 13, mask=mask, other=0.0)
    m02 = tl.load(own + 14, mask=mask, other=0.0)
    m10 = tl.load(own + 15, mask=mask, other=0.0)
    m11 = tl.load(own + 16, mask=mask, other=0.0)
    m12 = tl.load(own + 17, mask=mask, other=0.0)
    m20 = tl.load(own + 18, mask=mask, other=0.0)
    m21 = tl.load(own + 19, mask=mask, other=0.0)
    m22 = tl.load(own + 20, mask=mask, other=0.0)
    qz = tl.load(own, mask=mask, other=0.0) * z
    qz += tl.load(own + 1, mask=mask, other=0.0) * y
    qz += tl.load(own + 2, mask=mask, other=0.0) * x
    qz += tl.load(own + 9, mask=mask, other=0.0)
    qy = tl.load(own + 3, mask=mask, other=0.0) * z
    qy += tl.load(own + 4, mask=mask, other=0.0) * y
    qy += tl.load(own + 5, mask=mask, other=0.0) * x
    qy += tl.load(own + 10, mask=mask, other=0.0)
    qx = tl.load(own + 6, mask=mask, other=0.0) * z
    qx += tl.load(own + 7, mask=mask, other=0.0) * y
    qx += tl.load(own + 8, mask=mask, other=0.0) * x
    qx += tl.load(own + 11, mask=mask, other=0.0)
    qz += m00 * uz + m01 * uy + m02 * ux
    qy += m10 * uz + m11 * uy + m12 * ux
    qx += m20 * uz + m21 * uy + m22 * ux
    mz = tl.load(sizes + 3 * term, mask=mask, other=1)
    my = tl.load(sizes + 3 * term + 1, mask=mask, other=1)
    mx = tl.load(sizes + 3 * term + 2, mask=mask, other=1)
    iz, tz, oz = _axis(qz, mz)
    iy, ty, oy = _axis(qy, my)
    ix, tx, ox = _axis(qx, mx)
    sz, sy, sx = 1.0 - tz, 1.0 - ty, 1.0 - tx
    base = moving + tl.load(places + term, mask=mask, other=0) + (iz * my + iy) * mx + ix
    dx, dy = tl.where(mx > 1, 1, 0), tl.where(my > 1, mx, 0)
    dz = tl.where(mz > 1, my * mx, 0)
    v0, v1 = tl.load(base, mask=mask, other=0.0), tl.load(base + dx, mask=mask, other=0.0)
    e00, f00 = v0 * sx + v1 * tx, v1 - v0
    v0 = tl.load(base + dy, mask=mask, other=0.0)
    v1 = tl.load(base + dy + dx, mask=mask, other=0.0)
    e01, f01 = v0 * sx + v1 * tx, v1 - v0
    v0 = tl.load(base + dz, mask=mask, other=0.0)
    v1 = tl.load(base + dz + dx, mask=mask, other=0.0)
    e10, f10 = v0 * sx + v1 * tx, v1 - v0
    v0 = tl.load(base + dz + dy, mask=mask, other=0.0)
    v1 = tl.load(base + dz + dy + dx, mask=mask, other=0.0)
    e11, f11 = v0 * sx + v1 * tx, v1 - v0
    low, high = e00 * sy + e01 * ty, e10 * sy + e11 * ty
    residual = low * sz + high * tz - tl.load(fixed + n, mask=mask, other=0.0)
    pz = tl.where(oz != 0, 0.0, high - low)
    py = tl.where(oy != 0, 0.0, (e01 - e00) * sz + (e11 - e10) * tz)
    px = tl.where(ox != 0, 0.0, (f00 * sy + f01 * ty) * sz + (f10 * sy + f11 * ty) * tz)
    return (
        residual, pz, py, px, oz, oy, ox, term, m00, m01, m02, m10, m11, m12, m20, m21, m22
    )  # fmt: skip


@triton.jit
def squared_differences(
    voxels, starts, terms, fixed, weights, moving, places, sizes, maps, outside_weights,
    u, gradient, curvature, partial, sampled, count, ny, nx, B: tl.constexpr,
):  # fmt: skip
    """All samples of many terms of one channel, voxel by voxel.

    ``starts`` says where the samples of each voxel begin. Per term: ``places``, where its moving
    values begin; ``sizes`` (3,) of them; ``maps`` (21,), its linear part, shift and from_mm.
    """
    here, flat, first, last, z, y, x, uz, uy, ux = _sampled_voxels(
        voxels, starts, u, sampled, count, ny, nx, B
    )
    energy = tl.zeros((B,), tl.float64)
    zero = tl.zeros((B,), tl.float32)
    g0, g1, g2 = zero, zero, zero
    h00, h01, h02, h11, h12, h22 = zero, zero, zero, zero, zero, zero
    most = tl.max(last - first, 0)
    for k in range(most):
        n = first + k
        mask = n < last
        residual, pz, py, px, oz, oy, ox, term, m00, m01, m02, m10, m11, m12, m20, m21, m22 = (
            _sample(n, mask, terms, fixed, moving, places, sizes, maps, z, y, x, uz, uy, ux)
        )
        weight = tl.load(weights + n, mask=mask, other=0.0)
        outside_weight = tl.load(outside_weights + term, mask=mask, other=0.0)
        cost = residual * residual + outside_weight * (oz * oz + oy * oy + ox * ox)
        energy += (weight * cost).to(tl.float64)
        gz = weight * (residual * pz + outside_weight * oz)
        gy = weight * (residual * py + outside_weight * oy)
        gx = weight * (residual * px + outside_weight * ox)
        g0 += m00 * gz + m10 * gy + m20 * gx
        g1 += m01 * gz + m11 * gy + m21 * gx
        g2 += m02 * gz + m12 * gy + m22 * gx
        # The slopes along the axes of the fixed grid, and the pull of what is outside.
        a0 = pz * m00 + py * m10 + px * m20
        a1 = pz * m01 + py * m11 + px * m21
        a2 = pz * m02 + py * m12 + px * m22
        wz = tl.where(oz != 0, outside_weight, 0.0)
        wy = tl.where(oy != 0, outside_weight, 0.0)
        wx = tl.where(ox != 0, outside_weight, 0.0)
        h00 += weight * (a0 * a0 + wz * m00 * m00 + wy * m10 * m10 + wx * m20 * m20)
        h01 += weight * (a0 * a1 + wz * m00 * m01 + wy * m10 * m11 + wx * m20 * m21)
        h02 += weight * (a0 * a2 + wz * m00 * m02 + wy * m10 * m12 + wx * m20 * m22)
        h11 += weight * (a1 * a1 + wz * m01 * m01 + wy * m11 * m11 + wx * m21 * m21)
        h12 += weight * (a1 * a2 + wz * m01 * m02 + wy * m11 * m12 + wx * m21 * m22)
        h22 += weight * (a2 * a2 + wz * m02 * m02 + wy * m12 * m12 + wx * m22 * m22)
    tl.store(partial + tl.program_id(0), tl.sum(energy, 0))
    _add(gradient + flat, g0, here)
    _add(gradient + count + flat, g1, here)
    _add(gradient + 2 * count + flat, g2, here)
    _add(curvature + flat, h00, here)
    _add(curvature + count + flat, h01, here)
    _add(curvature + 2 * count + flat, h02, here)
    _add(curvature + 3 * count + flat, h11, here)
    _add(curvature + 4 * count + flat, h12, here)
    _add(curvature + 5 * count + flat, h22, here)


@triton.jit
def squared_residuals(
    voxels, starts, terms, fixed, weights, moving, places, sizes, maps, outside_weights,
    u, order, out, sampled, count, ny, nx, B: tl.constexpr,
):  # fmt: skip
    """The squared residual of every sample, in the order of the terms' own lists."""
    _here, _flat, first, last, z, y, x, uz, uy, ux = _sampled_voxels(
        voxels, starts, u, sampled, count, ny, nx, B
    )
    most = tl.max(last - first, 0)
    for k in range(most):
        n = first + k
        mask = n < last
        residual, _0, _1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15 = _sample(
            n, mask, terms, fixed, moving, places, sizes, maps, z, y, x, uz, uy, ux
        )
        at = tl.load(order + n, mask=mask, other=0)
        tl.store(out + at, residual * residual, mask=mask)


@triton.jit
def _add(at, value, mask):
    """Add to places that no other program touches."""
    tl.store(at, tl.load(at, mask=mask, other=0.0) + value, mask=mask)
