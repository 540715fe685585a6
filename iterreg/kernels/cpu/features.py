"""Compiled loops of features, of the discrete search and of distance maps."""

from __future__ import annotations

import numpy as np

from iterreg.geometry import TOUCHING
from iterreg.kernels.cpu._compile import Array, Indices, Rows, Sums, compiled, inlined


@compiled
def cost_volume(
    begin: int,
    end: int,
    fixed: Array,
    moving: Array,
    nodes: Array,
    centre: Array,
    offsets: Array,
    out: Array,
) -> None:
    """See :func:`iterreg.kernels.reference.cost_volume`: the same, node by node."""
    nz, ny, nx, channels = moving.shape
    for n in range(begin, end):
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
def cheapest(
    begin: int, end: int, cost: Array, offsets_mm: Array, at_mm: Array, coupling: float, out: Array
) -> None:
    """See :func:`iterreg.kernels.reference.cheapest`: the same, node by node."""
    for n in range(begin, end):
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
def _subtract_least(distances: Array) -> float:
    """Subtract the least channel from each voxel of a row (X, pairs); return the sum of means."""
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
    begin: int,
    end: int,
    copies: Array,
    first: Indices,
    second: Indices,
    weights_z: Array,
    weights_y: Array,
    weights_x: Array,
    out: Array,
    row_sum: Sums,
) -> None:
    """Squared patch differences of pairs of copies, less the least; channels last.

    The sum over a patch is taken axis by axis. ``row_sum`` gets the sum of the mean channel over
    each row.
    """
    nz, ny, nx = copies.shape[1:]
    pairs = first.shape[0]
    rz, ry, rx = len(weights_z) // 2, len(weights_y) // 2, len(weights_x) // 2
    for z in range(begin, end):
        plane = np.empty((ny, nx), np.float32)
        line = np.empty(nx + 2 * rx, np.float32)
        patch = np.empty(nx, np.float32)
        for pair in range(pairs):
            one, other = copies[first[pair]], copies[second[pair]]
            plane[:] = 0
            for kz in range(len(weights_z)):
                weight = weights_z[kz]
                pz = min(max(z + kz - rz, 0), nz - 1)
                for y in range(ny):
                    a, b, total = one[pz, y], other[pz, y], plane[y]
                    for x in range(nx):
                        d = a[x] - b[x]
                        total[x] += weight * (d * d)
            for y in range(ny):
                middle = line[rx : rx + nx]
                middle[:] = 0
                for ky in range(len(weights_y)):
                    weight = weights_y[ky]
                    row = plane[min(max(y + ky - ry, 0), ny - 1)]
                    for x in range(nx):
                        middle[x] += weight * row[x]
                line[:rx] = middle[0]
                line[rx + nx :] = middle[nx - 1]
                patch[:] = 0
                for kx in range(len(weights_x)):
                    weight = weights_x[kx]
                    beside = line[kx : kx + nx]
                    for x in range(nx):
                        patch[x] += weight * beside[x]
                for x in range(nx):
                    out[z, y, x, pair] = patch[x]
        for y in range(ny):
            row_sum[z * ny + y] = _subtract_least(out[z, y])


@inlined
def _exp(value: np.float32) -> np.float32:
    """``exp(value)`` for ``value <= 0``, within a relative error of 1e-5.

    It is a series for a 64th of the value, squared six times. The library's function would be
    called number by number and leave the vector units idle.
    """
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
def nearest_along(
    begin: int, end: int, squared: Array, axis: int, costs: Array, out: Array
) -> None:
    """See :func:`iterreg.kernels.reference.nearest_along`: the same, row by row."""
    nz, ny, nx = squared.shape
    for row in range(begin, end):
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
def exponentiate(begin: int, end: int, distances: Array, low: float, high: float) -> None:
    """Set D to ``exp(-D / V)``, V being the mean channel clamped to (low, high)."""
    ny, nx, pairs = distances.shape[1:]
    for row in range(begin, end):
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


@compiled
def block_majority(
    begin: int,
    end: int,
    labels: Rows,
    count: int,
    first_z: Rows,
    shares_z: Array,
    first_y: Rows,
    shares_y: Array,
    first_x: Rows,
    shares_x: Array,
    out: Rows,
) -> None:
    """See :func:`iterreg.kernels.reference.block_majority`: a histogram a block."""
    ny, nx = out.shape[1:]
    for row in range(begin, end):
        z = row // ny
        y = row % ny
        filled = np.zeros(count, np.float32)
        for x in range(nx):
            winner, most = 0, np.float32(0)
            for i in range(shares_z.shape[1]):
                for j in range(shares_y.shape[1]):
                    side = shares_z[z, i] * shares_y[y, j]
                    if side == 0:
                        continue
                    line = labels[first_z[z] + i, first_y[y] + j]
                    for k in range(shares_x.shape[1]):
                        share = side * shares_x[x, k]
                        if share > 0:
                            filled[line[first_x[x] + k]] += share
            # The block again: its labels, the lower one first if two fill it equally.
            for i in range(shares_z.shape[1]):
                for j in range(shares_y.shape[1]):
                    if shares_z[z, i] * shares_y[y, j] == 0:
                        continue
                    line = labels[first_z[z] + i, first_y[y] + j]
                    for k in range(shares_x.shape[1]):
                        if shares_x[x, k] == 0:
                            continue
                        label = line[first_x[x] + k]
                        share = filled[label]
                        filled[label] = 0
                        more = share - most
                        if more > TOUCHING or (more > -TOUCHING and share > 0 and label < winner):
                            winner, most = label, share
            out[z, y, x] = winner


@compiled
def region_slope(
    begin: int, end: int, labels: Rows, voxels: Indices, shares: Array, spacing: Array, out: Array
) -> None:
    """See :func:`iterreg.kernels.reference.region_slope`; ``shares`` is the Gaussian, a cube."""
    nz, ny, nx = labels.shape
    reach = shares.shape[0] // 2
    rz, ry, rx = min(reach, nz - 1), min(reach, ny - 1), min(reach, nx - 1)
    rz, ry, rx = reach if rz else 0, reach if ry else 0, reach if rx else 0
    for e in range(begin, end):
        z = voxels[e] // (ny * nx)
        y = voxels[e] // nx % ny
        x = voxels[e] % nx
        own = labels[z, y, x]
        sz, sy, sx = np.float32(0), np.float32(0), np.float32(0)
        for dz in range(-rz, rz + 1):
            for dy in range(-ry, ry + 1):
                line = labels[min(max(z + dz, 0), nz - 1), min(max(y + dy, 0), ny - 1)]
                for dx in range(-rx, rx + 1):
                    if line[min(max(x + dx, 0), nx - 1)] == own:
                        share = shares[dz + reach, dy + reach, dx + reach]
                        sz += share * np.float32(dz)
                        sy += share * np.float32(dy)
                        sx += share * np.float32(dx)
        out[0, e] = sz / spacing[0]
        out[1, e] = sy / spacing[1]
        out[2, e] = sx / spacing[2]
