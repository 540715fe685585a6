"""The compiled loop that marks what mapped voxels reach."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from iterreg.kernels.cpu._compile import Array, Indices, Rows, compiled, inlined
from iterreg.kernels.reach import LARGEST_HALF_VOX, LEAST_VOLUME, LONGEST_STEP_VOX, SEAM

Mask = NDArray[np.bool_]

HALF = np.float32(0.5 + SEAM)


@inlined
def _differences(
    region: Rows, mapped: Array, at: Indices, axis: int, forward: Array, backward: Array
) -> None:
    """Set the map's differences along an axis: see ``_steps`` of the definition."""
    if region.shape[axis] == 1:
        for c in range(3):
            forward[axis, c] = backward[axis, c] = np.float32(c == axis)
        return
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
    begin: int, end: int, region: Rows, mapped: Array, goal: Rows, reached: Mask
) -> None:
    """See :func:`iterreg.kernels.reach.mark_reached`: the same voxel by voxel.

    Two threads may mark the same voxel; both write True.
    """
    ny, nx = region.shape[1:]
    at = np.empty(3, np.int64)
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    forward, backward = np.empty((3, 3), np.float32), np.empty((3, 3), np.float32)
    columns, back = np.empty((3, 3), np.float32), np.empty(3, np.float32)
    apart = np.empty(3, np.float32)
    for n in range(begin, end):
        at[0], at[1], at[2] = n // (ny * nx), n // nx % ny, n % nx
        own = region[at[0], at[1], at[2]]
        if own == 0:
            continue
        for axis in range(3):
            _differences(region, mapped, at, axis, forward, backward)
        centre = mapped[:, at[0], at[1], at[2]]
        if not _box(centre, forward, backward, goal, low, high):
            continue
        for z in range(low[0], high[0] + 1):
            for y in range(low[1], high[1] + 1):
                for x in range(low[2], high[2] + 1):
                    if goal[z, y, x] != own or reached[z, y, x]:
                        continue
                    apart[0], apart[1], apart[2] = z - centre[0], y - centre[1], x - centre[2]
                    if _holds(forward, backward, apart, columns, back):
                        reached[z, y, x] = True


@inlined
def _box(
    centre: Array, forward: Array, backward: Array, goal: Rows, low: Indices, high: Indices
) -> bool:
    """Set the bounding box of a mapped voxel; return False if it is torn, not stretched."""
    fits = True
    for c in range(3):
        half = np.float32(0)
        for axis in range(3):
            half += max(abs(forward[axis, c]), abs(backward[axis, c]))
        half *= HALF
        if half > LARGEST_HALF_VOX:
            fits = False
        else:
            low[c] = max(math.ceil(centre[c] - half), 0)
            high[c] = min(math.floor(centre[c] + half), goal.shape[c] - 1)
    return fits


@inlined
def _holds(forward: Array, backward: Array, apart: Array, columns: Array, back: Array) -> bool:
    """Whether the octant that a centre lies in reaches it: the mean tells which, and it whether."""
    for attempt in range(2):
        for axis in range(3):
            for c in range(3):
                ahead, behind = forward[axis, c], backward[axis, c]
                octant = ahead if back[axis] > 0 else behind
                columns[axis, c] = (ahead + behind) / 2 if attempt == 0 else octant
        for axis in range(3):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            # The cross product of the two other columns: a plane that the third one rises from.
            along = np.float32(0)
            volume = np.float32(0)  # the same by each of the three
            for c in range(3):
                d, e = (c + 1) % 3, (c + 2) % 3
                normal = columns[a, d] * columns[b, e] - columns[a, e] * columns[b, d]
                along += apart[c] * normal
                volume += columns[axis, c] * normal
            back[axis] = along
        if abs(volume) < LEAST_VOLUME:
            return False
        for axis in range(3):
            back[axis] /= volume
    return bool(max(abs(back[0]), abs(back[1]), abs(back[2])) <= HALF)
