"""Triton programs of the linear algebra: Laplacian, normal jumps, conjugate gradients.

A program handles a block of voxels and writes its own place in a list of partial sums, which one
program adds up afterwards. Nothing is added by several programs at once, so the result has the same
bytes each time.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _row_of(n, nx, active_rows, mask):
    """Whether voxels lie in the part of their row that may move."""
    row, x = n // nx, n % nx
    first = tl.load(active_rows + 2 * row, mask=mask, other=0)
    last = tl.load(active_rows + 2 * row + 1, mask=mask, other=0)
    return (x >= first) & (x < last)


@triton.jit
def _inverse(zz, zy, zx, yy, yx, xx):
    """The inverse of a symmetric 3 x 3 matrix, six entries."""
    a = yy * xx - yx * yx
    b = zx * yx - zy * xx
    c = zy * yx - zx * yy
    scale = 1.0 / (zz * a + zy * b + zx * c)
    d = (zz * xx - zx * zx) * scale
    e = (zy * zx - zz * yx) * scale
    f = (zz * yy - zy * zy) * scale
    return a * scale, b * scale, c * scale, d, e, f


@triton.jit
def _edges_of(edges, n, mask, count, nz, ny, nx):
    """The weights of a voxel's six edges: to below and above along z, then y, then x."""
    plane = ny * nx
    z, y, x = n // plane, n // nx % ny, n % nx
    below, above = mask & (z > 0), mask & (z < nz - 1)
    front, back = mask & (y > 0), mask & (y < ny - 1)
    left, right = mask & (x > 0), mask & (x < nx - 1)
    z0 = tl.load(edges + n - plane, mask=below, other=0.0)
    z1 = tl.load(edges + n, mask=above, other=0.0)
    y0 = tl.load(edges + count + n - nx, mask=front, other=0.0)
    y1 = tl.load(edges + count + n, mask=back, other=0.0)
    x0 = tl.load(edges + 2 * count + n - 1, mask=left, other=0.0)
    x1 = tl.load(edges + 2 * count + n, mask=right, other=0.0)
    return z0, z1, y0, y1, x0, x1, below, above, front, back, left, right


@triton.jit
def add_laplacian(v, edges, into, partial, count, nz, ny, nx, B: tl.constexpr):
    """Add ``L v`` to ``into``; each program's part of ``v . L v``."""
    n = tl.program_id(0) * B + tl.arange(0, B)
    mask = n < count
    z0, z1, y0, y1, x0, x1, below, above, front, back, left, right = _edges_of(
        edges, n, mask, count, nz, ny, nx
    )
    plane = ny * nx
    dot = tl.zeros((B,), tl.float32)
    for c in tl.static_range(3):
        own = v + c * count + n
        here = tl.load(own, mask=mask, other=0.0)
        total = z0 * (here - tl.load(own - plane, mask=below, other=0.0))
        total += z1 * (here - tl.load(own + plane, mask=above, other=0.0))
        total += y0 * (here - tl.load(own - nx, mask=front, other=0.0))
        total += y1 * (here - tl.load(own + nx, mask=back, other=0.0))
        total += x0 * (here - tl.load(own - 1, mask=left, other=0.0))
        total += x1 * (here - tl.load(own + 1, mask=right, other=0.0))
        at = into + c * count + n
        tl.store(at, tl.load(at, mask=mask, other=0.0) + total, mask=mask)
        dot += here * total
    tl.store(partial + tl.program_id(0), tl.sum(dot.to(tl.float64), 0))


@triton.jit
def add_normal_jump(v, voxels, there, across, into, partial, faces, count, B: tl.constexpr):
    """Add ``J v`` at the voxels of interfaces; each program's part of ``v . J v``.

    ``there`` (6, faces) is the voxel behind each of a voxel's six faces, -1 without one; ``across``
    is (6, 3, faces).
    """
    e = tl.program_id(0) * B + tl.arange(0, B)
    mask = e < faces
    n = tl.load(voxels + e, mask=mask, other=0)
    vz = tl.load(v + n, mask=mask, other=0.0)
    vy = tl.load(v + count + n, mask=mask, other=0.0)
    vx = tl.load(v + 2 * count + n, mask=mask, other=0.0)
    oz, oy, ox = tl.zeros((B,), tl.float32), tl.zeros((B,), tl.float32), tl.zeros((B,), tl.float32)
    for side in tl.static_range(6):
        other = tl.load(there + side * faces + e, mask=mask, other=-1)
        has = mask & (other >= 0)
        az = tl.load(across + (3 * side) * faces + e, mask=has, other=0.0)
        ay = tl.load(across + (3 * side + 1) * faces + e, mask=has, other=0.0)
        ax = tl.load(across + (3 * side + 2) * faces + e, mask=has, other=0.0)
        jump = az * (vz - tl.load(v + other, mask=has, other=0.0))
        jump += ay * (vy - tl.load(v + count + other, mask=has, other=0.0))
        jump += ax * (vx - tl.load(v + 2 * count + other, mask=has, other=0.0))
        oz += az * jump
        oy += ay * jump
        ox += ax * jump
    tl.store(into + n, tl.load(into + n, mask=mask, other=0.0) + oz, mask=mask)
    at = into + count + n
    tl.store(at, tl.load(at, mask=mask, other=0.0) + oy, mask=mask)
    at = into + 2 * count + n
    tl.store(at, tl.load(at, mask=mask, other=0.0) + ox, mask=mask)
    dot = (vz * oz + vy * oy + vx * ox).to(tl.float64)
    tl.store(partial + tl.program_id(0), tl.sum(dot, 0))


@triton.jit
def invert_blocks(
    curvature, edges, active_rows, out, count, nz, ny, nx, damping, share, B: tl.constexpr
):
    """The inverse blocks of the preconditioner; zero where nothing may move."""
    n = tl.program_id(0) * B + tl.arange(0, B)
    mask = n < count
    z0, z1, y0, y1, x0, x1, _0, _1, _2, _3, _4, _5 = _edges_of(edges, n, mask, count, nz, ny, nx)
    own = curvature + n
    zz = tl.load(own, mask=mask, other=1.0)
    zy = tl.load(own + count, mask=mask, other=0.0)
    zx = tl.load(own + 2 * count, mask=mask, other=0.0)
    yy = tl.load(own + 3 * count, mask=mask, other=1.0)
    yx = tl.load(own + 4 * count, mask=mask, other=0.0)
    xx = tl.load(own + 5 * count, mask=mask, other=1.0)
    d = z0 + z1 + y0 + y1 + x0 + x1 + damping + share * (zz + yy + xx)
    a, b, c, e, f, i = _inverse(zz + d, zy, zx, yy + d, yx, xx + d)
    moves = _row_of(n, nx, active_rows, mask)
    tl.store(out + n, tl.where(moves, a, 0.0), mask=mask)
    tl.store(out + count + n, tl.where(moves, b, 0.0), mask=mask)
    tl.store(out + 2 * count + n, tl.where(moves, c, 0.0), mask=mask)
    tl.store(out + 3 * count + n, tl.where(moves, e, 0.0), mask=mask)
    tl.store(out + 4 * count + n, tl.where(moves, f, 0.0), mask=mask)
    tl.store(out + 5 * count + n, tl.where(moves, i, 0.0), mask=mask)


@triton.jit
def correct_at_interfaces(
    curvature, edges, active_rows, voxels, blocks, out, faces, count, nz, ny, nx, damping, share,
    B: tl.constexpr,
):  # fmt: skip
    """The inverse blocks at interfaces, where the penalty of normal jumps adds to them."""
    e = tl.program_id(0) * B + tl.arange(0, B)
    mask = e < faces
    n = tl.load(voxels + e, mask=mask, other=0)
    z0, z1, y0, y1, x0, x1, _0, _1, _2, _3, _4, _5 = _edges_of(edges, n, mask, count, nz, ny, nx)
    own, extra = curvature + n, blocks + e
    zz = tl.load(own, mask=mask, other=1.0)
    yy = tl.load(own + 3 * count, mask=mask, other=1.0)
    xx = tl.load(own + 5 * count, mask=mask, other=1.0)
    d = z0 + z1 + y0 + y1 + x0 + x1 + damping + share * (zz + yy + xx)
    zz += d + tl.load(extra, mask=mask, other=0.0)
    zy = tl.load(own + count, mask=mask, other=0.0)
    zy += tl.load(extra + faces, mask=mask, other=0.0)
    zx = tl.load(own + 2 * count, mask=mask, other=0.0)
    zx += tl.load(extra + 2 * faces, mask=mask, other=0.0)
    yy += d + tl.load(extra + 3 * faces, mask=mask, other=0.0)
    yx = tl.load(own + 4 * count, mask=mask, other=0.0)
    yx += tl.load(extra + 4 * faces, mask=mask, other=0.0)
    xx += d + tl.load(extra + 5 * faces, mask=mask, other=0.0)
    a, b, c, m, f, i = _inverse(zz, zy, zx, yy, yx, xx)
    moves = mask & _row_of(n, nx, active_rows, mask)
    tl.store(out + n, a, mask=moves)
    tl.store(out + count + n, b, mask=moves)
    tl.store(out + 2 * count + n, c, mask=moves)
    tl.store(out + 3 * count + n, m, mask=moves)
    tl.store(out + 4 * count + n, f, mask=moves)
    tl.store(out + 5 * count + n, i, mask=moves)


@triton.jit
def _direction(preconditioned, old, beta, at, mask):
    """The new direction at some voxels, from the last one and the preconditioned residual."""
    rest = tl.load(preconditioned + at, mask=mask, other=0.0)
    return rest + beta * tl.load(old + at, mask=mask, other=0.0)


@triton.jit
def cg_product(
    preconditioned, old, scalars, edges, curvature, direction, product, partial, count, nz, ny, nx,
    B: tl.constexpr,
):  # fmt: skip
    """``direction = preconditioned + beta old`` and ``product = (curvature + L) direction``.

    The direction is written beside the old one, because other programs still read that one.
    """
    n = tl.program_id(0) * B + tl.arange(0, B)
    mask = n < count
    beta = tl.load(scalars + 2)
    z0, z1, y0, y1, x0, x1, below, above, front, back, left, right = _edges_of(
        edges, n, mask, count, nz, ny, nx
    )
    plane = ny * nx
    vz = _direction(preconditioned, old, beta, n, mask)
    vy = _direction(preconditioned, old, beta, count + n, mask)
    vx = _direction(preconditioned, old, beta, 2 * count + n, mask)
    own = curvature + n
    zz, zy = tl.load(own, mask=mask, other=0.0), tl.load(own + count, mask=mask, other=0.0)
    zx = tl.load(own + 2 * count, mask=mask, other=0.0)
    yy = tl.load(own + 3 * count, mask=mask, other=0.0)
    yx = tl.load(own + 4 * count, mask=mask, other=0.0)
    xx = tl.load(own + 5 * count, mask=mask, other=0.0)
    dot = tl.zeros((B,), tl.float32)
    for c in tl.static_range(3):
        at = c * count + n
        if c == 0:
            here = vz
            total = zz * vz + zy * vy + zx * vx
        elif c == 1:
            here = vy
            total = zy * vz + yy * vy + yx * vx
        else:
            here = vx
            total = zx * vz + yx * vy + xx * vx
        total += z0 * (here - _direction(preconditioned, old, beta, at - plane, below))
        total += z1 * (here - _direction(preconditioned, old, beta, at + plane, above))
        total += y0 * (here - _direction(preconditioned, old, beta, at - nx, front))
        total += y1 * (here - _direction(preconditioned, old, beta, at + nx, back))
        total += x0 * (here - _direction(preconditioned, old, beta, at - 1, left))
        total += x1 * (here - _direction(preconditioned, old, beta, at + 1, right))
        tl.store(direction + at, here, mask=mask)
        tl.store(product + at, total, mask=mask)
        dot += here * total
    tl.store(partial + tl.program_id(0), tl.sum(dot.to(tl.float64), 0))


@triton.jit
def cg_update(
    step, residual, direction, product, blocks, scalars, preconditioned, partial, count,
    B: tl.constexpr,
):  # fmt: skip
    """Move along the direction, and precondition what remains; each program's part of their dot."""
    n = tl.program_id(0) * B + tl.arange(0, B)
    mask = n < count
    alpha = tl.load(scalars + 1)
    for c in tl.static_range(3):
        at = step + c * count + n
        along = tl.load(direction + c * count + n, mask=mask, other=0.0)
        tl.store(at, tl.load(at, mask=mask, other=0.0) + alpha * along, mask=mask)
    rz = tl.load(residual + n, mask=mask, other=0.0)
    ry = tl.load(residual + count + n, mask=mask, other=0.0)
    rx = tl.load(residual + 2 * count + n, mask=mask, other=0.0)
    rz -= alpha * tl.load(product + n, mask=mask, other=0.0)
    ry -= alpha * tl.load(product + count + n, mask=mask, other=0.0)
    rx -= alpha * tl.load(product + 2 * count + n, mask=mask, other=0.0)
    tl.store(residual + n, rz, mask=mask)
    tl.store(residual + count + n, ry, mask=mask)
    tl.store(residual + 2 * count + n, rx, mask=mask)
    own = blocks + n
    zy = tl.load(own + count, mask=mask, other=0.0)
    zx = tl.load(own + 2 * count, mask=mask, other=0.0)
    yx = tl.load(own + 4 * count, mask=mask, other=0.0)
    oz = tl.load(own, mask=mask, other=0.0) * rz + zy * ry + zx * rx
    oy = zy * rz + tl.load(own + 3 * count, mask=mask, other=0.0) * ry + yx * rx
    ox = zx * rz + yx * ry + tl.load(own + 5 * count, mask=mask, other=0.0) * rx
    tl.store(preconditioned + n, oz, mask=mask)
    tl.store(preconditioned + count + n, oy, mask=mask)
    tl.store(preconditioned + 2 * count + n, ox, mask=mask)
    dot = (rz * oz + ry * oy + rx * ox).to(tl.float64)
    tl.store(partial + tl.program_id(0), tl.sum(dot, 0))


@triton.jit
def _total(partial, count, B: tl.constexpr):
    """The sum of a list, always in the same order."""
    total = tl.zeros((B,), tl.float64)
    for first in range(0, count, B):
        n = first + tl.arange(0, B)
        total += tl.load(partial + n, mask=n < count, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def cg_alpha(partial, count, scalars, B: tl.constexpr):
    """The length of the step along the direction: ``old / (direction . product)``."""
    along = tl.maximum(_total(partial, count, B), 1e-30).to(tl.float32)
    tl.store(scalars + 1, tl.load(scalars) / along)


@triton.jit
def cg_beta(partial, count, scalars, B: tl.constexpr):
    """How much of the old direction is kept: ``new / old``, and new becomes old."""
    new = _total(partial, count, B).to(tl.float32)
    tl.store(scalars + 2, new / tl.maximum(tl.load(scalars), 1e-30))
    tl.store(scalars, new)
