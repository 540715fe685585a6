"""Compiled loops that sample a volume between its voxels."""

from __future__ import annotations

import numpy as np

from iterreg.kernels.cpu._compile import Array, Places, Rows, Sums, compiled, inlined

CHUNK_SAMPLES = 4096
"""One thread takes so many samples at a time; each chunk sums its own energy."""

BLOCK_SAMPLES = 64
"""So many samples go through each loop together; what the loops hand on stays in the cache."""


@inlined
def _locate(
    voxels: Rows,
    u_mm: Array,
    linear: Array,
    shift: Array,
    from_mm: Array,
    moving_shape: tuple[int, int, int],
    place: Places,
    base: Places,
    inside: Array,
    beyond: Array,
) -> None:
    """Where some samples lie in the moving image.

    Sets each sample's flat voxel (``place``), the flat voxel of the cell it lands in (``base``),
    its place in the cell (``inside``), and how far past the border it is (``beyond``). Indices are
    unsigned, because a signed one may count from the end, which costs a test each time.
    """
    ny, nx = u_mm.shape[2], u_mm.shape[3]
    u_z, u_y, u_x = u_mm[0].ravel(), u_mm[1].ravel(), u_mm[2].ravel()
    mz, my, mx = moving_shape
    zero = np.float32(0)
    top_z, top_y, top_x = np.float32(mz - 1), np.float32(my - 1), np.float32(mx - 1)
    last_z, last_y, last_x = (
        np.uint32(max(mz - 2, 0)),
        np.uint32(max(my - 2, 0)),
        np.uint32(max(mx - 2, 0)),
    )
    a00, a01, a02 = linear[0, 0], linear[0, 1], linear[0, 2]
    a10, a11, a12 = linear[1, 0], linear[1, 1], linear[1, 2]
    a20, a21, a22 = linear[2, 0], linear[2, 1], linear[2, 2]
    f00, f01, f02 = from_mm[0, 0], from_mm[0, 1], from_mm[0, 2]
    f10, f11, f12 = from_mm[1, 0], from_mm[1, 1], from_mm[1, 2]
    f20, f21, f22 = from_mm[2, 0], from_mm[2, 1], from_mm[2, 2]
    shift_z, shift_y, shift_x = shift[0], shift[1], shift[2]
    for k in range(len(voxels)):
        z, y, x = voxels[k, 0], voxels[k, 1], voxels[k, 2]
        at = np.uint64((z * ny + y) * nx + x)
        place[k] = at
        uz, uy, ux = u_z[at], u_y[at], u_x[at]
        qz = a00 * z + a01 * y + a02 * x + shift_z + f00 * uz + f01 * uy + f02 * ux
        qy = a10 * z + a11 * y + a12 * x + shift_y + f10 * uz + f11 * uy + f12 * ux
        qx = a20 * z + a21 * y + a22 * x + shift_x + f20 * uz + f21 * uy + f22 * ux
        cz, cy, cx = min(max(qz, zero), top_z), min(max(qy, zero), top_y), min(max(qx, zero), top_x)
        beyond[0, k] = qz - cz if mz > 1 else zero
        beyond[1, k] = qy - cy if my > 1 else zero
        beyond[2, k] = qx - cx if mx > 1 else zero
        # What is no number becomes a negative integer, and that a large unsigned one.
        iz = min(np.uint32(np.int32(cz)), last_z)
        iy = min(np.uint32(np.int32(cy)), last_y)
        ix = min(np.uint32(np.int32(cx)), last_x)
        inside[0, k], inside[1, k] = cz - np.float32(iz), cy - np.float32(iy)
        inside[2, k] = cx - np.float32(ix)
        base[k] = np.uint64((iz * my + iy) * mx + ix)


@inlined
def _compare(
    fixed: Array,
    moving: Array,
    steps: tuple[int, int, int],
    base: Places,
    inside: Array,
    sums: Array,
) -> None:
    """Sum over the channels of some samples: r^2, r p (3) and p p' (6), for residual r, slope p.

    Args:
        fixed: (n, C) features, float32 or bytes.
        moving: (voxels, C) features.
        steps: from a voxel to the next one along each axis, in flat voxels; 0 along an axis of
            length 1.
        base, inside: see :func:`_locate`.
        sums: (10, n), filled.
    """
    step_z, step_y, step_x = steps
    one, zero = np.float32(1), np.float32(0)
    for k in range(len(fixed)):
        b = base[k]
        tz, ty, tx = inside[0, k], inside[1, k], inside[2, k]
        sz, sy, sx = one - tz, one - ty, one - tx
        v000, v001 = moving[b], moving[b + step_x]
        v010, v011 = moving[b + step_y], moving[b + step_y + step_x]
        v100, v101 = moving[b + step_z], moving[b + step_z + step_x]
        v110, v111 = moving[b + step_z + step_y], moving[b + step_z + step_y + step_x]
        here = fixed[k]
        energy = zero
        gz, gy, gx = zero, zero, zero
        hzz, hzy, hzx, hyy, hyx, hxx = zero, zero, zero, zero, zero, zero
        for c in range(len(here)):
            c000, c001 = np.float32(v000[c]), np.float32(v001[c])
            c010, c011 = np.float32(v010[c]), np.float32(v011[c])
            c100, c101 = np.float32(v100[c]), np.float32(v101[c])
            c110, c111 = np.float32(v110[c]), np.float32(v111[c])
            e00 = c000 * sx + c001 * tx
            e01 = c010 * sx + c011 * tx
            e10 = c100 * sx + c101 * tx
            e11 = c110 * sx + c111 * tx
            low = e00 * sy + e01 * ty
            high = e10 * sy + e11 * ty
            r = low * sz + high * tz - np.float32(here[c])
            pz = high - low
            py = (e01 - e00) * sz + (e11 - e10) * tz
            front = (c001 - c000) * sy + (c011 - c010) * ty
            back = (c101 - c100) * sy + (c111 - c110) * ty
            px = front * sz + back * tz
            energy += r * r
            gz += r * pz
            gy += r * py
            gx += r * px
            hzz += pz * pz
            hzy += pz * py
            hzx += pz * px
            hyy += py * py
            hyx += py * px
            hxx += px * px
        sums[0, k], sums[1, k], sums[2, k], sums[3, k] = energy, gz, gy, gx
        sums[4, k], sums[5, k], sums[6, k] = hzz, hzy, hzx
        sums[7, k], sums[8, k], sums[9, k] = hyy, hyx, hxx


@inlined
def _add_equations(
    sums: Array,
    beyond: Array,
    weights: Array,
    from_mm: Array,
    outside_weight: float,
    place: Places,
    gradient: Array,
    curvature: Array,
) -> float:
    """Add some samples' normal equations, in mm; return their energy.

    The slope is zero along an axis that the sample left; there its distance to the border counts.
    """
    one, zero = np.float32(1), np.float32(0)
    f00, f01, f02 = from_mm[0, 0], from_mm[0, 1], from_mm[0, 2]
    f10, f11, f12 = from_mm[1, 0], from_mm[1, 1], from_mm[1, 2]
    f20, f21, f22 = from_mm[2, 0], from_mm[2, 1], from_mm[2, 2]
    total = 0.0
    for k in range(len(weights)):
        oz, oy, ox = beyond[0, k], beyond[1, k], beyond[2, k]
        in_z, in_y, in_x = (
            one if oz == 0 else zero,
            one if oy == 0 else zero,
            one if ox == 0 else zero,
        )
        w, out = weights[k], weights[k] * outside_weight
        total += w * sums[0, k] + out * (oz * oz + oy * oy + ox * ox)
        gz = w * sums[1, k] * in_z + out * oz
        gy = w * sums[2, k] * in_y + out * oy
        gx = w * sums[3, k] * in_x + out * ox
        zz = w * sums[4, k] * in_z + out * (one - in_z)
        yy = w * sums[7, k] * in_y + out * (one - in_y)
        xx = w * sums[9, k] * in_x + out * (one - in_x)
        zy, zx = w * sums[5, k] * in_z * in_y, w * sums[6, k] * in_z * in_x
        yx = w * sums[8, k] * in_y * in_x
        az, bz, cz = (
            zz * f00 + zy * f10 + zx * f20,
            zz * f01 + zy * f11 + zx * f21,
            zz * f02 + zy * f12 + zx * f22,
        )
        ay, by, cy = (
            zy * f00 + yy * f10 + yx * f20,
            zy * f01 + yy * f11 + yx * f21,
            zy * f02 + yy * f12 + yx * f22,
        )
        ax, bx, cx = (
            zx * f00 + yx * f10 + xx * f20,
            zx * f01 + yx * f11 + xx * f21,
            zx * f02 + yx * f12 + xx * f22,
        )
        at = place[k]
        gradient[0, at] += f00 * gz + f10 * gy + f20 * gx
        gradient[1, at] += f01 * gz + f11 * gy + f21 * gx
        gradient[2, at] += f02 * gz + f12 * gy + f22 * gx
        curvature[0, at] += f00 * az + f10 * ay + f20 * ax
        curvature[1, at] += f01 * az + f11 * ay + f21 * ax
        curvature[2, at] += f02 * az + f12 * ay + f22 * ax
        curvature[3, at] += f01 * bz + f11 * by + f21 * bx
        curvature[4, at] += f02 * bz + f12 * by + f22 * bx
        curvature[5, at] += f02 * cz + f12 * cy + f22 * cx
    return total


@compiled
def squared_difference(
    begin: int,
    end: int,
    fixed: Array,
    moving: Array,
    voxels: Rows,
    weights: Array,
    u_mm: Array,
    linear: Array,
    shift: Array,
    from_mm: Array,
    outside_weight: float,
    gradient: Array,
    curvature: Array,
    chunk_energy: Sums,
) -> None:
    """See :func:`iterreg.kernels.reference.squared_difference`: the same by blocks of samples.

    A block's places, sums and equations are three loops, so that the vector units serve the first
    and the last of them sample by sample, and the middle one channel by channel.
    """
    count, channels = fixed.shape
    mz, my, mx = moving.shape[0], moving.shape[1], moving.shape[2]
    flat = moving.reshape(mz * my * mx, channels)
    steps = (
        np.uint64(my * mx if mz > 1 else 0),
        np.uint64(mx if my > 1 else 0),
        np.uint64(1 if mx > 1 else 0),
    )
    gradients, curvatures = gradient.reshape(3, -1), curvature.reshape(6, -1)
    for chunk in range(begin, end):
        place, base = np.empty(BLOCK_SAMPLES, np.uint64), np.empty(BLOCK_SAMPLES, np.uint64)
        inside = np.empty((3, BLOCK_SAMPLES), np.float32)
        beyond = np.empty((3, BLOCK_SAMPLES), np.float32)
        sums = np.empty((10, BLOCK_SAMPLES), np.float32)
        total = 0.0
        stop = min((chunk + 1) * CHUNK_SAMPLES, count)
        for first in range(chunk * CHUNK_SAMPLES, stop, BLOCK_SAMPLES):
            last = min(first + BLOCK_SAMPLES, stop)
            _locate(
                voxels[first:last],
                u_mm,
                linear,
                shift,
                from_mm,
                (mz, my, mx),
                place,
                base,
                inside,
                beyond,
            )
            _compare(fixed[first:last], flat, steps, base, inside, sums)
            total += _add_equations(
                sums,
                beyond,
                weights[first:last],
                from_mm,
                outside_weight,
                place,
                gradients,
                curvatures,
            )
        chunk_energy[chunk] = total
