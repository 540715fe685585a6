"""The compiled loop that marks what the mapped parts of voxels reach."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iterreg.kernels.cpu._compile import Array, Indices, Rows, compiled, inlined
from iterreg.kernels.reach import LONGEST_REACH_VOX, LONGEST_STEP_VOX, SEAM_VOX

Mask = NDArray[np.bool_]


@inlined
def _differences(
    region: Rows, mapped: Array, at: Indices, axis: int, forward: Array, backward: Array
) -> None:
    """Set the map's differences along an axis: see ``_steps`` of the definition."""
    z, y, x = at[0], at[1], at[2]
    dz, dy, dx = int(axis == 0), int(axis == 1), int(axis == 2)
    own = region[z, y, x]
    is_ahead, is_behind = at[axis] < region.shape[axis] - 1, at[axis] > 0
    has_ahead = is_ahead and region[z + dz, y + dy, x + dx] == own
    has_behind = is_behind and region[z - dz, y - dy, x - dx] == own
    most = np.float32(1e30)
    if not has_ahead and not has_behind:
        has_ahead, has_behind, most = is_ahead, is_behind, np.float32(LONGEST_STEP_VOX)
    for c in range(3):
        here = mapped[c, z, y, x]
        ahead = mapped[c, z + dz, y + dy, x + dx] - here if has_ahead else np.float32(0)
        behind = here - mapped[c, z - dz, y - dy, x - dx] if has_behind else np.float32(0)
        ahead, behind = min(max(ahead, -most), most), min(max(behind, -most), most)
        forward[axis, c] = ahead if has_ahead else behind
        backward[axis, c] = behind if has_behind else ahead


@compiled
def mark_reached(
    begin: int,
    end: int,
    region: Rows,
    mapped: Array,
    goal: Rows,
    sources: Indices,
    parts: int,
    reached: Mask,
) -> None:
    """See :func:`iterreg.kernels.reach.mark_reached`: the same voxel by voxel.

    Two threads may mark the same voxel; both write True.
    """
    ny, nx = region.shape[1:]
    cut_z = parts if region.shape[0] > 1 else 1
    cut_y, cut_x = parts if ny > 1 else 1, parts if nx > 1 else 1
    at = np.empty(3, np.int64)
    forward, backward = np.empty((3, 3), np.float32), np.empty((3, 3), np.float32)
    reach, position = np.empty(3, np.float32), np.empty(3, np.float32)
    slab, row = np.empty(3, np.float32), np.empty(3, np.float32)
    for n in range(begin, end):
        at[0], at[1], at[2] = sources[n] // (ny * nx), sources[n] // nx % ny, sources[n] % nx
        for axis in range(3):
            _differences(region, mapped, at, axis, forward, backward)
        for c in range(3):
            reach[c] = np.float32(0.5 if region.shape[c] == 1 else SEAM_VOX)
            for axis in range(3):
                longest = max(abs(forward[axis, c]), abs(backward[axis, c]))
                reach[c] += longest / np.float32(2 * parts)
        if max(reach[0], reach[1], reach[2]) > LONGEST_REACH_VOX:
            continue
        own = region[at[0], at[1], at[2]]
        for i in range(cut_z):
            _move(mapped[:, at[0], at[1], at[2]], forward[0], backward[0], i, cut_z, slab)
            for j in range(cut_y):
                _move(slab, forward[1], backward[1], j, cut_y, row)
                for k in range(cut_x):
                    _move(row, forward[2], backward[2], k, cut_x, position)
                    _mark(position, reach, goal, own, reached)


@inlined
def _move(
    start: Array, forward: Array, backward: Array, part: int, parts: int, into: Array
) -> None:
    """Set ``into`` to the centre of a part along one axis."""
    offset = np.float32(2 * part + 1 - parts) / np.float32(2 * parts)
    for c in range(3):
        into[c] = start[c] + (forward[c] if offset > 0 else backward[c]) * offset


@inlined
def _mark(position: Array, reach: Array, goal: Rows, own: int, reached: Mask) -> None:
    """Mark the voxel nearest to a part, if it is of the same region and within reach."""
    z, y, x = np.rint(position[0]), np.rint(position[1]), np.rint(position[2])
    if not (abs(position[0] - z) <= reach[0] and abs(position[1] - y) <= reach[1]):
        return
    if not abs(position[2] - x) <= reach[2]:
        return
    if not (0 <= z < goal.shape[0] - 2 and 0 <= y < goal.shape[1] - 2):
        return
    if not 0 <= x < goal.shape[2] - 2:
        return
    iz, iy, ix = int(z) + 1, int(y) + 1, int(x) + 1
    if goal[iz, iy, ix] == own:
        reached[iz, iy, ix] = True
