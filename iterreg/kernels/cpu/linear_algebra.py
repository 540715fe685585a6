"""Compiled loops of the linear algebra: Laplacian, normal jumps, conjugate gradients.

Threads share the rows of every loop. A row writes its own place in a list of partial sums, so the
result depends neither on the number of threads nor on the order in which they finish.
"""

from __future__ import annotations

import numpy as np

from iterreg.kernels.cpu._compile import Array, Indices, Rows, Sums, compiled, inlined

CHUNK_VOXELS = 4096
"""Voxels of interfaces that one thread takes at a time; each chunk sums its own energy."""


@inlined
def _row_laplacian(
    v: Array, edges: Array, c: int, z: int, y: int, first: int, last: int, total: Array
) -> None:
    """``total = (L v)[c, z, y, first:last]``.

    Past the border a voxel is its own neighbour, so that their difference is zero. Rows are cut
    before the loops, because the vector units need an index that starts at 0.
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
    begin: int,
    end: int,
    v: Array,
    edges: Array,
    curvature: Array,
    active_rows: Rows,
    out: Array,
    row_dot: Sums,
) -> None:
    """Set ``out = curvature v + L v``, and each row's part of ``v . out``."""
    ny = v.shape[2]
    for row in range(begin, end):
        z = row // ny
        y = row % ny
        first, last = active_rows[row, 0], active_rows[row, 1]
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
def add_laplacian(begin: int, end: int, v: Array, edges: Array, out: Array, row_dot: Sums) -> None:
    """Add ``L v`` to ``out``, and set each row's part of ``v . L v``."""
    ny, nx = v.shape[2], v.shape[3]
    for row in range(begin, end):
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
def add_normal_jump(
    begin: int,
    end: int,
    v: Array,
    voxels: Indices,
    there: Rows,
    across: Array,
    out: Array,
    chunk_energy: Sums,
) -> None:
    """Add ``J v`` at the voxels of interfaces; each chunk's part of ``v . J v``.

    Args:
        begin, end: chunks of :data:`CHUNK_VOXELS` voxels.
        v, out: (3, voxels of the grid).
        voxels, there, across: (N,), (N, 6) and (N, 6, 3): see ``FacesByVoxel``.
        chunk_energy: filled.
    """
    for chunk in range(begin, end):
        total = 0.0
        for e in range(chunk * CHUNK_VOXELS, min((chunk + 1) * CHUNK_VOXELS, len(voxels))):
            n = voxels[e]
            z, y, x = v[0, n], v[1, n], v[2, n]
            fz, fy, fx = np.float32(0), np.float32(0), np.float32(0)
            for side in range(6):
                other = there[e, side]
                if other < 0:
                    continue
                az, ay, ax = across[e, side, 0], across[e, side, 1], across[e, side, 2]
                jump = az * (z - v[0, other]) + ay * (y - v[1, other]) + ax * (x - v[2, other])
                fz += az * jump
                fy += ay * jump
                fx += ax * jump
                total += 0.5 * jump * jump  # both ends of a face count it
            out[0, n] += fz
            out[1, n] += fy
            out[2, n] += fx
        chunk_energy[chunk] = total


@compiled
def invert_blocks(begin: int, end: int, curvature: Array, diagonal: Array, out: Array) -> None:
    """Set ``out = (curvature + diagonal I)^-1`` per voxel, symmetric 3 x 3 in six entries."""
    ny, nx = diagonal.shape[1:]
    for row in range(begin, end):
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
def cg_update(
    begin: int,
    end: int,
    residual: Array,
    product: Array,
    blocks: Array,
    active_rows: Rows,
    alpha: float,
    preconditioned: Array,
    row_dot: Sums,
) -> None:
    """Update residual and preconditioned residual; set each row's part of their product."""
    ny = residual.shape[2]
    for row in range(begin, end):
        z = row // ny
        y = row % ny
        first, last = active_rows[row, 0], active_rows[row, 1]
        for c in range(3):
            rest, change = residual[c, z, y, first:last], product[c, z, y, first:last]
            for x in range(len(rest)):
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
def cg_direction(
    begin: int,
    end: int,
    step: Array,
    direction: Array,
    preconditioned: Array,
    active_rows: Rows,
    alpha: float,
    beta: float,
) -> None:
    """Go ``alpha`` along the old direction; the new one is ``preconditioned + beta direction``."""
    ny = direction.shape[2]
    for row in range(begin, end):
        z = row // ny
        y = row % ny
        first, last = active_rows[row, 0], active_rows[row, 1]
        for c in range(3):
            along, change = direction[c, z, y, first:last], preconditioned[c, z, y, first:last]
            moved = step[c, z, y, first:last]
            for x in range(len(along)):
                moved[x] += alpha * along[x]
                along[x] = change[x] + beta * along[x]
