"""Compiled loops that sample a volume between its voxels."""

from __future__ import annotations

import numba
import numpy as np

from iterreg.kernels.cpu._compile import Array, Rows, Sums, compiled

CHUNK_SAMPLES = 4096
"""One thread takes so many samples at a time; each chunk sums its own energy."""


@compiled
def squared_difference(
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
    """See :func:`iterreg.kernels.reference.squared_difference`: the same by chunks of samples."""
    count, channels = fixed.shape
    mz, my, mx = moving.shape[0], moving.shape[1], moving.shape[2]
    one = np.float32(1)
    zero = np.float32(0)
    for chunk in numba.prange(len(chunk_energy)):
        slope_z = np.empty(channels, np.float32)
        slope_y = np.empty(channels, np.float32)
        slope_x = np.empty(channels, np.float32)
        residual = np.empty(channels, np.float32)
        total = 0.0
        for n in range(chunk * CHUNK_SAMPLES, min((chunk + 1) * CHUNK_SAMPLES, count)):
            z, y, x = voxels[n, 0], voxels[n, 1], voxels[n, 2]
            weight = weights[n]
            uz, uy, ux = u_mm[0, z, y, x], u_mm[1, z, y, x], u_mm[2, z, y, x]
            qz = linear[0, 0] * z + linear[0, 1] * y + linear[0, 2] * x + shift[0]
            qy = linear[1, 0] * z + linear[1, 1] * y + linear[1, 2] * x + shift[1]
            qx = linear[2, 0] * z + linear[2, 1] * y + linear[2, 2] * x + shift[2]
            qz += from_mm[0, 0] * uz + from_mm[0, 1] * uy + from_mm[0, 2] * ux
            qy += from_mm[1, 0] * uz + from_mm[1, 1] * uy + from_mm[1, 2] * ux
            qx += from_mm[2, 0] * uz + from_mm[2, 1] * uy + from_mm[2, 2] * ux
            cz = min(max(qz, zero), np.float32(mz - 1))
            cy = min(max(qy, zero), np.float32(my - 1))
            cx = min(max(qx, zero), np.float32(mx - 1))
            oz = qz - cz if mz > 1 else zero
            oy = qy - cy if my > 1 else zero
            ox = qx - cx if mx > 1 else zero
            iz = min(int(cz), max(mz - 2, 0))
            iy = min(int(cy), max(my - 2, 0))
            ix = min(int(cx), max(mx - 2, 0))
            jz, jy, jx = min(iz + 1, mz - 1), min(iy + 1, my - 1), min(ix + 1, mx - 1)
            tz, ty, tx = np.float32(cz - iz), np.float32(cy - iy), np.float32(cx - ix)
            sz, sy, sx = one - tz, one - ty, one - tx
            inz = zero if oz != 0 else one
            iny = zero if oy != 0 else one
            inx = zero if ox != 0 else one
            v000, v001 = moving[iz, iy, ix], moving[iz, iy, jx]
            v010, v011 = moving[iz, jy, ix], moving[iz, jy, jx]
            v100, v101 = moving[jz, iy, ix], moving[jz, iy, jx]
            v110, v111 = moving[jz, jy, ix], moving[jz, jy, jx]
            here = fixed[n]
            for c in range(channels):
                e00 = v000[c] * sx + v001[c] * tx
                e01 = v010[c] * sx + v011[c] * tx
                e10 = v100[c] * sx + v101[c] * tx
                e11 = v110[c] * sx + v111[c] * tx
                low = e00 * sy + e01 * ty
                high = e10 * sy + e11 * ty
                residual[c] = low * sz + high * tz - here[c]
                slope_z[c] = (high - low) * inz
                slope_y[c] = ((e01 - e00) * sz + (e11 - e10) * tz) * iny
                front = (v001[c] - v000[c]) * sy + (v011[c] - v010[c]) * ty
                back = (v101[c] - v100[c]) * sy + (v111[c] - v110[c]) * ty
                slope_x[c] = (front * sz + back * tz) * inx
            energy = zero
            gz, gy, gx = zero, zero, zero
            hzz, hzy, hzx, hyy, hyx, hxx = zero, zero, zero, zero, zero, zero
            for c in range(channels):
                r, pz, py, px = residual[c], slope_z[c], slope_y[c], slope_x[c]
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
            if inz * iny * inx == 0:
                energy += outside_weight * (oz * oz + oy * oy + ox * ox)
                gz += outside_weight * oz
                gy += outside_weight * oy
                gx += outside_weight * ox
                hzz += outside_weight * (one - inz)
                hyy += outside_weight * (one - iny)
                hxx += outside_weight * (one - inx)
            total += weight * energy
            entry = 0
            for k in range(3):
                a, b, d = from_mm[0, k], from_mm[1, k], from_mm[2, k]
                gradient[k, z, y, x] += weight * (a * gz + b * gy + d * gx)
                az = hzz * a + hzy * b + hzx * d
                ay = hzy * a + hyy * b + hyx * d
                ax = hzx * a + hyx * b + hxx * d
                for m in range(k, 3):
                    value = from_mm[0, m] * az + from_mm[1, m] * ay + from_mm[2, m] * ax
                    curvature[entry, z, y, x] += weight * value
                    entry += 1
        chunk_energy[chunk] = total


@compiled
def upsample(
    coarse: Array,
    coarse_labels: Array,
    fine_labels: Array,
    scale: Array,
    shift: Array,
    affinity: Array,
    out: Array,
) -> None:
    """See :func:`iterreg.kernels.reference.upsample`: the same, row by row."""
    components = coarse.shape[0]
    cz, cy, cx = coarse.shape[1], coarse.shape[2], coarse.shape[3]
    nz, ny, nx = fine_labels.shape
    for row in numba.prange(nz * ny):
        z = row // ny
        y = row % ny
        qz = min(max(scale[0] * z + shift[0], np.float32(0)), np.float32(cz - 1))
        qy = min(max(scale[1] * y + shift[1], np.float32(0)), np.float32(cy - 1))
        iz, iy = int(qz), int(qy)
        tz, ty = qz - iz, qy - iy
        for x in range(nx):
            qx = min(max(scale[2] * x + shift[2], np.float32(0)), np.float32(cx - 1))
            ix = int(qx)
            tx = qx - ix
            label = fine_labels[z, y, x]
            mass = np.float32(0)
            for c in range(components):
                out[c, z, y, x] = np.float32(0)
            for corner in range(8):
                dz, dy, dx = corner >> 2, (corner >> 1) & 1, corner & 1
                jz, jy, jx = min(iz + dz, cz - 1), min(iy + dy, cy - 1), min(ix + dx, cx - 1)
                weight = (tz if dz else 1 - tz) * (ty if dy else 1 - ty) * (tx if dx else 1 - tx)
                weight *= affinity[label, coarse_labels[jz, jy, jx]]
                mass += weight
                for c in range(components):
                    out[c, z, y, x] += weight * coarse[c, jz, jy, jx]
            inverse = np.float32(1) / mass
            for c in range(components):
                out[c, z, y, x] *= inverse
