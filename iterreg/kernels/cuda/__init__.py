"""The kernels on an NVIDIA GPU, compiled by Triton, and plain torch where nothing is gained.

Names and signatures are those of :mod:`iterreg.kernels.reference`, which defines them. No program
adds to what another one adds to, and every sum has a fixed order, so one GPU gives the same bytes
each time. No value leaves the device. Where there is no GPU, Triton's interpreter
(``TRITON_INTERPRET=1``) runs the same kernels on tensors of the CPU.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from iterreg.kernels.cuda.launch import BLOCK, CHANNELS, TILE, grid_of, launch
from iterreg.kernels.cuda.programs import features, fields, sampling
from iterreg.kernels.cuda.solving import (
    add_laplacian,
    add_normal_jump,
    conjugate_gradient,
    laplacian,
)
from iterreg.kernels.cuda.unfolding import folding_voxels, folds_among, surroundings, unfold
from iterreg.kernels.reference import (
    edge_degree,
    mark_reached,
    normal_equations,
    outside_equations,
    sample_with_slope,
)
from iterreg.kernels.samples import SampleGroup, Samples
from iterreg.kernels.types import IndexMap, NormalEquations
from iterreg.to_device import on_device

__all__ = [
    "add_laplacian",
    "add_normal_jump",
    "apply_blocks",
    "block_majority",
    "cheapest",
    "conjugate_gradient",
    "cost_volume",
    "edge_degree",
    "folding_voxels",
    "folds_among",
    "laplacian",
    "mark_reached",
    "nearest_along",
    "normal_equations",
    "outside_equations",
    "region_slope",
    "sample_with_slope",
    "self_similarity",
    "squared_difference",
    "squared_differences",
    "squared_residuals",
    "surroundings",
    "unfold",
    "upsample",
]

WHOLE_BLOCK = (0, 1, 2, 1, 3, 4, 2, 4, 5)
"""The nine entries of a symmetric block among its six."""


def trouble_on(device: torch.device) -> str:
    """Why no program can be compiled and run on a device; empty if one can.

    Triton needs a C compiler where the device's driver is used for the first time, and a GPU that
    it knows.
    """
    v = torch.zeros(3, 1, 1, 2, device=device)
    v[:, 0, 0, 1] = 1
    edges, into = torch.ones_like(v), torch.zeros_like(v)
    try:
        energy = float(add_laplacian(v, edges, into))
    except Exception as error:  # Triton, its assembler and the driver raise errors of any kind
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return "" if energy == 3 else f"expected an energy of 3, got {energy}"


def apply_blocks(blocks: Tensor, v: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.apply_blocks`."""
    whole = torch.stack([blocks[k] for k in WHOLE_BLOCK])
    between = [1] * (v.ndim - blocks.ndim)
    return (whole.view(3, 3, *between, *blocks.shape[1:]) * v).sum(1)


def squared_difference(
    samples: Samples, u_mm: Tensor, mapping: IndexMap, into: NormalEquations
) -> Tensor:
    """See :func:`iterreg.kernels.reference.squared_difference`."""
    mapping = samples.own_map(mapping)
    channels = samples.fixed.shape[1]
    at_once = min(CHANNELS, triton.next_power_of_2(channels))
    block = TILE // 2 // max(at_once, 4)
    programs = grid_of(len(samples.voxels), block)
    partial = torch.empty(programs, dtype=torch.float64, device=u_mm.device)
    launch(
        sampling.squared_difference,
        programs,
        samples.fixed.contiguous(),
        samples.moving.contiguous(),
        samples.voxels.contiguous(),
        samples.weights,
        u_mm,
        *_parts(mapping),
        into.gradient,
        into.curvature,
        partial,
        float(samples.outside_weight),
        len(samples.voxels),
        u_mm[0].numel(),
        *u_mm.shape[2:],
        *samples.moving.shape[:3],
        C=channels,
        CP=at_once,
        WIDE=max(samples.moving.numel(), samples.fixed.numel()) >= 1 << 31,
        B=block,
    )
    return partial.sum()


def squared_differences(
    group: SampleGroup, u_mm: Tensor, mapping: IndexMap, into: NormalEquations
) -> Tensor:
    """See :func:`iterreg.kernels.reference.squared_differences`."""
    programs = grid_of(len(group.joined.voxels))
    partial = torch.empty(programs, dtype=torch.float64, device=u_mm.device)
    answers = (into.gradient, into.curvature, partial)
    operands = (*_joined(group, mapping), u_mm, *answers, *_sizes(group, u_mm))
    launch(sampling.squared_differences, programs, *operands, B=BLOCK)
    return partial.sum()


def squared_residuals(group: SampleGroup, u_mm: Tensor, mapping: IndexMap) -> Tensor:
    """See :func:`iterreg.kernels.reference.squared_residuals`."""
    out = torch.empty_like(group.joined.fixed)
    operands = (*_joined(group, mapping), u_mm, group.joined.order, out, *_sizes(group, u_mm))
    launch(sampling.squared_residuals, grid_of(len(group.joined.voxels)), *operands, B=BLOCK)
    return out


def _joined(group: SampleGroup, mapping: IndexMap) -> tuple[Tensor, ...]:
    """What the programs take of a group."""
    joined = group.joined
    return (
        joined.voxels,
        joined.starts,
        joined.terms,
        joined.fixed,
        joined.weights,
        joined.moving,
        joined.places,
        joined.sizes,
        joined.maps(mapping),
        joined.outside_weights,
    )


def _sizes(group: SampleGroup, u_mm: Tensor) -> tuple[int, ...]:
    return len(group.joined.voxels), u_mm[0].numel(), *u_mm.shape[2:]


def upsample(
    coarse: Tensor,
    coarse_labels: Tensor,
    fine_labels: Tensor,
    scale: Tensor,
    shift: Tensor,
    affinity: Tensor,
) -> Tensor:
    """See :func:`iterreg.kernels.reference.upsample`."""
    out = coarse.new_empty(coarse.shape[0], *fine_labels.shape)
    arrays = (coarse, coarse_labels, fine_labels, scale, shift, affinity)
    sizes = (fine_labels.numel(), *fine_labels.shape, *coarse.shape[1:], len(affinity))
    launch(
        fields.upsample,
        grid_of(fine_labels.numel()),
        *[t.contiguous() for t in arrays],
        out,
        *sizes,
        C=coarse.shape[0],
        B=BLOCK,
    )
    return out


def cost_volume(
    fixed: Tensor, moving: Tensor, nodes: Tensor, centre: Tensor, offsets: Tensor
) -> Tensor:
    """See :func:`iterreg.kernels.reference.cost_volume`."""
    channels = fixed.shape[-1]
    padded = triton.next_power_of_2(channels)
    block = TILE // padded
    out = fixed.new_empty(len(nodes), len(offsets))
    launch(
        features.cost_volume,
        (len(nodes), *grid_of(len(offsets), block)),
        *[t.contiguous() for t in (fixed, moving, nodes, centre, offsets)],
        out,
        len(offsets),
        *fixed.shape[1:3],
        *moving.shape[:3],
        C=channels,
        CP=padded,
        B=block,
    )
    return out


def cheapest(cost: Tensor, offsets_mm: Tensor, at_mm: Tensor, coupling: float) -> Tensor:
    """See :func:`iterreg.kernels.reference.cheapest`."""
    out = torch.empty(len(cost), dtype=torch.int64, device=cost.device)
    arrays = [t.contiguous() for t in (cost, offsets_mm, at_mm)]
    launch(features.cheapest, (len(cost),), *arrays, out, coupling, cost.shape[1], B=TILE)
    return out


def nearest_along(
    squared: Tensor, shapes: Sequence[tuple[int, ...]], axis: int, costs: Tensor
) -> Tensor:
    """See :func:`iterreg.kernels.reference.nearest_along`."""
    out = torch.empty_like(squared)
    starts = itertools.accumulate((math.prod(shape) for shape in shapes), initial=0)
    strides = [math.prod(shape[axis + 1 :]) for shape in shapes]
    rows = [(n[axis], s, first) for n, s, first in zip(shapes, strides, starts, strict=False)]
    boxes = on_device(torch.tensor(rows).T.contiguous(), squared.device)
    step = float(costs[1]), len(costs) - 1
    operands = (squared.contiguous(), out, boxes, len(rows), *step, squared.numel())
    launch(features.nearest_along, grid_of(squared.numel()), *operands, B=BLOCK)
    return out


def block_majority(labels: Tensor, axes: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """See :func:`iterreg.kernels.reference.block_majority`."""
    shape = [len(first) for first, _ in axes]
    out = torch.empty(shape, dtype=torch.int32, device=labels.device)
    widths = [shares.shape[1] for _, shares in axes]
    tables = [t.contiguous() for axis in axes for t in axis]
    sizes = (out.numel(), *shape[1:], *labels.shape, *widths)
    block = BLOCK
    programs = grid_of(out.numel(), block)
    launch(features.block_majority, programs, labels.contiguous(), *tables, out, *sizes, B=block)
    return out


def self_similarity(
    copies: Tensor,
    first: Tensor,
    second: Tensor,
    patch: Sequence[Tensor],
    clamp: tuple[float, float],
) -> Tensor:
    """See :func:`iterreg.kernels.reference.self_similarity`."""
    shape = copies.shape[1:]
    pairs, count = len(first), shape.numel()
    padded = triton.next_power_of_2(pairs)
    block = max(1, TILE // padded)
    programs = grid_of(count, block)
    distances = copies.new_empty(*shape, pairs)
    partial = torch.empty(programs, dtype=torch.float64, device=copies.device)
    constants = {"P": pairs, "PP": padded, "B": block}
    widths = dict(zip(("WZ", "WY", "WX"), map(len, patch), strict=True))
    weights = on_device(torch.cat([w.float() for w in patch]), copies.device)
    operands = (copies.contiguous(), first, second, weights, distances, partial)
    sizes = (count, *shape)
    launch(features.patch_distances, programs, *operands, *sizes, **widths, **constants)
    typical = partial.sum() / count
    ends = (distances, distances, typical, count, *clamp)
    launch(features.exponentiate, programs, *ends, **constants)
    return distances


def region_slope(
    labels: Tensor, voxels: Tensor, reach: int, sigma: float, spacing_zyx_mm: tuple[float, ...]
) -> Tensor:
    """See :func:`iterreg.kernels.reference.region_slope`."""
    out = torch.empty(3, len(voxels), device=labels.device)
    spacing = on_device(spacing_zyx_mm, out.device, out.dtype)
    operands = (labels.contiguous(), voxels, spacing, out, len(voxels), *labels.shape)
    decay = -1 / (2 * sigma**2)
    # An axis of one voxel has no neighbours along it.
    reaches = [0 if size == 1 else reach for size in labels.shape]
    constants = dict(zip(("RZ", "RY", "RX"), reaches, strict=True))
    launch(features.region_slope, grid_of(len(voxels)), *operands, decay, **constants, B=BLOCK)
    return out


def _parts(mapping: IndexMap) -> tuple[Tensor, Tensor, Tensor]:
    return mapping.linear.contiguous(), mapping.shift, mapping.from_mm.contiguous()
