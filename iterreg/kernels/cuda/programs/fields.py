"""The Triton program that carries a field to a finer grid."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _corner(
    corner: tl.constexpr, lz, ly, lx, tz, ty, tx, own, mask, coarse_labels, affinity, labels,
    cz, cy, cx,
):  # fmt: skip
    """One of the eight coarse corners of each fine voxel: its place, and how much it counts."""
    dz: tl.constexpr = corner // 4
    dy: tl.constexpr = corner // 2 % 2
    dx: tl.constexpr = corner % 2
    iz = tl.minimum(lz + dz, cz - 1)
    iy = tl.minimum(ly + dy, cy - 1)
    ix = tl.minimum(lx + dx, cx - 1)
    at = (iz * cy + iy) * cx + ix
    there = tl.load(coarse_labels + at, mask=mask, other=0)
    share = tl.load(affinity + own * labels + there, mask=mask, other=1.0)
    weight = (tz if dz else 1.0 - tz) * (ty if dy else 1.0 - ty) * (tx if dx else 1.0 - tx)
    return at, weight * share


@triton.jit
def upsample(
    coarse, coarse_labels, fine_labels, scale, shift, affinity, out, count, nz, ny, nx, cz, cy, cx,
    labels, C: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Label-aware linear interpolation of a block of fine voxels."""
    n = tl.program_id(0) * B + tl.arange(0, B)
    mask = n < count
    z, y, x = n // (ny * nx), n // nx % ny, n % nx
    qz = tl.minimum(tl.maximum(tl.load(scale) * z + tl.load(shift), 0.0), cz - 1.0)
    qy = tl.minimum(tl.maximum(tl.load(scale + 1) * y + tl.load(shift + 1), 0.0), cy - 1.0)
    qx = tl.minimum(tl.maximum(tl.load(scale + 2) * x + tl.load(shift + 2), 0.0), cx - 1.0)
    lz, ly, lx = qz.to(tl.int32), qy.to(tl.int32), qx.to(tl.int32)
    tz, ty, tx = qz - lz, qy - ly, qx - lx
    own = tl.load(fine_labels + n, mask=mask, other=0)
    size = cz * cy * cx
    mass = tl.zeros((B,), tl.float32)
    for corner in tl.static_range(8):
        at, weight = _corner(
            corner, lz, ly, lx, tz, ty, tx, own, mask, coarse_labels, affinity, labels, cz, cy, cx
        )
        mass += weight
    for c in tl.static_range(C):
        total = tl.zeros((B,), tl.float32)
        for corner in tl.static_range(8):
            at, weight = _corner(
                corner, lz, ly, lx, tz, ty, tx, own, mask, coarse_labels, affinity, labels,
                cz, cy, cx,
            )  # fmt: skip
            total += weight * tl.load(coarse + c * size + at, mask=mask, other=0.0)
        tl.store(out + c * count + n, total / mass, mask=mask)
