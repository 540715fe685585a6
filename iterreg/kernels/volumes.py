"""The kernels over whole volumes, in plain torch: their definition, and the fallback.

Features, distances, the discrete search, folds. See :mod:`iterreg.kernels.reference`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from iterreg.geometry import TOUCHING
from iterreg.kernels.simplices import moving_axes, not_positive, simplex_slabs
from iterreg.labels import label_counts
from iterreg.neighbourhood import pooled, weighted_sum


def folding_voxels(total_vox: Tensor) -> Tensor:
    """Where x + d(x) folds: a determinant of the voxel's simplices is <= 0 or NaN.

    Args:
        total_vox: (rank, *shape), displacement in voxels; rank 2 or 3.

    Returns:
        (*shape) bool.

    Source:
        The simplices are those of Liu et al.: see :mod:`iterreg.kernels.simplices`.
    """
    field = moving_axes(total_vox)
    result = torch.empty(field.shape[1:], dtype=torch.bool, device=field.device)
    for start, stop, determinants in simplex_slabs(field):
        result[start:stop] = not_positive(determinants, field)
    return result.reshape(total_vox.shape[1:])


def region_slope(
    labels: Tensor, voxels: Tensor, reach: int, sigma: float, spacing_zyx_mm: tuple[float, ...]
) -> Tensor:
    """The slope of each voxel's own region, smoothed by a Gaussian that is cut off.

    Args:
        labels: (Z, Y, X); beyond the grid its border goes on.
        voxels: (N,) int64, flat indices.
        reach: half-width of the box that is looked at, in voxels.
        sigma: of the Gaussian, in voxels.
        spacing_zyx_mm: of the grid.

    Returns:
        (3, N), toward the inside of the region.
    """
    _, ny, nx = labels.shape
    wide = pad(labels[None].float(), (reach,) * 6, mode="replicate")[0].to(labels)
    _, wy, wx = wide.shape
    index = torch.stack((voxels // (ny * nx), voxels // nx % ny, voxels % nx)) + reach
    at = (index[0] * wy + index[1]) * wx + index[2]
    flat = wide.flatten()
    own = flat[at]
    slope = torch.zeros(3, len(voxels), device=labels.device)
    steps = range(-reach, reach + 1)
    for z, y, x in itertools.product(*[steps if n > 1 else (0,) for n in labels.shape]):
        same = flat[at + (z * wy + y) * wx + x] == own
        share = math.exp(-(z * z + y * y + x * x) / (2 * sigma**2))
        for axis, (step, spacing) in enumerate(zip((z, y, x), spacing_zyx_mm, strict=True)):
            if step:
                slope[axis].add_(same, alpha=share * step / spacing)
    return slope


def cost_volume(
    fixed: Tensor, moving: Tensor, nodes: Tensor, centre: Tensor, offsets: Tensor
) -> Tensor:
    """Squared feature difference of each node at each offset around its place in the moving image.

    Args:
        fixed: (z, y, x, C) features.
        moving: (Z, Y, X, C) features.
        nodes: (N, 3) indices into ``fixed``.
        centre: (N, 3), the nodes' places in ``moving``.
        offsets: (K, 3) voxels of ``moving``; a place outside takes the features of the border.

    Returns:
        (N, K).
    """
    here = fixed[tuple(nodes.T)]
    last = centre.new_tensor(moving.shape[:3]) - 1
    out = fixed.new_empty(len(nodes), len(offsets))
    for k, offset in enumerate(offsets):
        at = torch.minimum((centre + offset).clamp(min=0), last)
        out[:, k] = (here - moving[tuple(at.T)]).square().sum(-1)
    return out


def cheapest(cost: Tensor, offsets_mm: Tensor, at_mm: Tensor, coupling: float) -> Tensor:
    """Index of the offset with the least ``cost + coupling |offset - at|^2``, node by node.

    Args:
        cost: (N, K).
        offsets_mm: (K, 3).
        at_mm: (N, 3), where each node would like to be.
        coupling: cost of a squared mm.

    Returns:
        (N,) int64.
    """
    chosen = []
    for part in range(0, len(cost), 8192):
        rows = slice(part, part + 8192)
        apart = (offsets_mm.unsqueeze(0) - at_mm[rows].unsqueeze(1)).square().sum(-1)
        chosen.append((cost[rows] + coupling * apart).argmin(1))
    return torch.cat(chosen)


def block_majority(labels: Tensor, axes: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The label that fills most of each block; the lower one if two fill it equally.

    Args:
        labels: (Z, Y, X) int32, none negative.
        axes: per axis the first voxel of each block (blocks,) int32, and the shares of the block
            that this voxel and the next ones fill (blocks, n); voxels past the end have share 0.

    Returns:
        (blocks of z, of y, of x) int32.
    """
    tables = []
    for (first, shares), n in zip(axes, labels.shape, strict=True):
        table = shares.new_zeros(len(first), n + shares.shape[1])
        at = first.long().unsqueeze(1) + torch.arange(shares.shape[1], device=first.device)
        tables.append(table.scatter_(1, at, shares)[:, :n])
    most = torch.zeros([len(table) for table in tables], device=labels.device)
    winner = torch.zeros_like(most, dtype=torch.int32)
    for value in label_counts(labels):
        share = pooled((labels == value).float().unsqueeze(0), tables)[0]
        wins = share > most + TOUCHING
        winner[wins] = value
        most = torch.where(wins, share, most)
    return winner


def nearest_along(
    squared: Tensor, shapes: Sequence[tuple[int, ...]], axis: int, costs: Tensor
) -> Tensor:
    """The least of ``squared`` plus ``costs[k]`` over the voxels k steps away along an axis.

    Args:
        squared: (S,), squared distances so far in boxes that follow each other.
        shapes: (z, y, x) of each box.
        axis: 0, 1 or 2.
        costs: (K,) on the CPU, the squared distance of k even steps for k = 0, 1, ...

    Returns:
        (S,).
    """
    parts = squared.split([math.prod(shape) for shape in shapes])
    boxes = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    return torch.cat([_nearest_along(box, axis, costs).flatten() for box in boxes])


def _nearest_along(squared: Tensor, axis: int, costs: Tensor) -> Tensor:
    n = squared.shape[axis]
    nearest = squared.clone()
    for k, cost in enumerate(costs[:n].tolist()[1:], 1):
        low, high = squared.narrow(axis, 0, n - k), squared.narrow(axis, k, n - k)
        ahead, behind = nearest.narrow(axis, 0, n - k), nearest.narrow(axis, k, n - k)
        torch.minimum(ahead, high + cost, out=ahead)
        torch.minimum(behind, low + cost, out=behind)
    return nearest


def self_similarity(
    copies: Tensor,
    first: Tensor,
    second: Tensor,
    patch: Sequence[Tensor],
    clamp: tuple[float, float],
) -> Tensor:
    """``exp(-D / V)`` of the patch distances D between pairs of shifted copies of a volume.

    D is taken less the least of its voxel, so the largest entry of a voxel is 1.

    Args:
        copies: (K, Z, Y, X).
        first, second: (P,) int64, the copies of each pair.
        patch: per axis (z, y, x), the weights of a patch's voxels; an odd number.
        clamp: V, the mean of D over the pairs, stays within these multiples of its image mean.

    Returns:
        (Z, Y, X, P).
    """
    distances = torch.stack(
        [
            weighted_sum((copies[a] - copies[b]).square(), patch)
            for a, b in zip(first.tolist(), second.tolist(), strict=True)
        ],
        -1,
    )
    distances -= distances.min(-1, keepdim=True).values
    variance = distances.mean(-1, keepdim=True)
    typical = variance.mean(dtype=torch.float64).to(variance.dtype).clamp(min=1e-12)
    variance = torch.minimum(variance.clamp(min=0), typical * clamp[1])
    return torch.exp(-distances / torch.maximum(variance, typical * clamp[0]))
