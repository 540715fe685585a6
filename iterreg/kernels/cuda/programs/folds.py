"""Triton programs that find folds and take them out: the definition is ``kernels/lattice.py``.

A step that unfolds has two stages, so that no two programs add to the same place. First every
simplex writes the moves of its four vertices into slots of its own; then every voxel that moves
gathers the slots that are its own, in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _edge(u, n, count, there, mask, uz, uy, ux):
    """The difference of the displacement between another voxel and this one."""
    dz = tl.load(u + there, mask=mask, other=0.0) - uz
    dy = tl.load(u + count + there, mask=mask, other=0.0) - uy
    dx = tl.load(u + 2 * count + there, mask=mask, other=0.0) - ux
    return dz, dy, dx


@triton.jit
def _determinant(az, ay, ax, bz, by, bx, cz, cy, cx):
    return az * (by * cx - bx * cy) + ay * (bx * cz - bz * cx) + ax * (bz * cy - by * cz)


@triton.jit
def folding_voxels(u, out, count, nz, ny, nx, INNER: tl.constexpr, B: tl.constexpr):
    """Whether a simplex of a voxel folds: eight corners, and two inner tetrahedra in 3-D."""
    n = tl.program_id(0) * B + tl.arange(0, B)
    mask = n < count
    z, y, x = n // (ny * nx), n // nx % ny, n % nx
    uz = tl.load(u + n, mask=mask, other=0.0)
    uy = tl.load(u + count + n, mask=mask, other=0.0)
    ux = tl.load(u + 2 * count + n, mask=mask, other=0.0)
    zs, ys = ny * nx, nx
    down, up = tl.where(z > 0, -zs, 0), tl.where(z < nz - 1, zs, 0)
    front, back = tl.where(y > 0, -ys, 0), tl.where(y < ny - 1, ys, 0)
    left, right = tl.where(x > 0, -1, 0), tl.where(x < nx - 1, 1, 0)
    good = tl.full((B,), 1, tl.int1)
    for sz in tl.static_range(2):
        az, ay, ax = _edge(u, n, count, n + (up if sz else down), mask, uz, uy, ux)
        # Edges are turned ahead. Along an axis of one voxel nothing moves.
        az = (az if sz else -az) * (nz > 1) + 1
        ay = (ay if sz else -ay) * (nz > 1)
        ax = (ax if sz else -ax) * (nz > 1)
        for sy in tl.static_range(2):
            bz, by, bx = _edge(u, n, count, n + (back if sy else front), mask, uz, uy, ux)
            bz = (bz if sy else -bz) * (nz > 1) * (ny > 1)
            by = (by if sy else -by) * (ny > 1) + 1
            bx = (bx if sy else -bx) * (ny > 1)
            for sx in tl.static_range(2):
                cz, cy, cx = _edge(u, n, count, n + (right if sx else left), mask, uz, uy, ux)
                cz = (cz if sx else -cz) * (nz > 1) * (nx > 1)
                cy = (cy if sx else -cy) * (ny > 1) * (nx > 1)
                cx = (cx if sx else -cx) * (nx > 1) + 1
                good = good & (_determinant(az, ay, ax, bz, by, bx, cz, cy, cx) > 0)
    if INNER:
        for side in tl.static_range(2):
            p = up if side else down
            q = back if side else front
            r = right if side else left
            az, ay, ax = _edge(u, n, count, n + q + r, mask, uz, uy, ux)
            bz, by, bx = _edge(u, n, count, n + p + r, mask, uz, uy, ux)
            cz, cy, cx = _edge(u, n, count, n + p + q, mask, uz, uy, ux)
            az, ay, ax = (az, ay + 1, ax + 1) if side else (-az, 1 - ay, 1 - ax)
            bz, by, bx = (bz + 1, by, bx + 1) if side else (1 - bz, -by, 1 - bx)
            cz, cy, cx = (cz + 1, cy + 1, cx) if side else (1 - cz, 1 - cy, -cx)
            good = good & (_determinant(az, ay, ax, bz, by, bx, cz, cy, cx) > 0)
    tl.store(out + n, (good == 0).to(tl.int8), mask=mask)


@triton.jit
def _toward(index, step, size):
    """What a step along an axis adds to an index; nothing at the border."""
    return tl.where((index + step >= 0) & (index + step < size), step, 0)


@triton.jit
def _vertex(u, labels, glued, scale, offset, n, z, y, x, mask, count, nz, ny, nx, kinds,
            HAS_TABLE: tl.constexpr):  # fmt: skip
    """A vertex at an offset: its index, its edge turned ahead, whether it is glued and inside."""
    oz, oy, ox = tl.load(offset), tl.load(offset + 1), tl.load(offset + 2)
    mz, my, mx = _toward(z, oz, nz), _toward(y, oy, ny), _toward(x, ox, nx)
    there = n + (mz * ny + my) * nx + mx
    inside = (mz == oz) & (my == oy) & (mx == ox)
    sign = tl.where(oz + oy + ox > 0, 1.0, -1.0)
    ez = tl.load(u + there, mask=mask, other=0.0) - tl.load(u + n, mask=mask, other=0.0)
    ey = tl.load(u + count + there, mask=mask, other=0.0)
    ey -= tl.load(u + count + n, mask=mask, other=0.0)
    ex = tl.load(u + 2 * count + there, mask=mask, other=0.0)
    ex -= tl.load(u + 2 * count + n, mask=mask, other=0.0)
    ez = sign * ez * tl.load(scale) + tl.where(oz != 0, 1.0, 0.0)
    ey = sign * ey * tl.load(scale + 1) + tl.where(oy != 0, 1.0, 0.0)
    ex = sign * ex * tl.load(scale + 2) + tl.where(ox != 0, 1.0, 0.0)
    holds = mask
    if HAS_TABLE:
        own = tl.load(labels + n, mask=mask, other=0)
        other = tl.load(labels + there, mask=mask, other=0)
        holds = mask & (tl.load(glued + own * kinds + other, mask=mask, other=0) != 0)
    return there, ez, ey, ex, holds, inside, sign


@triton.jit
def low_simplices(
    at, u, labels, glued, scale, offsets, rest, low, limit, voxels, count, nz, ny, nx, kinds,
    HAS_TABLE: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Whether one simplex of each voxel is glued and has a determinant below the limit."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    simplex = tl.program_id(1)
    mask = i < voxels
    n = tl.load(at + i, mask=mask, other=0)
    z, y, x = n // (ny * nx), n // nx % ny, n % nx
    own = offsets + 9 * simplex
    _a, az, ay, ax, one, _b, _c = _vertex(
        u, labels, glued, scale, own, n, z, y, x, mask, count, nz, ny, nx, kinds, HAS_TABLE
    )
    _a, bz, by, bx, two, _b, _c = _vertex(
        u, labels, glued, scale, own + 3, n, z, y, x, mask, count, nz, ny, nx, kinds, HAS_TABLE
    )
    _a, cz, cy, cx, three, _b, _c = _vertex(
        u, labels, glued, scale, own + 6, n, z, y, x, mask, count, nz, ny, nx, kinds, HAS_TABLE
    )
    det = _determinant(az, ay, ax, bz, by, bx, cz, cy, cx) / tl.load(rest + simplex)
    is_low = (det < limit) & one & two & three
    tl.store(low + simplex * voxels + i, is_low.to(tl.int8), mask=mask)


@triton.jit
def _cross(az, ay, ax, bz, by, bx, fz, fy, fx):
    return fz * (ay * bx - ax * by), fy * (ax * bz - az * bx), fx * (az * by - ay * bz)


@triton.jit
def _put(slots, slot, i, voxels, step, sz, sy, sx, mask):
    """Write the move of one vertex, and whether there is one."""
    moves = (sz != 0) | (sy != 0) | (sx != 0)
    place = slots + 4 * slot * voxels + i
    tl.store(place, step * sz, mask=mask)
    tl.store(place + voxels, step * sy, mask=mask)
    tl.store(place + 2 * voxels, step * sx, mask=mask)
    tl.store(place + 3 * voxels, tl.where(moves, 1.0, 0.0), mask=mask)


@triton.jit
def _is_free(still, n, mask, HAS_STILL: tl.constexpr):
    free = tl.where(mask, 1.0, 0.0)
    if HAS_STILL:
        free = tl.where(tl.load(still + n, mask=mask, other=0) != 0, 0.0, free)
    return free


@triton.jit
def simplex_moves(
    at, u, labels, glued, scale, still, offsets, rest, slots, limit, wanted, least_length,
    voxels, count, nz, ny, nx, kinds,
    HAS_TABLE: tl.constexpr, HAS_STILL: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The moves of the four vertices of one simplex of each voxel, zero where it is not low."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    simplex = tl.program_id(1)
    mask = i < voxels
    n = tl.load(at + i, mask=mask, other=0)
    z, y, x = n // (ny * nx), n // nx % ny, n % nx
    own = offsets + 9 * simplex
    a, az, ay, ax, one, a_in, a_sign = _vertex(
        u, labels, glued, scale, own, n, z, y, x, mask, count, nz, ny, nx, kinds, HAS_TABLE
    )
    b, bz, by, bx, two, b_in, b_sign = _vertex(
        u, labels, glued, scale, own + 3, n, z, y, x, mask, count, nz, ny, nx, kinds, HAS_TABLE
    )
    c, cz, cy, cx, three, c_in, c_sign = _vertex(
        u, labels, glued, scale, own + 6, n, z, y, x, mask, count, nz, ny, nx, kinds, HAS_TABLE
    )
    size = tl.load(rest + simplex)
    det = _determinant(az, ay, ax, bz, by, bx, cz, cy, cx) / size
    is_low = (det < limit) & one & two & three
    kz, ky, kx = tl.load(scale), tl.load(scale + 1), tl.load(scale + 2)
    # The slope of the determinant by each vertex is the cross product of the other two edges.
    f = a_sign / size
    pz, py, px = _cross(bz, by, bx, cz, cy, cx, f * kz, f * ky, f * kx)
    f = b_sign / size
    qz, qy, qx = _cross(cz, cy, cx, az, ay, ax, f * kz, f * ky, f * kx)
    f = c_sign / size
    rz, ry, rx = _cross(az, ay, ax, bz, by, bx, f * kz, f * ky, f * kx)
    # A stand-in that is the voxel itself does not turn the simplex.
    turns_a, turns_b = tl.where(a != n, 1.0, 0.0), tl.where(b != n, 1.0, 0.0)
    turns_c = tl.where(c != n, 1.0, 0.0)
    free = _is_free(still, n, mask, HAS_STILL)
    oz = -free * (turns_a * pz + turns_b * qz + turns_c * rz)
    oy = -free * (turns_a * py + turns_b * qy + turns_c * ry)
    ox = -free * (turns_a * px + turns_b * qx + turns_c * rx)
    f = tl.where(a_in, _is_free(still, a, mask, HAS_STILL), 0.0)
    pz, py, px = f * pz, f * py, f * px
    f = tl.where(b_in, _is_free(still, b, mask, HAS_STILL), 0.0)
    qz, qy, qx = f * qz, f * qy, f * qx
    f = tl.where(c_in, _is_free(still, c, mask, HAS_STILL), 0.0)
    rz, ry, rx = f * rz, f * ry, f * rx
    length = pz * pz + py * py + px * px + qz * qz + qy * qy + qx * qx
    length += rz * rz + ry * ry + rx * rx + oz * oz + oy * oy + ox * ox
    step = (wanted - det) / tl.maximum(length, least_length)
    on = tl.where(is_low, 1.0, 0.0)
    slot = 4 * simplex
    _put(slots, slot, i, voxels, step, on * pz, on * py, on * px, mask)
    _put(slots, slot + 1, i, voxels, step, on * qz, on * qy, on * qx, mask)
    _put(slots, slot + 2, i, voxels, step, on * rz, on * ry, on * rx, mask)
    _put(slots, slot + 3, i, voxels, step, on * oz, on * oy, on * ox, mask)


@triton.jit
def apply_moves(
    at, number, u, offsets, slots, overshoot, voxels, count, nz, ny, nx,
    SLOTS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Move the vertex behind one slot of each voxel by the mean of all moves that it was given.

    ``number`` holds the place of each voxel of the grid in the list ``at``, -1 if it is not there.
    A vertex is moved by the first slot that leads to it.
    """
    i = tl.program_id(0) * B + tl.arange(0, B)
    slot = tl.program_id(1)
    mask = i < voxels
    n = tl.load(at + i, mask=mask, other=0)
    own = offsets + 3 * slot
    z = n // (ny * nx) + tl.load(own)
    y = n // nx % ny + tl.load(own + 1)
    x = n % nx + tl.load(own + 2)
    mask = mask & (z >= 0) & (z < nz) & (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
    zero = tl.zeros((B,), tl.float32)
    sum_z, sum_y, sum_x, given = zero, zero, zero, zero
    first = tl.full((B,), SLOTS, tl.int32)
    for k in range(SLOTS):
        other = offsets + 3 * k
        sz, sy, sx = z - tl.load(other), y - tl.load(other + 1), x - tl.load(other + 2)
        there = mask & (sz >= 0) & (sz < nz) & (sy >= 0) & (sy < ny) & (sx >= 0) & (sx < nx)
        source = tl.load(number + (sz * ny + sy) * nx + sx, mask=there, other=-1)
        there = there & (source >= 0)
        first = tl.minimum(first, tl.where(there, k, SLOTS))
        place = slots + 4 * k * voxels + source
        sum_z += tl.load(place, mask=there, other=0.0)
        sum_y += tl.load(place + voxels, mask=there, other=0.0)
        sum_x += tl.load(place + 2 * voxels, mask=there, other=0.0)
        given += tl.load(place + 3 * voxels, mask=there, other=0.0)
    share = overshoot / tl.maximum(given, 1.0)
    moves = mask & (first == slot) & (given > 0)
    target = u + (z * ny + y) * nx + x
    tl.store(target, tl.load(target, mask=moves, other=0.0) + share * sum_z, mask=moves)
    target += count
    tl.store(target, tl.load(target, mask=moves, other=0.0) + share * sum_y, mask=moves)
    target += count
    tl.store(target, tl.load(target, mask=moves, other=0.0) + share * sum_x, mask=moves)


@triton.jit
def mark_around(at, marks, reach, voxels, nz, ny, nx, B: tl.constexpr):
    """Mark the voxels in the boxes around some voxels."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    width = 2 * reach + 1
    k = tl.program_id(1)
    n = tl.load(at + i, mask=i < voxels, other=0)
    z = n // (ny * nx) + k // (width * width) - reach
    y = n // nx % ny + k // width % width - reach
    x = n % nx + k % width - reach
    mask = (i < voxels) & (z >= 0) & (z < nz) & (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
    tl.store(marks + (z * ny + y) * nx + x, tl.full((B,), 1, tl.int8), mask=mask)
