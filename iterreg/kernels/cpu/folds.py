"""The compiled loop that looks for folds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iterreg.kernels.cpu._compile import Array, compiled, inlined

Mask = NDArray[np.bool_]

OWN, DOWN, UP, FRONT, BACK, DOWN_FRONT, UP_BACK = range(7)
"""Rows around a voxel's own one: lower and higher z, lower and higher y, and both."""


@inlined
def _take_row(u: Array, z: int, y: int, row: Array) -> None:
    """Copy a row of the field, (3, nx + 2), its ends repeated."""
    nx = u.shape[3]
    for c in range(3):
        for x in range(nx):
            row[c, x + 1] = u[c, z, y, x]
        row[c, 0], row[c, nx + 1] = u[c, z, y, 0], u[c, z, y, nx - 1]


@inlined
def _folding_row(rows: Array, out: Mask) -> None:
    """Whether a simplex of each voxel of a row folds.

    Edges are turned ahead: a along z, b along y, c along x, 0 behind the voxel and 1 ahead of it.
    p, q and r are the edges of an inner tetrahedron, across x, y and z.
    """
    one, zero = np.float32(1), np.float32(0)
    own, down, up = rows[OWN], rows[DOWN], rows[UP]
    front, back = rows[FRONT], rows[BACK]
    down_front, up_back = rows[DOWN_FRONT], rows[UP_BACK]
    for n in range(len(out)):
        k = n + 1
        z, y, x = own[0, k], own[1, k], own[2, k]
        a1z, a1y, a1x = up[0, k] - z + one, up[1, k] - y, up[2, k] - x
        a0z, a0y, a0x = z - down[0, k] + one, y - down[1, k], x - down[2, k]
        b1z, b1y, b1x = back[0, k] - z, back[1, k] - y + one, back[2, k] - x
        b0z, b0y, b0x = z - front[0, k], y - front[1, k] + one, x - front[2, k]
        c1z, c1y, c1x = own[0, k + 1] - z, own[1, k + 1] - y, own[2, k + 1] - x + one
        c0z, c0y, c0x = z - own[0, k - 1], y - own[1, k - 1], x - own[2, k - 1] + one
        # Cross products of the edges along y and x serve both edges along z.
        d00z, d00y, d00x = (b0y * c0x - b0x * c0y, b0x * c0z - b0z * c0x, b0z * c0y - b0y * c0z)
        d01z, d01y, d01x = (b0y * c1x - b0x * c1y, b0x * c1z - b0z * c1x, b0z * c1y - b0y * c1z)
        d10z, d10y, d10x = (b1y * c0x - b1x * c0y, b1x * c0z - b1z * c0x, b1z * c0y - b1y * c0z)
        d11z, d11y, d11x = (b1y * c1x - b1x * c1y, b1x * c1z - b1z * c1x, b1z * c1y - b1y * c1z)
        least = min(
            min(
                min(a0z * d00z + a0y * d00y + a0x * d00x, a0z * d01z + a0y * d01y + a0x * d01x),
                min(a0z * d10z + a0y * d10y + a0x * d10x, a0z * d11z + a0y * d11y + a0x * d11x),
            ),
            min(
                min(a1z * d00z + a1y * d00y + a1x * d00x, a1z * d01z + a1y * d01y + a1x * d01x),
                min(a1z * d10z + a1y * d10y + a1x * d10x, a1z * d11z + a1y * d11y + a1x * d11x),
            ),
        )
        pz, py, px = back[0, k + 1] - z, back[1, k + 1] - y + one, back[2, k + 1] - x + one
        qz, qy, qx = up[0, k + 1] - z + one, up[1, k + 1] - y, up[2, k + 1] - x + one
        rz, ry, rx = up_back[0, k] - z + one, up_back[1, k] - y + one, up_back[2, k] - x
        ahead = pz * (qy * rx - qx * ry) + py * (qx * rz - qz * rx) + px * (qz * ry - qy * rz)
        pz, py, px = z - front[0, k - 1], y - front[1, k - 1] + one, x - front[2, k - 1] + one
        qz, qy, qx = z - down[0, k - 1] + one, y - down[1, k - 1], x - down[2, k - 1] + one
        rz, ry, rx = z - down_front[0, k] + one, y - down_front[1, k] + one, x - down_front[2, k]
        behind = pz * (qy * rx - qx * ry) + py * (qx * rz - qz * rx) + px * (qz * ry - qy * rz)
        out[n] = min(least, min(ahead, behind)) <= zero


@compiled
def folding_voxels(begin: int, end: int, u: Array, out: Mask) -> None:
    """See :func:`iterreg.kernels.reference.folding_voxels`: the same row by row.

    Args:
        begin, end: rows of the volume.
        u: (3, Z, Y, X), finite; at least two voxels along each axis.
        out: (Z, Y, X), filled.
    """
    nz, ny, nx = u.shape[1:]
    rows = np.empty((7, 3, nx + 2), np.float32)
    for n in range(begin, end):
        z, y = n // ny, n % ny
        below, above = max(z - 1, 0), min(z + 1, nz - 1)
        before, behind = max(y - 1, 0), min(y + 1, ny - 1)
        _take_row(u, z, y, rows[OWN])
        _take_row(u, below, y, rows[DOWN])
        _take_row(u, above, y, rows[UP])
        _take_row(u, z, before, rows[FRONT])
        _take_row(u, z, behind, rows[BACK])
        _take_row(u, below, before, rows[DOWN_FRONT])
        _take_row(u, above, behind, rows[UP_BACK])
        _folding_row(rows, out[z, y])
