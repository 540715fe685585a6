"""The compiled loop that carries a displacement to a finer grid."""

from __future__ import annotations

import numpy as np

from iterreg.kernels.cpu._compile import Array, compiled


@compiled
def upsample(
    begin: int,
    end: int,
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
    ny, nx = fine_labels.shape[1:]
    for row in range(begin, end):
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
