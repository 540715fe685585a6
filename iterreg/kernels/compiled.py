"""The hot loops, compiled for the CPU by numba. Each has a plain torch twin in ``reference``.

Arrays are C-contiguous NumPy views of torch tensors, rank 3 (a picture has one slice). Every loop
runs over rows in parallel, and each row writes its own place in a list of partial sums, so that
the result does not depend on the order in which threads finish.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Spans = NDArray[np.int32]
Indices = NDArray[np.int64]

CHUNK_SAMPLES = 4096
"""Samples that one thread takes at a time; each chunk sums its own energy."""

FAST_MATH = {"nnan", "ninf", "nsz", "arcp", "reassoc"}
"""Sums may be reordered, so that they use the vector units. Fused multiply-adds are left out: with
them the code just compiled and the same code from the cache were seen to round differently."""

compiled = numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
inlined = numba.njit(fastmath=FAST_MATH, cache=True, inline="always")


@compiled
def squared_difference(
    fixed: Array,
    moving: Array,
    voxels: NDArray[np.int32],
    weights: Array,
    u_mm: Array,
    linear: Array,
    shift: Array,
    from_mm: Array,
    pull: float,
    gradient: Array,
    curvature: Array,
    chunk_energy: NDArray[np.float64],
) -> None:
    """See :func:`iterreg.kernels.reference.squared_difference`, which this agrees with."""
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
                energy += pull * (oz * oz + oy * oy + ox * ox)
                gz += pull * oz
                gy += pull * oy
                gx += pull * ox
                hzz += pull * (one - inz)
                hyy += pull * (one - iny)
                hxx += pull * (one - inx)
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


@inlined
def _row_laplacian(
    v: Array, edges: Array, c: int, z: int, y: int, first: int, last: int, total: Array
) -> None:
    """``total = (L v)[c, z, y, first:last]``.

    Past the border the voxel itself stands for its neighbour, whose difference is then nothing.
    Rows are cut before the loops: an index that starts at 0 leaves the vector units usable.
    """
    nz, ny, nx = v.shape[1], v.shape[2], v.shape[3]
    z_low, z_high = max(z - 1, 0), min(z + 1, nz - 1)
    y_low, y_high = max(y - 1, 0), min(y + 1, ny - 1)
    here = v[c, z, y, first:last]
    below, above = v[c, z_low, y, first:last], v[c, z_high, y, first:last]
    front, back = v[c, z, y_low, first:last], v[c, z, y_high, first:last]
    to_below, to_above = edges[0, z_low, y, first:last], edges[0, z, y, first:last]
    to_front, to_back = edges[1, z, y_low, first:last], edges[1, z, y, first:last]
    for x in range(len(total)):
        value = here[x]
        total[x] = (
            to_below[x] * (value - below[x])
            + to_above[x] * (value - above[x])
            + to_front[x] * (value - front[x])
            + to_back[x] * (value - back[x])
        )
    row, along = v[c, z, y], edges[2, z, y]
    start = max(first, 1)
    shifted, left, right = total[start - first :], row[start - 1 : last - 1], row[start:last]
    to_left = along[start - 1 : last - 1]
    for x in range(len(left)):
        shifted[x] += to_left[x] * (right[x] - left[x])
    stop = min(last, nx - 1)
    left, right, to_right = row[first:stop], row[first + 1 : stop + 1], along[first:stop]
    for x in range(len(left)):
        total[x] += to_right[x] * (left[x] - right[x])


@compiled
def edge_product(
    v: Array, edges: Array, curvature: Array, spans: Spans, out: Array, row_dot: Array
) -> None:
    """``out = curvature v + L v`` and the partial sums of ``v . out``, row by row."""
    nz, ny = v.shape[1], v.shape[2]
    for row in numba.prange(nz * ny):
        z = row // ny
        y = row % ny
        first, last = spans[row, 0], spans[row, 1]
        for c in range(3):
            _row_laplacian(v, edges, c, z, y, first, last, out[c, z, y, first:last])
        vz, vy, vx = v[0, z, y, first:last], v[1, z, y, first:last], v[2, z, y, first:last]
        out_z, out_y = out[0, z, y, first:last], out[1, z, y, first:last]
        out_x = out[2, z, y, first:last]
        zz, zy = curvature[0, z, y, first:last], curvature[1, z, y, first:last]
        zx, yy = curvature[2, z, y, first:last], curvature[3, z, y, first:last]
        yx, xx = curvature[4, z, y, first:last], curvature[5, z, y, first:last]
        dot = np.float32(0)
        for x in range(len(vz)):
            a, b, d = vz[x], vy[x], vx[x]
            oz = out_z[x] + zz[x] * a + zy[x] * b + zx[x] * d
            oy = out_y[x] + zy[x] * a + yy[x] * b + yx[x] * d
            ox = out_x[x] + zx[x] * a + yx[x] * b + xx[x] * d
            out_z[x], out_y[x], out_x[x] = oz, oy, ox
            dot += a * oz + b * oy + d * ox
        row_dot[row] = dot


@compiled
def add_laplacian(v: Array, edges: Array, out: Array, row_dot: Array) -> None:
    """``out += L v`` and the partial sums of ``v . L v``, row by row."""
    nz, ny, nx = v.shape[1], v.shape[2], v.shape[3]
    for row in numba.prange(nz * ny):
        z = row // ny
        y = row % ny
        total = np.empty(nx, np.float32)
        dot = np.float32(0)
        for c in range(3):
            _row_laplacian(v, edges, c, z, y, 0, nx, total)
            here, into = v[c, z, y], out[c, z, y]
            for x in range(nx):
                into[x] += total[x]
                dot += here[x] * total[x]
        row_dot[row] = dot


@compiled
def normal_jump(v: Array, low: Indices, high: Indices, across: Array, jump: Array) -> None:
    """``jump = across . (v_high - v_low)``, edge by edge; ``v`` is (3, voxels)."""
    for e in numba.prange(len(jump)):
        a, b = low[e], high[e]
        jump[e] = (
            across[0, e] * (v[0, b] - v[0, a])
            + across[1, e] * (v[1, b] - v[1, a])
            + across[2, e] * (v[2, b] - v[2, a])
        )


@compiled
def push(out: Array, voxels: Indices, across: Array, jump: Array, sign: float) -> None:
    """Add ``sign across jump`` to each edge's voxel; no voxel is there twice."""
    for e in numba.prange(len(jump)):
        force = sign * jump[e]
        for c in range(3):
            out[c, voxels[e]] += across[c, e] * force


@compiled
def invert_blocks(curvature: Array, diagonal: Array, out: Array) -> None:
    """``out = (curvature + diagonal I)^-1`` per voxel, symmetric 3 x 3 in six entries."""
    nz, ny, nx = diagonal.shape
    for row in numba.prange(nz * ny):
        z = row // ny
        y = row % ny
        for x in range(nx):
            d = diagonal[z, y, x]
            a = curvature[0, z, y, x] + d
            b = curvature[1, z, y, x]
            c = curvature[2, z, y, x]
            e = curvature[3, z, y, x] + d
            f = curvature[4, z, y, x]
            i = curvature[5, z, y, x] + d
            aa, bb, cc = e * i - f * f, c * f - b * i, b * f - c * e
            scale = np.float32(1) / (a * aa + b * bb + c * cc)
            out[0, z, y, x] = aa * scale
            out[1, z, y, x] = bb * scale
            out[2, z, y, x] = cc * scale
            out[3, z, y, x] = (a * i - c * c) * scale
            out[4, z, y, x] = (b * c - a * f) * scale
            out[5, z, y, x] = (a * e - b * b) * scale


@compiled
def descend(
    step: Array,
    residual: Array,
    direction: Array,
    product: Array,
    blocks: Array,
    spans: Spans,
    alpha: float,
    preconditioned: Array,
    row_dot: Array,
) -> None:
    """One conjugate-gradient update: step, residual, preconditioned residual and their dot."""
    nz, ny = step.shape[1], step.shape[2]
    for row in numba.prange(nz * ny):
        z = row // ny
        y = row % ny
        first, last = spans[row, 0], spans[row, 1]
        for c in range(3):
            moved, rest = step[c, z, y, first:last], residual[c, z, y, first:last]
            along, change = direction[c, z, y, first:last], product[c, z, y, first:last]
            for x in range(len(moved)):
                moved[x] += alpha * along[x]
                rest[x] -= alpha * change[x]
        rz, ry = residual[0, z, y, first:last], residual[1, z, y, first:last]
        rx = residual[2, z, y, first:last]
        out_z, out_y = preconditioned[0, z, y, first:last], preconditioned[1, z, y, first:last]
        out_x = preconditioned[2, z, y, first:last]
        zz, zy = blocks[0, z, y, first:last], blocks[1, z, y, first:last]
        zx, yy = blocks[2, z, y, first:last], blocks[3, z, y, first:last]
        yx, xx = blocks[4, z, y, first:last], blocks[5, z, y, first:last]
        dot = np.float32(0)
        for x in range(len(rz)):
            a, b, d = rz[x], ry[x], rx[x]
            oz = zz[x] * a + zy[x] * b + zx[x] * d
            oy = zy[x] * a + yy[x] * b + yx[x] * d
            ox = zx[x] * a + yx[x] * b + xx[x] * d
            out_z[x], out_y[x], out_x[x] = oz, oy, ox
            dot += a * oz + b * oy + d * ox
        row_dot[row] = dot


@compiled
def redirect(direction: Array, preconditioned: Array, spans: Spans, beta: float) -> None:
    """``direction = preconditioned + beta direction``."""
    nz, ny = direction.shape[1], direction.shape[2]
    for row in numba.prange(nz * ny):
        z = row // ny
        y = row % ny
        first, last = spans[row, 0], spans[row, 1]
        for c in range(3):
            along, change = direction[c, z, y, first:last], preconditioned[c, z, y, first:last]
            for x in range(len(along)):
                along[x] = change[x] + beta * along[x]


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
    """See :func:`iterreg.kernels.reference.upsample`, which this agrees with."""
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


@compiled
def cost_volume(
    fixed: Array, moving: Array, nodes: Array, centre: Array, offsets: Array, out: Array
) -> None:
    """See :func:`iterreg.kernels.reference.cost_volume`, which this agrees with."""
    nz, ny, nx, channels = moving.shape
    for n in numba.prange(nodes.shape[0]):
        here = fixed[nodes[n, 0], nodes[n, 1], nodes[n, 2]]
        for k in range(offsets.shape[0]):
            z = min(max(centre[n, 0] + offsets[k, 0], 0), nz - 1)
            y = min(max(centre[n, 1] + offsets[k, 1], 0), ny - 1)
            x = min(max(centre[n, 2] + offsets[k, 2], 0), nx - 1)
            there = moving[z, y, x]
            total = np.float32(0)
            for c in range(channels):
                difference = here[c] - there[c]
                total += difference * difference
            out[n, k] = total


@compiled
def cheapest(cost: Array, offsets_mm: Array, at_mm: Array, coupling: float, out: Array) -> None:
    """Index of the offset with the least ``cost + coupling |offset - at|^2``, node by node."""
    for n in numba.prange(cost.shape[0]):
        best = np.float32(np.inf)
        chosen = 0
        for k in range(cost.shape[1]):
            dz = offsets_mm[k, 0] - at_mm[n, 0]
            dy = offsets_mm[k, 1] - at_mm[n, 1]
            dx = offsets_mm[k, 2] - at_mm[n, 2]
            value = cost[n, k] + coupling * (dz * dz + dy * dy + dx * dx)
            if value < best:
                best = value
                chosen = k
        out[n] = chosen


@inlined
def _add_squares(total: Array, a: Array, b: Array, shift_a: int, shift_b: int) -> None:
    """``total[x] += (a[x + shift_a] - b[x + shift_b])^2``, the ends of the rows repeated."""
    last = len(total) - 1
    reach = min(max(abs(shift_a), abs(shift_b)), len(total))
    stop = max(len(total) - reach, reach)
    middle = total[reach:stop]
    near, far = a[reach + shift_a : stop + shift_a], b[reach + shift_b : stop + shift_b]
    for x in range(len(middle)):
        d = near[x] - far[x]
        middle[x] += d * d
    for x in range(reach):
        d = a[min(max(x + shift_a, 0), last)] - b[min(max(x + shift_b, 0), last)]
        total[x] += d * d
    for x in range(stop, len(total)):
        d = a[min(max(x + shift_a, 0), last)] - b[min(max(x + shift_b, 0), last)]
        total[x] += d * d


@inlined
def _less_least(distances: Array) -> float:
    """Take the least channel off each voxel of a row (X, pairs); the sum of the mean channel."""
    nx, pairs = distances.shape
    total = 0.0
    for x in range(nx):
        least = distances[x, 0]
        mean = np.float32(0)
        for pair in range(pairs):
            least = min(least, distances[x, pair])
            mean += distances[x, pair]
        for pair in range(pairs):
            distances[x, pair] -= least
        total += mean / pairs - least
    return total


@compiled
def patch_distances(
    volume: Array, first: Array, second: Array, radius: Array, out: Array, row_sum: Array
) -> None:
    """Squared patch differences of pairs of shifted copies, less their least; channels last.

    The sum over a patch is taken axis by axis. ``row_sum`` takes the sum of the mean channel over
    each row.
    """
    nz, ny, nx = volume.shape
    pairs = first.shape[0]
    rz, ry, rx = radius[0], radius[1], radius[2]
    for z in numba.prange(nz):
        plane = np.empty((ny, nx), np.float32)
        line = np.empty(nx + 2 * rx, np.float32)
        patch = np.empty(nx, np.float32)
        for pair in range(pairs):
            az, ay, ax = first[pair, 0], first[pair, 1], first[pair, 2]
            bz, by, bx = second[pair, 0], second[pair, 1], second[pair, 2]
            plane[:] = 0
            for kz in range(-rz, rz + 1):
                pz = min(max(z + kz, 0), nz - 1)
                za, zb = min(max(pz + az, 0), nz - 1), min(max(pz + bz, 0), nz - 1)
                for y in range(ny):
                    ya, yb = min(max(y + ay, 0), ny - 1), min(max(y + by, 0), ny - 1)
                    _add_squares(plane[y], volume[za, ya], volume[zb, yb], ax, bx)
            for y in range(ny):
                middle = line[rx : rx + nx]
                middle[:] = 0
                for ky in range(-ry, ry + 1):
                    row = plane[min(max(y + ky, 0), ny - 1)]
                    for x in range(nx):
                        middle[x] += row[x]
                line[:rx] = middle[0]
                line[rx + nx :] = middle[nx - 1]
                patch[:] = 0
                for kx in range(2 * rx + 1):
                    beside = line[kx : kx + nx]
                    for x in range(nx):
                        patch[x] += beside[x]
                for x in range(nx):
                    out[z, y, x, pair] = patch[x]
        for y in range(ny):
            row_sum[z * ny + y] = _less_least(out[z, y])


@inlined
def _exp(value: np.float32) -> np.float32:
    """``exp(value)`` for ``value <= 0`` within 1e-5 of itself: a series for a 64th of it, squared
    six times. The library's is called number by number."""
    t = (value if value > np.float32(-80) else np.float32(-80)) * np.float32(1 / 64)
    e = np.float32(1) + t * (
        np.float32(1) + t * (np.float32(1 / 2) + t * (np.float32(1 / 6) + t * np.float32(1 / 24)))
    )
    e *= e
    e *= e
    e *= e
    e *= e
    e *= e
    return e * e


@compiled
def nearest_along(squared: Array, axis: int, costs: Array, out: Array) -> None:
    """``out`` = the least of ``squared`` plus ``costs[k]`` over voxels k steps away on an axis."""
    nz, ny, nx = squared.shape
    for row in numba.prange(nz * ny):
        z = row // ny
        y = row % ny
        least, here = out[z, y], squared[z, y]
        for x in range(nx):
            least[x] = here[x]
        for k in range(1, len(costs)):
            cost = costs[k]
            if axis == 2:
                near, left, right = here[: nx - k], least[: nx - k], least[k:]
                far = here[k:]
                for x in range(len(near)):
                    left[x] = min(left[x], far[x] + cost)
                for x in range(len(near)):
                    right[x] = min(right[x], near[x] + cost)
                continue
            for side in (-k, k):
                other_z = z + side if axis == 0 else z
                other_y = y + side if axis == 1 else y
                if 0 <= other_z < nz and 0 <= other_y < ny:
                    there = squared[other_z, other_y]
                    for x in range(nx):
                        least[x] = min(least[x], there[x] + cost)


@compiled
def exponentiate(distances: Array, low: float, high: float) -> None:
    """``exp(-D / V)`` in place, V the mean channel clamped to (low, high)."""
    nz, ny, nx, pairs = distances.shape
    for row in numba.prange(nz * ny):
        z = row // ny
        y = row % ny
        for x in range(nx):
            mean = np.float32(0)
            for pair in range(pairs):
                mean += distances[z, y, x, pair]
            variance = min(max(mean / pairs, low), high)
            scale = np.float32(-1) / variance
            for pair in range(pairs):
                distances[z, y, x, pair] = _exp(distances[z, y, x, pair] * scale)
